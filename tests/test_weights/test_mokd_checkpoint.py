# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Checkpoints with all kinds of branches: trained, frozen, without a teacher, with further necks."""

import pytest
import torch
from mmengine.config import Config
from mokd_testing import branch_cfg, build_mokd, model_cfg
from weights_testing import build

from mmmokd.transfer.downstream import plan_transfer, random_initialization
from mmmokd.transfer.export import export_branch
from mmmokd.weights import (
    PretrainedInit,
    choose_branch,
    choose_network,
    describe_contents,
    list_branches,
    read_checkpoint,
    read_weights,
    to_official,
)

MOCO = dict(
    type='mmpretrain.NonLinearNeck',
    in_channels=16,
    hid_channels=8,
    out_channels=4,
    with_avg_pool=False,
)
READS_MOCO = dict(type='mmmokd.DistillationHead', reads='moco', teacher='own')
BRANCHES = dict(
    cnn=branch_cfg('cnn', moco=MOCO, heads=dict(moco=READS_MOCO), cross_weight=dict(vit=1.0)),
    vit=branch_cfg('vit', frozen=True),
    next=branch_cfg('next', ema=False, heads=dict(st=None), cross_weight=dict(vit=0.5)),
)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """A checkpoint's path and the model in it."""
    path = tmp_path_factory.mktemp('mokd') / 'epoch_1.pth'
    model = build_mokd(BRANCHES)
    cfg = Config(dict(model=model_cfg(BRANCHES)))
    torch.save(dict(state_dict=model.state_dict(), meta=dict(cfg=cfg.pretty_text)), path)
    return path, model


def test_the_networks_of_every_branch(saved):
    file = read_weights(saved[0])
    assert list_branches(file.weights) == dict(
        cnn=['student', 'teacher'], vit=['teacher'], next=['student']
    )
    assert [choose_network(file, name) for name in BRANCHES] == ['teacher', 'teacher', 'student']
    assert choose_network(file, 'cnn', 'student') == 'student'
    for branch, network, only in (('vit', 'student', 'teacher'), ('next', 'teacher', 'student')):
        with pytest.raises(ValueError, match=f'{branch}.* has no {network}, only a {only}'):
            choose_network(file, branch, network)
    text = 'cnn (student, teacher), vit (teacher), next (student): give, for example, the prefix '
    assert text + "'branches.cnn.teacher.backbone.'" in describe_contents(file)
    with pytest.raises(ValueError, match="no branch 'resnet' in .* holds cnn, vit, next"):
        choose_branch(file, 'resnet')


@pytest.mark.parametrize('branch', list(BRANCHES))
def test_each_is_exported(saved, tmp_path, branch):
    path, model = saved
    network = 'student' if branch == 'next' else 'teacher'
    lines = export_branch(path, tmp_path / 'out.pth', 'mmpretrain', branch)
    assert lines[0].startswith(f'branch {branch!r} ({network}) of {path} -> ')
    found = read_checkpoint(tmp_path / 'out.pth')
    assert found['meta']['network'] == network
    own = getattr(model.branches[branch], network).backbone.state_dict()
    assert found['state_dict'].keys() == {f'backbone.{key}' for key in own}
    assert all(torch.equal(found['state_dict'][f'backbone.{key}'], own[key]) for key in own)
    wrong = 'teacher' if network == 'student' else 'student'
    if branch != 'cnn':
        with pytest.raises(ValueError, match=f'has no {wrong}, only a {network}'):
            export_branch(path, tmp_path / 'no.pth', 'mmpretrain', branch, network=wrong)


@pytest.mark.parametrize(
    'part',
    ['vit.teacher.backbone', 'next.student.backbone', 'cnn.student.moco', 'vit.teacher.projector'],
)
def test_each_part_is_loaded_by_its_prefix(saved, part):
    path, model = saved
    branch, network, name = part.split('.')
    module = build(
        dict(BRANCHES[branch][name], in_channels=BRANCHES[branch][name].get('in_channels', 3))
    )
    PretrainedInit(str(path), prefix=f'branches.{part}.')(module)
    own = model.branches[branch].network(network).get_submodule(name).state_dict()
    found = module.state_dict()
    assert found.keys() == own.keys()
    assert all(torch.equal(found[key], own[key]) for key in own)


def test_a_missing_network_is_named(saved):
    backbone = build(dict(BRANCHES['vit']['backbone']))
    with pytest.raises(ValueError, match=r'no weights below .*vit.student.* vit \(teacher\), next'):
        PretrainedInit(str(saved[0]), prefix='branches.vit.student.backbone.')(backbone)


def test_downstream_starts_from_the_network_that_there_is(saved):
    cfg = Config(
        dict(default_scope='mmpretrain', model=dict(backbone=BRANCHES['next']['backbone']))
    )
    report, options = plan_transfer(saved[0], 'next', cfg)
    assert report[0] == 'model.backbone of the config:'
    assert options['model.backbone.init_cfg.prefix'] == 'branches.next.student.backbone.'
    with pytest.raises(ValueError, match='has no teacher, only a student'):
        plan_transfer(saved[0], 'next', cfg, network='teacher')
    assert random_initialization(cfg) == {'model.backbone.init_cfg': None}


def test_the_official_format_has_no_place_for_them(saved):
    with pytest.raises(ValueError, match=r'moco\.fc0\.weight .* of cnn; vit has no student'):
        to_official(saved[1].state_dict())
