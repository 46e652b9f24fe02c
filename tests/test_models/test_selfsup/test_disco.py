# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from offline_testing import build, offline_cfg, plain_info_nce, two_views, unit

from mmmokd.utils.errors import ConfigError


def test_step_matches_the_plain_formula(tmp_path, float64):
    """MoCo v2 of the student's first view and its EMA teacher's second, and 32 |s - t|^2 of both."""
    model = build(offline_cfg('DisCo', tmp_path))
    cnn, vit = model.branches['cnn'], model.branches['vit']
    with torch.no_grad():
        for param in cnn.teacher.parameters():
            param.mul_(0.9)
    (first, second), queue = two_views(3), cnn.heads['co'].queue
    negatives = queue['teacher']

    def embed(network, view):
        return network.projector.mlp(network.extract(view).pooled)

    queries, keys = embed(cnn.student, first), embed(cnn.teacher, second)
    pairs = zip(queries, keys, strict=True)
    contrast = sum(plain_info_nce(q, k, negatives, 0.2) for q, k in pairs) / 3
    distances = [
        (unit(s) - unit(t)).square().sum()
        for view in (first, second)
        for s, t in zip(embed(cnn.student, view), vit.teacher.extract(view).pooled, strict=True)
    ]
    losses = model(two_views(3), mode='loss')
    expected = {'cnn.loss_co': contrast, 'cnn.loss_dis.vit': 32 * sum(distances) / 3}
    torch.testing.assert_close(losses, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(queue['teacher'][:3], keys / keys.norm(dim=1, keepdim=True))


def test_ema_teacher_sees_the_second_view_alone(tmp_path):
    model, seen = build(offline_cfg('DisCo', tmp_path)), []
    for branch in model.branches.values():
        branch.teacher.backbone.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    model(two_views(4), mode='loss')
    assert seen == [4, 8]


def test_needs_two_views(tmp_path):
    with pytest.raises(ConfigError, match='DisCo compares two global views, .* is 1'):
        build(offline_cfg('DisCo', tmp_path, num_global_views=1))
