# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Passes and losses of a graph of branches: what is computed, and what is not."""

import pytest
import torch
from graph_testing import SMALL, backbone, losses_of
from mokd_testing import BACKBONES, branch_cfg, build_mokd, random_views
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from mmmokd.models import BaseMultiBranch


def calls_of(model):
    """Counts the calls of each network's parts."""
    counts = {}
    for name, branch in model.branches.items():
        for kind in ('student', 'teacher'):
            network = getattr(branch, kind)
            for part in ('backbone', *(network.neck_names if network is not None else ())):
                key = f'{name}.{kind}.{part}'
                counts[key] = 0

                def count(*args, key=key):
                    counts[key] += 1

                if network is not None:
                    getattr(network, part).register_forward_hook(count)
    return counts


def test_what_no_head_reads_is_not_computed():
    """A search head that only others search embeds its map, for them, and makes no logits."""
    heads = dict(sm=None, cm=None)
    cnn = backbone('cnn', heads=dict(st=None), cross_weight={})
    branches = dict(
        vit=backbone('vit', heads=heads, cross_weight=dict(net=1.0)),
        net=backbone('vit', cross_weight={}),
        cnn=cnn,
    )
    model = build_mokd(branches, **SMALL)
    calls = calls_of(model)
    assert losses_of(model) == ['vit.loss_st', 'vit.loss_ct.net', 'net.loss_sm', 'net.loss_st',
                                'cnn.loss_sm']  # fmt: skip
    assert calls == {
        # Of a student two passes; its map is embedded, described and queried with.
        'vit.student.backbone': 2, 'vit.student.search_head': 3,
        'vit.teacher.backbone': 1, 'vit.teacher.search_head': 2,
        'net.student.backbone': 2, 'net.student.projector': 1, 'net.student.search_head': 2,
        # Embedded once, described for its own branch, searched by the other.
        'net.teacher.backbone': 1, 'net.teacher.projector': 1, 'net.teacher.search_head': 3,
        'cnn.student.backbone': 2, 'cnn.student.projector': 1,
        'cnn.teacher.backbone': 1, 'cnn.teacher.projector': 1,
    }  # fmt: skip


@pytest.mark.parametrize(('norm', 'runs'), [('GN', 0), ('BN', 1)])
def test_teacher_that_nobody_reads(norm, runs):
    """It runs for the statistics of its batch norms alone."""
    cfg = dict(
        BACKBONES['cnn'], norm_cfg=dict(type=norm, **dict(num_groups=2) if norm == 'GN' else {})
    )
    heads = dict(sm=dict(_delete_=True, type='mmmokd.WidthHead'), st=None)
    model = build_mokd(dict(cnn=dict(backbone=cfg, heads=heads)), **SMALL)
    calls = calls_of(model)
    losses_of(model)
    assert calls['cnn.teacher.backbone'] == runs and calls['cnn.student.backbone'] == 2


def runs_outside(model):
    """Names what runs within a backbone or neck that was not entered by its call."""
    outside, entered = [], []

    def watch(module, path):
        module.register_forward_pre_hook(lambda *args: entered.append(path))
        module.register_forward_hook(lambda *args: entered.remove(path))

    def check(child, path, name):
        def hook(*args):
            if path not in entered:
                outside.append(f'{path}.{name}')

        child.register_forward_pre_hook(hook)

    for branch_name, branch in model.branches.items():
        for kind in ('student', 'teacher'):
            network = getattr(branch, kind)
            for part in ('backbone', *network.neck_names):
                path = f'{branch_name}.{kind}.{part}'
                watch(getattr(network, part), path)
                for name, child in getattr(network, part).named_modules():
                    if name:
                        check(child, path, name)
    return outside


def test_backbones_and_necks_are_entered_by_their_call():
    model = build_mokd(('cnn', 'vit'))
    outside = runs_outside(model)
    losses_of(model)
    assert not outside


def wrapped(model, wrap):
    for branch in model.branches.values():
        for network in (branch.student, branch.teacher):
            for part in ('backbone', *network.neck_names):
                setattr(network, part, wrap(getattr(network, part)))
    return model


@pytest.mark.parametrize(
    'wrap',
    [
        pytest.param(checkpoint_wrapper, id='checkpoint'),
        pytest.param(
            lambda module: torch.compile(module, backend='eager'),
            id='compile',
            marks=pytest.mark.long,
        ),
    ],
)
def test_wrapped_parts_give_the_same_losses(wrap):
    models = [build_mokd(('cnn', 'vit')) for _ in range(2)]
    wrapped(models[1], wrap)
    found = []
    for model in models:
        losses = model(random_views(), mode='loss')
        model.parse_losses(losses)[0].backward()
        grads = [param.grad for param in model.parameters() if param.grad is not None]
        found.append((losses, grads))
    (expected, expected_grads), (losses, grads) = found
    for key, value in expected.items():  # of the wrapped necks' logits, as there is no way around
        torch.testing.assert_close(losses[key], value, rtol=1e-5, atol=1e-6)
    assert len(grads) == len(expected_grads)
    for grad, wanted in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-5)


SEES = dict(heads=dict(st=None, ct=None))


def test_branches_with_views_of_their_own(float64):
    """Each learns from its own views, and a head is told of them alone."""
    cnn, vit = (dict(SEES, views=views) for views in ([0, 1, 4], [2, 3]))
    branches = dict(cnn=backbone('cnn', **cnn), vit=backbone('vit', **vit))
    settings = dict(SMALL, neck_defaults=dict(out_channels=10))
    model = build_mokd(branches, num_global_views=4, **settings).eval()
    views = random_views(sizes=(32, 32, 32, 32, 24))
    losses = model(views, mode='loss')
    plain = build_mokd({k: backbone(k, **SEES) for k in ('cnn', 'vit')}, **settings).eval()
    plain.load_state_dict(model.state_dict())
    for name, own in (('cnn', [views[0], views[1], views[4]]), ('vit', views[2:4])):
        torch.testing.assert_close(losses[f'{name}.loss_sm'], plain.loss(own)[f'{name}.loss_sm'])
    with pytest.raises(
        ValueError, match='MOKD needs 4 global views, 5 views in all, as a list .* 4'
    ):
        model(views[:4], mode='loss')


def test_frozen_branch(read_log):
    """One pass without gradient, always in evaluation mode; nothing of it changes or is trained."""
    cnn = branch_cfg('vit', frozen=True, backbone=dict(drop_path_rate=0.9))
    model = build_mokd(dict(vit=cnn, cnn=branch_cfg('cnn')))
    model.load_state_dict(model.state_dict())  # as load_from does
    branch = model.train().branches['vit']
    assert branch.student is None and not branch.heads and not branch.teacher.training
    assert not [n for n, p in model.named_parameters() if '.vit.teacher.' in n and p.requires_grad]
    assert {key.split('.')[2] for key in model.state_dict() if key.startswith('branches.vit')} == {
        'teacher'
    }
    before = {key: value.clone() for key, value in branch.state_dict().items()}
    calls = calls_of(model)
    total, _ = model.parse_losses(model(random_views(), mode='loss'))
    total.backward()
    assert calls['vit.teacher.backbone'] == 1 and list(total.branch_losses) == ['cnn']
    assert all(torch.equal(value, before[key]) for key, value in branch.state_dict().items())
    images = torch.zeros(2, 3, 32, 32)
    for network in ('teacher', 'student'):
        found = model.extract_feat(images, network)
        assert torch.equal(found['vit'], branch.teacher.extract(images).pooled)
    branch.reset_teacher()
    assert any('Branch vit: frozen; no optimizer' in line for line in read_log())


def test_no_ema():
    """The student is the target of its own and its peers' heads, in its one pass."""
    vit = branch_cfg('vit', ema=False)
    model = build_mokd(dict(vit=vit, cnn=branch_cfg('cnn')))
    calls = calls_of(model)
    losses = model(random_views(), mode='loss')
    sum(loss for key, loss in losses.items() if key.startswith('cnn.')).backward()
    assert calls['vit.student.backbone'] == 2 and calls['vit.student.projector'] == 1
    assert not [n for n, p in model.named_parameters() if '.vit.' in n and p.grad is not None]
    images = torch.zeros(2, 3, 32, 32)
    assert torch.equal(
        model.extract_feat(images)['vit'], model.extract_feat(images, 'student')['vit']
    )


def test_loss_is_needed():
    with pytest.raises(TypeError, match='abstract'):
        BaseMultiBranch(dict(vit=branch_cfg('vit')))
