# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import re

import pytest
import torch
from mokd_testing import build_mokd, copy_of, optim_wrapper_cfg, ring_cfg, train
from torch import nn

from mmmokd.engine import BranchOptimWrapperConstructor
from mmmokd.engine.optimizers import precision
from mmmokd.engine.optimizers.clip_grad import clip_grad_norm_per_parameter_

# Biases, and the gains of group, batch and layer norms: what has one dimension.
ONE_DIMENSIONAL = re.compile(r'bias$|(ln\d|norm\d?|gn\d|bn\d|downsample\.1|gamma)(\.weight)?$')


def build(model, **kwargs):
    cfg = optim_wrapper_cfg(model.branches)
    cfg.pop('constructor')
    return BranchOptimWrapperConstructor(dict(cfg, **kwargs))(model)


def groups_by_name(student, wrapper):
    """Settings of every parameter's group."""
    names = {id(param): name for name, param in student.named_parameters()}
    found = {}
    for group in wrapper.param_groups:
        for param in group['params']:
            assert names[id(param)] not in found
            found[names[id(param)]] = (group['part'], group['lr'], group['weight_decay'])
    return found


def test_groups_of_the_paper():
    """The CNN's search head has the ViT's lr and decay, all of it decayed, in the CNN's SGD."""
    model = build_mokd()
    wrappers = build(model)
    assert list(wrappers.keys()) == ['cnn', 'vit']
    assert isinstance(wrappers['cnn'].optimizer, torch.optim.SGD)
    assert isinstance(wrappers['vit'].optimizer, torch.optim.AdamW)

    student = model.branches['cnn'].student
    trained = {name for name, param in student.named_parameters() if param.requires_grad}
    frozen = {name for name, _ in student.named_parameters()} - trained
    assert frozen == {'projector.last_layer.parametrizations.weight.original0'}
    expected = {
        name: ('search_head', 3e-3, 0.04)
        if name.startswith('search_head.')
        else ('main', 0.1, 0.0 if ONE_DIMENSIONAL.search(name) else 1e-4)
        for name in trained
    }
    assert groups_by_name(student, wrappers['cnn']) == expected

    student = model.branches['vit'].student
    expected = {
        name: ('main', 3e-3, 0.0 if ONE_DIMENSIONAL.search(name) else 0.04)
        for name, _ in student.named_parameters()
    }
    found = groups_by_name(student, wrappers['vit'])
    assert found == expected
    decayed = {name for name, (_, _, decay) in found.items() if decay}
    for part in ('projector', 'search_head'):
        assert f'{part}.last_layer.parametrizations.weight.original0' in decayed
    assert {'backbone.cls_token', 'backbone.pos_embed', 'search_head.pos_embed'} <= decayed
    assert not any(name.endswith('bias') or '.ln' in name for name in decayed)


def test_one_group_for_each_setting():
    """Empty groups are left out, and there is none that only mmengine would log."""
    wrappers = build(build_mokd())
    settings = {
        name: [(g['part'], g['weight_decay']) for g in w.param_groups]
        for name, w in wrappers.items()
    }
    assert settings == dict(
        cnn=[('main', 1e-4), ('main', 0.0), ('search_head', 0.04)],
        vit=[('main', 0.04), ('main', 0.0)],
    )
    assert wrappers.get_lr() == {'cnn.lr': [0.1, 0.1, 3e-3], 'vit.lr': [3e-3, 3e-3]}


@pytest.mark.parametrize('decay_all', [True, False])
def test_any_part(decay_all):
    model = build_mokd(('next',))
    parts = dict(backbone=dict(lr=0.5, decay_all=decay_all), projector=dict(weight_decay=0.3))
    optimizer = dict(type='AdamW', lr=0.1, weight_decay=0.2)
    wrappers = build(model, branches=dict(next=dict(optimizer=optimizer, parts=parts)))
    student = model.branches['next'].student
    settings = dict(
        backbone=('backbone', 0.5, 0.2),
        projector=('projector', 0.1, 0.3),
        search_head=('main', 0.1, 0.2),
    )
    expected = {}
    for name, param in student.named_parameters():
        part, lr, decay = settings[name.split('.')[0]]
        always = decay_all and part == 'backbone'
        expected[name] = part, lr, decay if param.dim() > 1 or always else 0.0
    assert groups_by_name(student, wrappers['next']) == expected


def test_decay_of_a_step_without_gradient():
    """p <- p (1 - lr decay) in SGD as in AdamW, for exactly the decayed."""
    model = build_mokd()
    torch.manual_seed(0)
    for param in model.parameters():
        nn.init.normal_(param)
    before = copy_of(dict(model.named_parameters()))
    wrappers = build(model)
    for name, wrapper in wrappers.items():
        settings = groups_by_name(model.branches[name].student, wrapper)
        for group in wrapper.param_groups:
            for param in group['params']:
                param.grad = torch.zeros_like(param)
        wrapper.step()
        for key, param in model.branches[name].student.named_parameters():
            part, lr, decay = settings.get(key, ('frozen', 0.0, 0.0))
            old = before[f'branches.{name}.student.{key}']
            torch.testing.assert_close(param.data, old * (1 - lr * decay), rtol=1e-6, atol=0)
            if not decay:
                assert torch.equal(param, old), key


def test_clipping():
    model = build_mokd()
    for name, wrapper in build(model).items():
        assert wrapper.clip_func.clip is clip_grad_norm_per_parameter_
        assert wrapper.clip_grad_kwargs == dict(max_norm=3.0)
        assert wrapper.clip_func.key == f'train/{name}.grad_norm'
    for wrapper in build(model, clip_grad=dict(max_norm=2.0)).values():
        assert wrapper.clip_func.clip is nn.utils.clip_grad_norm_
    for wrapper in build(model, clip_grad=None).values():
        assert wrapper.clip_grad_kwargs is None


def test_mixed_precision_without_a_gpu(monkeypatch):
    """The config trains in float32 then, and says so."""
    from mmmokd.engine.optimizers import branch_optim_wrapper_constructor as module

    messages = []
    monkeypatch.setattr(module, 'print_log', lambda text, **kwargs: messages.append(text))
    monkeypatch.setattr(precision, 'get_device', lambda: 'cpu')
    wrappers = build(build_mokd(), type='AmpOptimWrapper', loss_scale='dynamic', dtype='float16')
    assert {type(wrapper).__name__ for wrapper in wrappers.values()} == {'OptimWrapper'}
    assert len(messages) == 1 and 'No GPU: trains in float32' in messages[0]


def test_learning_rate_scaled_to_the_batch(runner_cfg):
    """Every group of every branch; not the schedule's final values."""
    cfg = runner_cfg(
        length=8,
        batch_size=8,
        max_epochs=1,
        param_scheduler=None,
        auto_scale_lr=dict(base_batch_size=4, enable=True),
    )
    runner = train(cfg)
    found = runner.optim_wrapper.get_lr()
    assert found == {'cnn.lr': [0.2, 0.2, 6e-3], 'vit.lr': [6e-3, 6e-3]}


SGD = dict(type='SGD', lr=0.1)


@pytest.mark.parametrize(
    ('branches', 'message'),
    [
        (dict(vit=dict(optimizer=SGD)), r"has only \['vit'\]: cnn would have no optimizer"),
        (
            dict(cnn=dict(optimizer=SGD), vit=dict(optimizer=SGD), vti=dict(optimizer=SGD)),
            r"optim_wrapper.branches has vti, but the model has the branches \['cnn', 'vit'\]",
        ),
        (
            dict(cnn=dict(optimizer=SGD, clip_grad=dict(max_norm=1)), vit=dict(optimizer=SGD)),
            r'branches.cnn needs `optimizer` and may have `parts`, .*clip_grad',
        ),
        (dict(cnn=dict(), vit=dict(optimizer=SGD)), r'branches.cnn needs `optimizer`'),
        (
            dict(cnn=dict(optimizer=SGD, parts=dict(neck=dict(lr=1))), vit=dict(optimizer=SGD)),
            r"unknown part 'neck': parts are \['backbone', 'projector', 'search_head'\]",
        ),
        (
            dict(
                cnn=dict(optimizer=SGD, parts=dict(backbone=dict(lr_mult=1))),
                vit=dict(optimizer=SGD),
            ),
            r"unknown keys \['lr_mult'\] in part 'backbone'",
        ),
    ],
)
def test_settings_that_do_not_fit(branches, message):
    with pytest.raises(ValueError, match=message):
        build(build_mokd(), branches=branches)


def test_parameters_of_heads_join_the_optimizer_of_their_branch(tmp_path):
    """Behind those of the student, or as a part; the frozen branch has no optimizer."""
    model = build_mokd(ring_cfg(tmp_path))
    heads = model.branches['vit'].heads
    wrappers = build(model)
    assert list(wrappers.keys()) == ['cnn', 'vit', 'next']
    trained = dict(heads.named_parameters())
    assert trained and all(name.startswith('latent.head.predictor.') for name in trained)
    student = list(model.branches['vit'].student.parameters())
    for group, dims in zip(wrappers['vit'].param_groups, (2, 1), strict=True):
        own = [p for p in student if (p.dim() > 1) == (dims == 2)]
        of_heads = [p for p in trained.values() if p.dim() == dims]
        found = group['params']
        assert list(map(id, found)) == list(map(id, own + of_heads))

    branches = optim_wrapper_cfg(model.branches)['branches']
    branches['vit']['parts'] = dict(heads=dict(lr=0.5))
    wrappers = build(model, branches=branches)
    in_part = [p for g in wrappers['vit'].param_groups if g['part'] == 'heads' for p in g['params']]
    assert {id(p) for p in in_part} == {id(p) for p in trained.values()}


def test_branches_that_do_not_learn_have_no_optimizer(tmp_path, read_log):
    """Settings for them are not used, which the log says; those of a name that is unknown are wrong."""
    branches = dict(ring_cfg(tmp_path), spare=None)
    branches['next'] = dict(branches['next'], cross_weight=dict(cnn=0.1, big=1.0))
    model = build_mokd(branches)
    assert model.left_out == ('spare',)
    settings = optim_wrapper_cfg(branches)['branches']
    assert list(build(model, branches=settings).keys()) == ['cnn', 'vit', 'next']
    log = '\n'.join(read_log())
    assert 'Branch big is frozen: optim_wrapper.branches.big is not used.' in log
    assert 'Branch spare is left out: optim_wrapper.branches.spare is not used.' in log
    # A default for all branches is for those that learn.
    assert list(build(model, branches={}, optimizer=SGD).keys()) == ['cnn', 'vit', 'next']
    with pytest.raises(ValueError, match='has spear, but the model has the branches'):
        build(model, branches=dict(settings, spear=settings['spare']))
    for branch in model.branches.values():
        branch.requires_grad_(False)
    with pytest.raises(
        ValueError, match='no branch of .* requires a gradient: there is nothing to'
    ):
        build(model, branches=settings)


def test_what_no_branch_has_is_in_no_optimizer():
    """A parameter of the algorithm itself, and one that two branches share, are errors."""
    model = build_mokd()
    model.temperature = nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match='1 parameter requires .* in no optimizer: temperature'):
        build(model)
    model = build_mokd()
    vit = model.branches['vit'].student
    vit.projector.bridge = model.branches['cnn'].student.projector.mlp[0]
    with pytest.raises(
        ValueError, match='several parameter groups: branches.cnn.student.projector.mlp'
    ):
        build(model)


def test_paramwise_settings_are_refused():
    with pytest.raises(ValueError, match='takes no paramwise_cfg: .*branches.NAME.parts'):
        BranchOptimWrapperConstructor(dict(branches={}), dict(norm_decay_mult=0.0))


def test_default_of_all_branches():
    """A branch's own settings come first; a branch without any has the default."""
    default = dict(type='SGD', lr=0.5, momentum=0.5)
    branches = dict(cnn=dict(optimizer=dict(lr=0.1), parts=dict(search_head=dict(lr=0.2))))
    cfg = dict(optimizer=default, branches=branches)
    wrappers = BranchOptimWrapperConstructor(cfg)(build_mokd())
    assert wrappers.get_lr() == {'cnn.lr': [0.1, 0.1, 0.2, 0.2], 'vit.lr': [0.5, 0.5]}
    assert wrappers.get_momentum() == {'cnn.momentum': [0.5] * 4, 'vit.momentum': [0.5] * 2}


def test_default_that_no_branch_takes_is_refused():
    message = (
        'optim_wrapper.optimizer.lr has no effect: .* Set optim_wrapper.branches.cnn.optimizer.lr'
    )
    with pytest.raises(ValueError, match=message):
        build(build_mokd(), optimizer=dict(lr=0.5))


def test_clipping_by_parameter_needs_a_norm():
    with pytest.raises(ValueError, match='per_parameter=True needs max_norm'):
        build(build_mokd(), clip_grad=dict(per_parameter=True))
