# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Distill on the Go against its formulas, written plainly."""

from functools import partial

import pytest
import torch
from mmengine.model import BaseModel
from mokd_testing import BACKBONES, branch_cfg, build_mokd, optim_wrapper_cfg, random_views
from plain_dogo import plain_nt_xent, plain_similarity_kl, plain_simsiam

from mmmokd.engine.optimizers import BranchOptimWrapperConstructor
from mmmokd.models.selfsup.checks import describe_branch

WEIGHTS = dict(cnn=100.0, vit=1.0)
LINEAR = dict(hid_channels=7, out_channels=6)


def build(form='DoGo', frozen=(), **kwargs):
    necks = dict(projector=LINEAR) if form == 'DoGo' else dict(projector=LINEAR, predictor=LINEAR)
    branches = {
        name: dict(backbone=BACKBONES[name], cross_weight=weight, **necks)
        for name, weight in WEIGHTS.items()
    }
    return build_mokd(branches, type=f'mmmokd.{form}', global_size=32, **kwargs)


def outputs(branch, views):
    """Projections and predictions of two views, both in one batch; for SimCLR the same twice."""
    network = branch.student
    projected = network.projector((network.extract(torch.cat(views)).pooled,))[0]
    predicted = network.predictor((projected,))[0] if hasattr(network, 'predictor') else projected
    return projected.unflatten(0, (2, -1)), predicted.unflatten(0, (2, -1))


@pytest.mark.parametrize('own_views', [True, False])
@pytest.mark.parametrize('form', ['DoGo', 'DoGoSimSiam'])
def test_losses_and_gradients(form, own_views, float64):
    model = build(form, own_views=own_views)
    views = random_views(3, (32, 32, 32, 32, 24))
    losses = model(views, mode='loss')
    seen = dict(cnn=views[:2], vit=views[2:4] if own_views else views[:2])
    found = {name: outputs(branch, seen[name]) for name, branch in model.branches.items()}
    expected = {}
    for name, peer in (('cnn', 'vit'), ('vit', 'cnn')):
        own, predicted = found[name]
        expected[f'{name}.loss_ssl'] = (
            plain_nt_xent(*own, 0.5) if form == 'DoGo' else plain_simsiam(own, predicted)
        )
        target = found[peer][0].detach()
        divergence = plain_similarity_kl(predicted, target, 0.1)
        expected[f'{name}.loss_kl.{peer}'] = WEIGHTS[name] * divergence
    assert list(losses) == list(expected)
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value, rtol=1e-9, atol=1e-12, msg=key)
    params = [param for param in model.parameters() if param.requires_grad]
    grads, wanted = (torch.autograd.grad(sum(each.values()), params) for each in (losses, expected))
    for grad, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-7, atol=1e-10)
    assert not [key for key in model.state_dict() if 'teacher' in key]


@pytest.mark.parametrize('form', ['DoGo', 'DoGoSimSiam'])
def test_one_branch_after_the_other(form):
    """To the bit as all at once; each backbone runs once, over the views of its branch."""
    sides, sizes = [], []
    for at_once in (True, False):
        model = build(form).train()
        cfg = optim_wrapper_cfg(['cnn', 'vit'])
        cfg.pop('constructor')
        for branch in cfg['branches'].values():
            branch.pop('parts', None)
        optim = BranchOptimWrapperConstructor(cfg)(model)
        assert model.trains_by_branch(optim)
        step = partial(BaseModel.train_step, model) if at_once else model.train_step
        views = [random_views(3, (32, 32, 32, 32, 24), seed=i) for i in range(3)]
        if at_once:
            for branch in model.branches.values():
                branch.student.backbone.register_forward_pre_hook(
                    lambda _, args: sizes.append(len(args[0]))
                )
        logs = [step(dict(inputs=each), optim) for each in views]
        sides.append((logs, model.state_dict()))
    (logs, weights), (others, other_weights) = sides
    assert sizes == [6] * 6
    for log, other in zip(logs, others, strict=True):
        assert all(torch.equal(value, other[key]) for key, value in log.items())
    assert all(torch.equal(value, other_weights[key]) for key, value in weights.items())


def test_views_of_the_branches():
    model = build()
    assert model.num_global_views == 4
    assert [branch.views for branch in model.branches.values()] == [(0, 1), (2, 3)]
    told = 'learns ssl; kl from cnn; sees views 2, 3 alone; no EMA teacher'
    assert describe_branch(model.branches.vit) == told
    model = build(own_views=False, num_global_views=3)
    assert model.num_global_views == 3
    assert [branch.views for branch in model.branches.values()] == [(0, 1, 2)] * 2
    with pytest.raises(
        ValueError, match='DoGo needs 4 global views, as a list .* got 2.* own_views=False'
    ):
        build()(random_views(2, (32, 32)), mode='loss')
    with pytest.raises(ValueError, match='the 4 global ones one image size, .* own_views=False'):
        build()(random_views(2, (32, 32, 24, 24)), mode='loss')
    with pytest.raises(ValueError, match='num_global_views of DoGo must be .* but got 0'):
        build(num_global_views=0)
    with pytest.raises(ValueError, match='branches must be a non-empty dict'):
        build_mokd({}, type='mmmokd.DoGo')


def test_a_third_branch_and_ema_teachers():
    """More branches by the same rule; a config may bring back what DoGo leaves out."""
    cfg = {k: dict(backbone=BACKBONES[k], projector=LINEAR) for k in ('cnn', 'vit', 'next')}
    cfg['vit'].update(ema=True, views=[0, 1])
    model = build_mokd(cfg, type='mmmokd.DoGo', global_size=32)
    assert [branch.views for branch in model.branches.values()] == [(0, 1), (0, 1), (4, 5)]
    losses = model(random_views(3, (32,) * 6), mode='loss')
    assert len(losses) == 3 + 6 and all(loss.isfinite() for loss in losses.values())
    assert model.branches.vit.teacher is not None and model.branches.cnn.teacher is None


def test_its_heads_are_terms_of_mokd():
    """NT-Xent in place of L_sm of one branch, and the divergence beside the cross terms of the other."""
    mlp = dict(
        LINEAR, type='mmpretrain.NonLinearNeck', with_avg_pool=False, norm_cfg=dict(type='BN1d')
    )
    simclr = dict(type='mmmokd.NTXentHead', reads='simclr')
    kl = dict(type='mmmokd.SimilarityDistillationHead', reads='pooled', loss_weight=100.0)
    cnn = branch_cfg('cnn', simclr=mlp, heads=dict(simclr=simclr))
    model = build_mokd(dict(cnn=cnn, vit=branch_cfg('vit', heads=dict(kl=kl))))
    losses = model(random_views(3), mode='loss')
    assert {'cnn.loss_simclr', 'vit.loss_kl.cnn'} < {*losses}
    _, logged = model.parse_losses(losses)
    assert 0 <= logged['cnn.simclr.accuracy'] <= 100
    branch = model.branches.cnn.student
    views = random_views(3)
    pooled = torch.cat([branch.extract(view).pooled for view in views])
    pair = branch.simclr((pooled,))[0].unflatten(0, (-1, 3))[:2]
    torch.testing.assert_close(losses['cnn.loss_simclr'], plain_nt_xent(*pair, 0.5))
