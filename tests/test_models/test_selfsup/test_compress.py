# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from offline_testing import build, offline_cfg, plain_kl, two_views

from mmmokd.utils.errors import ConfigError


@pytest.mark.parametrize('num_queues', [1, 2])
def test_two_steps_match_the_plain_formula(num_queues, tmp_path, float64):
    """Models alone, on each view by itself."""
    model = build(offline_cfg('CompRess', tmp_path, num_queues=num_queues))
    cnn, vit = model.branches['cnn'], model.branches['vit']
    assert cnn.ema == (num_queues == 2)
    queue = cnn.heads['kl']['vit'].queue
    for step in range(2):
        views = two_views(2, seed=step)
        feature = [cnn.student.extract(view).pooled for view in views]
        if num_queues == 1:
            feature = [cnn.student.projector.fc(x) for x in feature]
        anchors = [queue[name] for name in (('student',) * (num_queues - 1) + ('teacher',) * 2)[:2]]
        target = torch.cat([vit.teacher.extract(view).pooled for view in views])
        expected = plain_kl(torch.cat(feature), target, *anchors)
        losses = model(two_views(2, seed=step), mode='loss')
        assert list(losses) == ['cnn.loss_kl.vit']
        torch.testing.assert_close(losses['cnn.loss_kl.vit'], expected, rtol=1e-9, atol=0)
        with torch.no_grad():
            for param in cnn.student.parameters():
                param.add_(0.01)  # which the EMA teacher has not seen
        rows = queue['teacher'][4 * step : 4 * step + 4]
        torch.testing.assert_close(rows, target / target.norm(dim=1, keepdim=True))
        if num_queues == 2:
            keys = torch.cat([cnn.teacher.extract(view).pooled for view in views])
            rows = queue['student'][4 * step : 4 * step + 4]
            torch.testing.assert_close(rows, keys / keys.norm(dim=1, keepdim=True))


def test_without_an_ema_teacher_the_student_makes_the_anchors(tmp_path):
    model = build(offline_cfg('CompRess', tmp_path, student=dict(ema=False)))
    views = two_views(2)
    model(views, mode='loss')
    own = model.branches['cnn'].student.extract(torch.cat(views)).pooled
    rows = model.branches['cnn'].heads['kl']['vit'].queue['student'][:4]
    torch.testing.assert_close(rows, own / own.norm(dim=1, keepdim=True))


def test_refuses_three_queues(tmp_path):
    with pytest.raises(ConfigError, match='num_queues of CompRess must be 1 or 2, but got 3'):
        build(offline_cfg('CompRess', tmp_path, num_queues=3))
