# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Terms of MCL by themselves; tests/test_models/test_selfsup/test_mcl.py compares them with loops."""

import pytest
import torch

from mmmokd.models import ContrastiveHead, SoftContrastiveHead
from mmmokd.models.heads.contrastive_head import Similarities
from mmmokd.models.losses import contrastive_cosines, info_nce, similarity_kl
from mmmokd.structures import NetworkOutput


class Output(NetworkOutput):
    """Has given embeddings."""

    def __init__(self, embeddings):
        super().__init__(None, [], embeddings.shape[1])
        self._kept['projector'] = embeddings


def test_each_pair_of_branches_is_computed_once(float64):
    """Two views are queries, each with the other's key."""
    torch.manual_seed(0)
    outputs = {name: (Output(torch.randn(2, 3, 4)), Output(torch.randn(2, 3, 4))) for name in 'ab'}
    queues = {name: torch.nn.functional.normalize(torch.randn(5, 4), dim=1) for name in 'ab'}
    similarities = Similarities([(0, 1), (1, 0)])
    for name, (student, teacher) in outputs.items():
        similarities.add(name, student, teacher, 'projector', queues[name])

    def plain(i, j):
        own, keys = outputs[i][0]['projector'], outputs[j][1]['projector']
        return contrastive_cosines(own, keys.flip(0), queues[j])

    (student, own_teacher), (_, teacher) = outputs['a'], outputs['b']
    vcl, icl = ContrastiveHead(), ContrastiveHead(teacher='peers', loss_weight=0.5)
    soft, mutual = SoftContrastiveHead(), SoftContrastiveHead(interactive=True, softening=2.0)
    for head, found, expected in (
        (vcl, vcl.loss(student, own_teacher, None), info_nce(plain('a', 'a'), 0.07)),
        (icl, icl.loss(student, teacher, None), 0.5 * info_nce(plain('a', 'b'), 0.07)),
        (soft, soft.loss(student, teacher, None),
         similarity_kl(plain('a', 'a'), plain('b', 'b'), 0.07, 3.0)),
        (mutual, mutual.loss(student, teacher, None),
         similarity_kl(plain('a', 'b'), plain('b', 'a'), 0.07, 2.0)),
    ):  # fmt: skip
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0, msg=type(head).__name__)
    assert similarities.cosines('a', 'b') is similarities.cosines('a', 'b')
    hits = (plain('a', 'b').argmax(dim=-1) == 0).double().mean()
    assert icl.metrics['accuracy'].item() == pytest.approx(100 * hits.item())


@pytest.mark.parametrize(
    ('head', 'settings', 'message'),
    [
        (ContrastiveHead, dict(temperature=0), 'temperature of ContrastiveHead must be a positive'),
        (ContrastiveHead, dict(teacher='none'), 'ContrastiveHead learns from a teacher'),
        (SoftContrastiveHead, dict(teacher='own'), "teacher must be 'peers', but got 'own'"),
        (SoftContrastiveHead, dict(softening=0), 'softening of SoftContrastiveHead must be a pos'),
    ],
)
def test_arguments_that_cannot_be(head, settings, message):
    with pytest.raises(ValueError, match=message):
        head(**settings)


def test_terms_outside_of_mcl():
    output = Output(torch.randn(2, 3, 4))
    with pytest.raises(ValueError, match="ContrastiveHead with reads='projector' .* mmmokd.MCL"):
        ContrastiveHead().loss(output, output, None)
