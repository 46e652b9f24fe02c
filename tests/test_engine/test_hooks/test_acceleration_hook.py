# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import re
import shutil

import mmcv.cnn
import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from mokd_testing import AfterStep, branch_cfg, copy_of, train
from torch import nn

from mmmokd.engine.hooks.acceleration_hook import _why_not_captured, compiled_modules
from mmmokd.models.utils import OneDNNLinear, onednn


def run(cfg, hook=None, **kwargs):
    losses = []
    cfg.update(kwargs)
    cfg.default_hooks.acceleration = hook and dict(type='mmmokd.AccelerationHook', **hook)
    if hook is None:
        cfg.default_hooks.pop('acceleration')
    keep = AfterStep(
        lambda r: losses.append(float(r.message_hub.get_scalar('train/loss').current()))
    )
    return train(cfg, keep), losses


def test_layout_and_compiler_change_nothing_but_rounding(runner_cfg, tmp_path):
    """Losses and weights of four steps; checkpoints are contiguous, and resumed from to the bit."""
    length = dict(length=8, batch_size=2, max_epochs=1)
    plain, expected = run(runner_cfg(**length))
    fast, losses = run(
        runner_cfg(**length), dict(channels_last=True, compile=dict(backend='eager'))
    )
    assert losses == pytest.approx(expected, rel=1e-4)
    compiled = [m for m in fast.model.modules() if m._compiled_call_impl is not None]
    assert compiled and set(compiled) == set(compiled_modules(fast.model))
    convs = [m.weight for m in fast.model.modules() if isinstance(m, nn.Conv2d)]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in convs)
    found, wanted = copy_of(fast.model.state_dict()), copy_of(plain.model.state_dict())
    assert list(found) == list(wanted)
    for key, value in wanted.items():
        if not key.endswith('qkv.bias'):  # keys' have no gradient but rounding, which AdamW scales
            torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4, msg=key)


def test_checkpoint_and_resume(runner_cfg, tmp_path):
    hook, length = dict(channels_last=True), dict(length=4, batch_size=2)
    length['default_hooks'] = runner_cfg().default_hooks.to_dict()
    length['default_hooks'].update(
        checkpoint=dict(type='mmmokd.CheckpointHook', interval=1),
        seed=dict(type='mmmokd.EpochSeedHook'),
    )
    whole, _ = run(runner_cfg(**length, max_epochs=2), hook, work_dir=str(tmp_path / 'whole'))
    checkpoint = torch.load(tmp_path / 'whole/epoch_1.pth', weights_only=False)
    tensors = [checkpoint['state_dict'], checkpoint['optimizer']]
    while tensors:
        each = tensors.pop()
        if isinstance(each, dict | list):
            tensors += each.values() if isinstance(each, dict) else each
        elif isinstance(each, torch.Tensor):
            assert each.is_contiguous()
    cfg = runner_cfg(**length, max_epochs=2)
    cfg.load_from, cfg.resume = str(tmp_path / 'whole/epoch_1.pth'), True
    resumed, _ = run(cfg, hook, work_dir=str(tmp_path / 'resumed'))
    for key, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value), key
    for name, wrapper in resumed.optim_wrapper.items():
        for param, state in wrapper.optimizer.state.items():
            strides = {
                v.stride() for v in state.values() if v.shape == param.shape and v.dim() == 4
            }
            assert strides <= {param.stride()}, name


def test_linear_layers_of_a_run(runner_cfg, monkeypatch):
    """All of them during the run, none after it; the run is the same but for rounding."""
    monkeypatch.setattr(onednn, 'is_faster', lambda: True)
    found = []
    keep = AfterStep(lambda r: found.append([type(m) for m in r.model.modules()]))
    plain, expected = run(runner_cfg(length=4, batch_size=2, max_epochs=1), dict(onednn=False))
    cfg = runner_cfg(length=4, batch_size=2, max_epochs=1)
    cfg.default_hooks.acceleration = dict(type='mmmokd.AccelerationHook', onednn=True)
    fast = train(cfg, keep)
    classes = [type(m) for m in fast.model.modules()]
    linear = [i for i, cls in enumerate(classes) if cls in (nn.Linear, mmcv.cnn.Linear)]
    assert linear and OneDNNLinear not in classes
    for during in found:
        assert {during[i] for i in linear} == {OneDNNLinear}
    for key, value in plain.model.state_dict().items():
        torch.testing.assert_close(fast.model.state_dict()[key], value, rtol=1e-3, atol=1e-4)


def test_blocks():
    """The outermost modules of lists that have another of their class beside them."""

    class Block(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2)))

    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.stem = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model.backbone.layers = nn.ModuleList([Block(), Block(), nn.Sequential(nn.ReLU())])
    model.neck = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    assert list(compiled_modules(model)) == [*model.backbone.layers[:2], model.neck]


def test_no_compiler(runner_cfg, monkeypatch):
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    with pytest.raises(
        ValueError, match=r'acceleration.compile needs a C compiler .* compile=False'
    ):
        run(runner_cfg(length=2, batch_size=2, max_epochs=1), dict(compile=True))


@pytest.mark.parametrize(
    ('model', 'optim', 'reason'),
    [
        ({}, {}, None),
        (dict(heads=dict(koleo=dict(type='mmmokd.KoLeoHead'))), {}, None),
        ({}, dict(accumulative_counts=2), 'gradients are accumulated'),
        (
            dict(heads=dict(ce=dict(type='mmmokd.ClassificationHead', num_classes=2))),
            {},
            r'loss heads cannot be captured \(vit.ce\)',
        ),
    ],
)
def test_what_is_captured(runner_cfg, model, optim, reason):
    branches = dict(cnn=branch_cfg('cnn'), vit=branch_cfg('vit', **model))
    runner = Runner.from_cfg(runner_cfg(branches=branches, optim=optim))
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    found = _why_not_captured(runner.model, wrapper)
    assert found is None if reason is None else re.fullmatch(reason, found)
    wrapped = nn.DataParallel(runner.model)
    assert _why_not_captured(wrapped, wrapper) == 'the model is wrapped in DataParallel'
    plain = OptimWrapperDict(**dict(wrapper.items()))  # which cannot step after a replay
    assert 'not a BranchOptimWrapperDict' in _why_not_captured(runner.model, plain)
    single = OptimWrapper(torch.optim.SGD(runner.model.parameters(), lr=0.1))
    assert 'one branch after the other' in _why_not_captured(runner.model, single)
