# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Students of a frozen teacher: what they read of it, how wide their necks become, what is refused."""

import copy

import pytest
import torch
from mokd_testing import BACKBONES, CHANNELS, WIDTH
from offline_testing import build, offline_cfg, save_teacher, two_views

from mmmokd.utils.errors import ConfigError

MOCO = dict(type='mmpretrain.MoCoV2Neck', hid_channels=9, out_channels=7, with_avg_pool=False)


def losses_of(model):
    return list(model(two_views(4), mode='loss'))


@pytest.mark.parametrize('algorithm', ['DisCo', 'BINGO'])
def test_student_fits_the_pooled_features(algorithm, tmp_path):
    """A teacher without a head gives these; the order of the branches is the config's."""
    model = build(offline_cfg(algorithm, tmp_path))
    assert list(model.branches) == ['cnn', 'vit']
    assert model.branches['cnn'].student.width('projector') == WIDTH
    assert model.branches['cnn'].ema == (algorithm == 'DisCo')
    assert not [key for key in model.state_dict() if 'vit.teacher.projector' in key]
    assert list(model.branches['cnn'].student.parameters())[0].requires_grad


def test_teacher_with_a_head_gives_its_embedding(tmp_path):
    """Of another kind than the student's, from its own part of a file."""
    shapes = {'0.weight': (9, WIDTH), '0.bias': (9,), '2.weight': (7, 9), '2.bias': (7,)}
    weights = {f'neck.mlp.{name}': torch.randn(shape) for name, shape in shapes.items()}
    torch.save(dict(state_dict=weights), tmp_path / 'neck.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'neck.pth'), prefix='neck.')
    head = dict(MOCO, in_channels=WIDTH, init_cfg=init)
    cfg = offline_cfg('CompRess', tmp_path, teacher=dict(projector=head), num_queues=1)
    model = build(cfg)
    student = model.branches['cnn'].student.projector
    assert type(student).__name__ == 'LinearNeck' and student.fc.weight.shape == (
        7,
        CHANNELS['cnn'],
    )
    assert losses_of(model) == ['cnn.loss_kl.vit']
    torch.testing.assert_close(
        model.branches['vit'].teacher.projector.mlp[0].weight, weights['neck.mlp.0.weight']
    )


def test_several_students_and_none_of_each_other(tmp_path):
    cfg = offline_cfg('DisCo', tmp_path)
    cfg['branches']['next'] = dict(backbone=BACKBONES['next'], cross_weight=0.5)
    model = build(cfg)
    assert losses_of(model) == [
        'cnn.loss_co',
        'cnn.loss_dis.vit',
        'next.loss_co',
        'next.loss_dis.vit',
    ]
    assert model.branches['next'].heads['dis']['vit'].loss_weight == 0.5


def test_student_of_a_frozen_backbone(tmp_path):
    """It teaches nobody: it learns its neck from the frozen branch alone."""
    cfg = offline_cfg('DisCo', tmp_path)
    cfg['branches']['head'] = dict(backbone=cfg['branches']['vit']['backbone'], frozen='backbone')
    model = build(cfg)
    assert losses_of(model) == [
        f'{name}.loss_{term}' for name in ('cnn', 'head') for term in ('co', 'dis.vit')
    ]
    learning = [name for name, p in model.branches['head'].named_parameters() if p.requires_grad]
    assert learning and all(name.startswith('student.projector.') for name in learning)


def test_views_that_nothing_reads_are_refused(tmp_path):
    model = build(offline_cfg('CompRess', tmp_path))
    with pytest.raises(
        ConfigError, match='CompRess compares global views alone, .*=2, .*makes 3 v'
    ):
        model([*two_views(4), torch.zeros(4, 3, 24, 24)], mode='loss')


def test_random_teacher_is_refused(tmp_path):
    cfg = offline_cfg('CompRess', tmp_path)
    del cfg['branches']['vit']['backbone']['init_cfg']
    with pytest.raises(ConfigError, match='branch vit: the frozen branch would teach noise'):
        losses_of(build(cfg))


def test_missing_checkpoint_is_named(tmp_path):
    cfg = offline_cfg('CompRess', tmp_path)
    cfg['branches']['vit']['backbone']['init_cfg'] = dict(
        type='Pretrained', checkpoint='work_dirs/none/epoch_1.pth'
    )
    with pytest.raises(FileNotFoundError, match=r'work_dirs/none/epoch_1\.pth'):
        build(cfg)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda b: b['vit'].pop('frozen'), 'no branch is one: set frozen=True on one of cnn, vit'),
        (
            lambda b: b['cnn'].update(projector=dict(out_channels=5)),
            "branch cnn.*student's projector, of 5 .*teacher's pooled, of 24: .*out_channels=24",
        ),
        (
            lambda b: b.update(big=dict(copy.deepcopy(b['vit']), projector=MOCO)),
            'heads.dis reads projector of teachers of which some have none',
        ),
        (
            lambda b: b['cnn'].update(views=[0, 1]),
            r'branch cnn: DisCo takes no views=\[0, 1\] of a branch: students and frozen teachers see',
        ),
        (
            lambda b: b['cnn'].update(cross_weight={}),
            'branch cnn.*heads.dis|no other branch learns',
        ),
    ],
)
def test_refuses(change, message, tmp_path):
    cfg = offline_cfg('DisCo', tmp_path)
    change(cfg['branches'])
    with pytest.raises(ConfigError, match=message):
        build(cfg)


def test_teachers_of_different_widths_are_refused(tmp_path):
    other = dict(BACKBONES['cnn'], init_cfg=save_teacher(tmp_path))
    cfg = offline_cfg('BINGO', tmp_path)
    cfg['branches']['other'] = dict(backbone=other, frozen=True)
    with pytest.raises(ConfigError, match='branch cnn: its projector .*differ in their channels'):
        build(cfg)


def test_another_student_may_be_a_teacher(tmp_path):
    """Named in ``cross_weight``; of it the projector is read, which it trains as well."""
    cfg = offline_cfg('DisCo', tmp_path, student=dict(cross_weight=dict(next=1.0)))
    cfg['branches']['next'] = dict(backbone=BACKBONES['next'])
    cfg['branches']['cnn']['projector'] = dict(out_channels=WIDTH)
    model = build(cfg)
    assert model.branches['cnn'].heads['dis']['next'].target_reads == 'projector'
    assert model.branches['next'].heads['dis']['vit'].target_reads == 'pooled'
