# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The code of docs/en/advanced_guides/add_loss_term.md: a new loss term, used by config."""

import torch

# [start-head]
import torch.nn.functional as F
from mokd_testing import branch_cfg, build_mokd, model_cfg, random_views, runner_cfg, train
from torch import Tensor

from mmmokd.models.heads import BranchHead
from mmmokd.models.losses import at_least_float32
from mmmokd.registry import MODELS
from mmmokd.structures import NetworkOutput, Views


@MODELS.register_module()
class SimilarityHead(BranchHead):
    """The images of a batch shall be as similar to each other as the teacher finds them.

    Features are compared within a model, so that models of any widths can teach each other.
    """

    def __init__(
        self,
        reads: str = 'pooled',
        teacher: str = 'peers',
        temperature: float = 0.1,
        loss_weight: float = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(reads, teacher, loss_weight, init_cfg)
        self.temperature = temperature

    def loss(self, student: NetworkOutput, teacher: NetworkOutput, views: Views) -> Tensor:
        targets = self.log_similarities(teacher[self.reads])  # (G, B, B)
        log_probs = self.log_similarities(student[self.reads][: len(targets)])
        divergence = F.kl_div(log_probs, targets, log_target=True, reduction='none')
        return self.loss_weight * divergence.sum(dim=-1).mean()

    def log_similarities(self, features: Tensor) -> Tensor:
        features = F.normalize(at_least_float32(features), dim=-1)  # (G, B, C)
        similarities = features @ features.transpose(1, 2) / self.temperature
        return F.log_softmax(similarities, dim=-1)


# [end-head]


def config():
    # [start-config]
    similar = dict(type='mmmokd.SimilarityHead', temperature=0.2)
    branches = dict(
        cnn=dict(cross_weight=0.5, heads=dict(similar=similar)),
        vit=dict(heads=dict(similar=similar, st=None)),
    )
    # [end-config]
    return {kind: branch_cfg(kind, **cfg) for kind, cfg in branches.items()}


def test_formula(float64):
    # [start-formula]
    torch.manual_seed(0)
    head = SimilarityHead(temperature=0.2, loss_weight=0.5)
    student, teacher = torch.randn(4, 3, 8), torch.randn(2, 3, 5)
    loss = head.loss(dict(pooled=student), dict(pooled=teacher), Views([], []))

    expected = 0.0
    for g in range(2):
        probs = []
        for features in (teacher[g], student[g]):
            x = features / features.norm(dim=1, keepdim=True)
            similarities = (x @ x.T / 0.2).exp()
            probs.append(similarities / similarities.sum(dim=1, keepdim=True))
        expected += 0.5 * (probs[0] * (probs[0] / probs[1]).log()).sum(dim=1).mean() / 2
    # [end-formula]
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_it_is_a_term_of_the_model(tmp_path):
    model = build_mokd(config())
    losses = model(random_views(batch=4), mode='loss')
    similar = {key for key in losses if 'similar' in key}
    assert similar == {'cnn.loss_similar.vit', 'vit.loss_similar.cnn'}
    assert model.branches.cnn.heads.similar.vit.loss_weight == 0.5  # its cross_weight

    cfg = runner_cfg(tmp_path, length=4, branches=('cnn', 'vit'), max_epochs=1)
    cfg.model = model_cfg(config())
    logged = train(cfg).message_hub.log_scalars
    assert {f'train/{key}' for key in losses} <= set(logged)
    assert logged['train/cnn.loss_similar.vit'].current() > 0
