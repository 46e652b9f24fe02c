# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from mmengine.registry import DefaultScope
from mokd_testing import branch_cfg, copy_of, random_views, with_batch_norm
from torch import nn

from mmmokd.models import MOKD
from mmmokd.models.branches import Branch
from mmmokd.models.branches.terms import resolve_heads
from mmmokd.structures import Views


def build(cfg, peers=None, heads=None, **kwargs):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        heads = resolve_heads(MOKD.terms, heads, bool(peers))
        branch = Branch(**cfg, heads=heads, peers=peers, **kwargs)
    branch.init_weights()
    return branch


def norms(module):
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]


def statistics(module):
    return {k: v.clone() for k, v in module.state_dict().items() if 'running' in k}


@pytest.mark.parametrize('kind', ['cnn', 'vit', 'next'])
def test_teacher_is_a_copy(kind):
    branch = build(branch_cfg(kind, backbone=dict(drop_path_rate=0.5) if kind != 'cnn' else {}))
    student, teacher = branch.student.state_dict(), branch.teacher.state_dict()
    assert student.keys() == teacher.keys()
    for key, value in student.items():
        assert torch.equal(value, teacher[key]), key
        assert value.data_ptr() != teacher[key].data_ptr()
    assert not any(param.requires_grad for param in branch.teacher.parameters())
    drops = [m.drop_prob for m in branch.student.modules() if type(m).__name__ == 'DropPath']
    if kind != 'cnn':
        assert max(drops) == pytest.approx(0.5)
    assert not any(m.drop_prob for m in branch.teacher.modules() if type(m).__name__ == 'DropPath')


def test_dropout_of_the_student_alone():
    """The teacher's logits are the same in each call, the student's are not."""
    branch = build(branch_cfg('vit', backbone=dict(drop_path_rate=0.9)))
    views = random_views()
    first, second = (branch.forward_student(Views(views[:2], views[2:])) for _ in range(2))
    assert not torch.equal(first['projector'], second['projector'])
    first, second = (branch.forward_teacher(Views(views[:2], [])) for _ in range(2))
    for neck in ('projector', 'search_head'):
        assert torch.equal(first[neck], second[neck])


def test_teacher_stays_in_training_mode():
    branch = build(with_batch_norm())
    assert all(m.training for m in branch.teacher.modules())
    branch.eval()
    assert not any(m.training for m in branch.teacher.modules())
    branch.train()
    assert all(m.training for m in branch.teacher.modules())


def test_batch_norms_of_the_teacher(float64):
    """They use, and keep statistics of, the teacher's own batch: all global views in one."""
    branch = build(with_batch_norm())
    for norm in norms(branch.teacher):
        norm.running_mean.fill_(0.3)
    student = statistics(branch.student)
    plain = copy.deepcopy(branch.teacher.backbone)
    views = random_views(batch=3)
    found = branch.forward_teacher(Views(views[:2], []))
    (maps,) = plain(torch.cat(views[:2]))

    torch.testing.assert_close(
        found['projector'].flatten(0, 1), branch.teacher.projector(maps.mean(dim=(2, 3)))
    )
    expected = statistics(plain)
    assert expected.keys() == statistics(branch.teacher.backbone).keys() and expected
    for key, value in statistics(branch.teacher.backbone).items():
        torch.testing.assert_close(value, expected[key], msg=key)
    for key, value in statistics(branch.student).items():
        assert torch.equal(value, student[key]), key
    assert all(norm.num_batches_tracked == 1 for norm in norms(branch.teacher))
    assert all(norm.num_batches_tracked == 0 for norm in norms(branch.student))
    # The first norm's mean over 2 B images.
    first = plain.conv1(torch.cat(views[:2])).mean(dim=(0, 2, 3))
    torch.testing.assert_close(norms(branch.teacher)[0].running_mean, 0.9 * 0.3 + 0.1 * first)


def test_batch_norms_of_the_student(float64):
    """Global views are one batch, local views of one size another."""
    branch = build(with_batch_norm())
    teacher = copy_of(branch.teacher.state_dict())
    plain = copy.deepcopy(branch.student.backbone)
    views = random_views(batch=3, sizes=(32, 32, 32, 24, 24, 16))
    found = branch.forward_student(Views(views[:2], views[2:]))
    pooled = [
        plain(torch.cat(group))[-1].mean(dim=(2, 3))
        for group in (views[:2], views[2:3], views[3:5], views[5:])
    ]
    expected = branch.student.projector(torch.cat(pooled))
    torch.testing.assert_close(found['projector'], expected.unflatten(0, (6, 3)))
    for key, value in statistics(branch.student.backbone).items():
        torch.testing.assert_close(value, statistics(plain)[key], msg=key)
    assert all(norm.num_batches_tracked == 4 for norm in norms(branch.student))
    assert all(torch.equal(v, teacher[k]) for k, v in branch.teacher.state_dict().items())


def test_outputs_in_the_order_of_the_views(float64):
    """Views of several sizes, in any order, as if each had gone through alone."""
    branch = build(branch_cfg('next'))
    views = random_views(batch=2, sizes=(32, 32, 16, 24, 24, 16))
    found = branch.forward_student(Views(views[:2], views[2:]))
    names = ('pooled', 'projector', 'search_head')
    for v, view in enumerate(views):
        alone = branch.forward_student(Views([view], []))
        for name in names:
            torch.testing.assert_close(found[name][v], alone[name][0], rtol=1e-11, atol=1e-12)
    assert all(found[name].requires_grad for name in names)
    teacher = branch.forward_teacher(Views(views[:2], []))
    assert not any(teacher[name].requires_grad for name in names)


def test_branch_without_an_ema_teacher(float64):
    """The student's own pass is the target, detached."""
    branch = build(branch_cfg('cnn'), ema=False)
    assert branch.teacher is None and not [k for k in branch.state_dict() if 'teacher' in k]
    views = random_views(sizes=(32, 32, 32, 24))
    views = Views(views[:2], views[2:])
    passes = []
    branch.student.backbone.register_forward_hook(lambda *args: passes.append(1))
    student = branch.forward_student(views)
    teacher = branch.forward_teacher(views, student)
    for name in ('projector', 'search_head', 'pooled'):
        assert torch.equal(teacher[name], student[name][:2])
        assert student[name].requires_grad and not teacher[name].requires_grad
    (embedded,) = teacher.embedded('search_head')
    assert torch.equal(embedded, student.embedded('search_head')[0]) and not embedded.requires_grad
    assert len(passes) == 3  # of the student's three groups
    assert branch.network('teacher') is branch.student
    branch.reset_teacher()


@pytest.mark.parametrize('ema', [True, False])
def test_branch_that_sees_some_views(ema, float64):
    """As if there were no others, also for its teacher."""
    views = random_views(sizes=(32, 32, 32, 24, 24))
    branch = build(with_batch_norm(), ema=ema, views=[1, 2, 4])
    whole = build(with_batch_norm(), ema=ema)
    seen, own = Views(views[:3], views[3:]), Views(views[1:3], views[4:])
    student, expected = branch.forward_student(seen), whole.forward_student(own)
    assert torch.equal(student['projector'], expected['projector'])
    teacher, target = branch.forward_teacher(seen, student), whole.forward_teacher(own, expected)
    assert torch.equal(teacher['projector'], target['projector'])
    assert student['pooled'].shape[:2] == (3, 2) and teacher['pooled'].shape[:2] == (2, 2)


def test_reset_teacher():
    branch = build(with_batch_norm())
    with torch.no_grad():
        for tensor in branch.student.state_dict().values():
            tensor.add_(1)
    branch.reset_teacher()
    student = branch.student.state_dict()
    assert all(torch.equal(v, student[k]) for k, v in branch.teacher.state_dict().items())
    assert not any(param.requires_grad for param in branch.teacher.parameters())


def test_weights_are_initialized_once():
    branch = build(branch_cfg('vit'))
    before = copy_of(branch.state_dict())
    branch.init_weights()
    assert all(torch.equal(value, before[key]) for key, value in branch.state_dict().items())


@pytest.mark.parametrize(('part', 'name'), [('projector', 'DINOProjector'),
                                            ('search_head', 'TransformerSearchHead')])  # fmt: skip
def test_channels_that_do_not_fit(part, name):
    cfg = branch_cfg('cnn')
    cfg[part]['in_channels'] = 17
    branch = build(cfg)
    with pytest.raises(
        ValueError,
        match=f'the backbone ResNet_CIFAR gives 16 channels, but {name} .* in_channels=17',
    ):
        branch.forward_teacher(Views(random_views()[:2], []))
