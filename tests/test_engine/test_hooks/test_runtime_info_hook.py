# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
import torch
from mmengine.device import is_cuda_available
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mokd_testing import train
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmmokd.engine.hooks import non_finite_loss_hook
from mmmokd.engine.optimizers import clip_grad

READS = ('tolist', 'numpy', 'cpu')  # of what is not an operator
READING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


class Operators(TorchDispatchMode):
    """Operators for which the host needs what the device has computed."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in READING:
            self.found.append(func)
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    """Functions that read a tensor without an operator."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, '__name__', '') in READS:
            self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


class Watch(Hook):
    """From the second iteration on, watches all of an iteration in which nothing is logged."""

    priority = 'VERY_LOW'

    def __init__(self, interval, on_gpu):
        self.interval, self.on_gpu = interval, on_gpu
        self.reads, self.watched = (Operators(), Functions()), 0

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.watches = runner.iter > 0 and (runner.iter + 1) % self.interval
        if self.watches and self.on_gpu:
            torch.cuda.set_sync_debug_mode('error')
        elif self.watches:
            for reads in self.reads:
                reads.__enter__()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.watches and self.on_gpu:
            torch.cuda.set_sync_debug_mode('default')
        elif self.watches:
            for reads in reversed(self.reads):
                reads.__exit__(None, None, None)
        self.watched += bool(self.watches)


def run_cfg(runner_cfg, folder, info='mmmokd.RuntimeInfoHook', **kwargs):
    cfg = runner_cfg(folder, length=16, batch_size=2, max_epochs=1, **kwargs)
    cfg.default_hooks.update(
        runtime_info=dict(type=info),
        logger=dict(type='LoggerHook', interval=4),
        non_finite=dict(type='mmmokd.NonFiniteLossHook'),
    )
    cfg.model.data_preprocessor.non_blocking = True
    cfg.train_dataloader.pin_memory = is_cuda_available()
    return cfg


@pytest.mark.parametrize(
    'device',
    [
        pytest.param('cpu', marks=pytest.mark.skipif(is_cuda_available(), reason='see cuda')),
        pytest.param(
            'cuda',
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not is_cuda_available(), reason='no CUDA device'),
            ],
        ),
    ],
)
def test_no_step_waits_for_the_device_between_log_lines(runner_cfg, monkeypatch, device):
    """On the CPU, what a GPU would do: no tensor becomes a number. On a GPU: no synchronization."""
    if device == 'cpu':
        for module in (non_finite_loss_hook, clip_grad):
            monkeypatch.setattr(module, 'is_asynchronous', lambda tensor: True)
        monkeypatch.setattr(non_finite_loss_hook, 'start_reading', copy_to_host)
    watch = Watch(4, device == 'cuda')
    train(run_cfg(runner_cfg, device), watch)
    assert watch.watched == 5
    assert [reads.found for reads in watch.reads] == [[], []]


def copy_to_host(tensor):
    """Stands for the copy to the host, which is read when it has long arrived."""

    def read():
        with torch._C.DisableTorchFunction():
            return tensor.tolist()

    return read


def test_what_is_logged_is_what_mmengine_logs(runner_cfg):
    """Lines for people and for plots, and the histories in a checkpoint."""
    runs, watched = {}, {}
    for info in ('RuntimeInfoHook', 'mmmokd.RuntimeInfoHook'):
        cfg = run_cfg(runner_cfg, info, info)
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
        watch = Watch(4, on_gpu=False)
        runner = train(cfg, watch)
        watched[info] = len(watch.reads[0].found)
        (scalars,) = Path(runner.log_dir).glob('vis_data/scalars.json')
        lines = [json.loads(line) for line in scalars.read_text().splitlines()]
        checkpoint = torch.load(Path(runner.work_dir, 'epoch_1.pth'), weights_only=False)
        runs[info] = lines, checkpoint['message_hub']['log_scalars']
    (lines, histories), (expected, plain) = runs.values()
    assert watched['RuntimeInfoHook'] >= 5 * 9  # every loss: the test above would see it
    # The one logs the norm of gradients and losses in this order, as the other.
    assert [list(line) for line in lines] == [list(line) for line in expected]
    assert [line['step'] for line in lines] == [4, 8]
    for line, other in zip(lines, expected, strict=True):
        assert without_times(line) == without_times(other)
    assert {type(history) for history in histories.values()} == {HistoryBuffer}
    assert list(histories) == list(plain)
    for key in without_times(plain):
        assert [each.tolist() for each in histories[key].data] == [
            each.tolist() for each in plain[key].data
        ]


def without_times(values):
    return {key: value for key, value in values.items() if not key.endswith(('time', 'memory'))}
