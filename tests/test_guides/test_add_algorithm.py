# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The code of docs/en/advanced_guides/add_algorithm.md: an algorithm on BaseMultiBranch."""

import torch
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mokd_testing import BACKBONES, random_views, runner_cfg, train

# [start-algorithm]
from torch import Tensor

from mmmokd.models.selfsup import BaseMultiBranch
from mmmokd.registry import MODELS

MLP = dict(type='mmpretrain.NonLinearNeck', num_layers=2, with_avg_pool=False)
PREDICT = dict(
    type='mmmokd.ViewPairHead',
    reads='projector',
    head=dict(
        type='mmpretrain.LatentPredictHead',
        predictor=dict(MLP, in_channels=64, hid_channels=16, out_channels=64),
        loss=dict(type='mmpretrain.CosineSimilarityLoss'),
    ),
)


@MODELS.register_module()
class MutualSimSiam(BaseMultiBranch):
    """SimSiam (arXiv 2011.10566) for several models, each of which predicts the others as well.

    There is no EMA teacher: a target is what a student gives, without gradient.
    """

    necks = dict(projector=dict(MLP, hid_channels=64, out_channels=64))
    terms = dict(
        own=dict(PREDICT, teacher='none'),
        mutual=dict(PREDICT, teacher='peers'),
    )

    def loss(self, inputs: list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        views = self.split_views(inputs, data_samples)
        students = {name: b.forward_student(views) for name, b in self.branches.items()}
        targets = {name: out.detach(len(views.globals)) for name, out in students.items()}
        losses = {}
        for name, term, peer, head in self.heads_by_name():
            key = f'{name}.loss_{term}' + (f'.{peer}' if peer else '')
            losses[key] = head.loss(students[name], targets[peer or name], views)
        return losses


# [end-algorithm]


def config():
    # [start-config]
    model = dict(
        type='mmmokd.MutualSimSiam',
        global_size=32,
        branches=dict(
            cnn=dict(backbone=dict(BACKBONES['cnn']), ema=False, cross_weight=1.0),
            vit=dict(backbone=dict(BACKBONES['vit']), ema=False, cross_weight=0.1),
        ),
    )
    # [end-config]
    return dict(model, data_preprocessor=dict(type='mmengine.BaseDataPreprocessor'))


class Start(Hook):
    """Keeps the weights that the run begins with."""

    def before_train(self, runner):
        self.params = {k: p.detach().clone() for k, p in runner.model.named_parameters()}


def plain_loss(head, student, target):
    """Negative cosine between each prediction and the other view's target, both directions."""
    total = 0.0
    for v, g in ((0, 1), (1, 0)):
        predicted = head.head.predictor([student[v]])[0]
        for x, y in zip(predicted, target[g].detach(), strict=True):
            total -= (x @ y) / (x.norm() * y.norm()) / len(predicted) / 2
    return head.loss_weight * total


def test_losses(float64):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(config())
        model.init_weights()
    views = random_views(3, (32, 32))
    losses = model(views, mode='loss')
    outputs = {}
    for name, branch in model.branches.items():
        assert branch.teacher is None
        pooled = branch.student.extract(torch.cat(views)).pooled
        outputs[name] = branch.student.projector((pooled,))[-1].unflatten(0, (2, 3))
    expected = {}
    for name, peer in (('cnn', 'vit'), ('vit', 'cnn')):
        heads = model.branches[name].heads
        expected[f'{name}.loss_own'] = plain_loss(heads.own, outputs[name], outputs[name])
        expected[f'{name}.loss_mutual.{peer}'] = plain_loss(
            heads.mutual[peer], outputs[name], outputs[peer]
        )
    assert losses.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value, msg=key)


def test_it_trains(tmp_path):
    """All of it, predictors too; there is no teacher to move and no prototype to freeze."""
    # [start-optimizer]
    optim_wrapper = dict(
        constructor='mmmokd.BranchOptimWrapperConstructor',
        branches=dict(
            cnn=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
            vit=dict(optimizer=dict(type='AdamW', lr=1e-3)),
        ),
    )
    # [end-optimizer]
    cfg = runner_cfg(tmp_path, length=8, max_epochs=1, model=config(), optim_wrapper=optim_wrapper)
    cfg.param_scheduler = None
    start = Start()
    model = train(cfg, start).model
    moved = {k for k, p in model.named_parameters() if not torch.equal(p, start.params[k])}
    assert moved == set(start.params)
    assert any('mutual.vit.head.predictor' in key for key in moved)
    assert not any('teacher' in key for key in model.state_dict())
