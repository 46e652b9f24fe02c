# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The benchmark of speed runs at tiny sizes, and counts, times and compares what it says."""

import json
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from speed import MODULES, ROWS, row_function, rows_of
from speed.arithmetic import count_flops
from speed.bare import BareBackbones
from speed.data import start
from speed.growth import Size, growth_cfg
from speed.loss import LossCase
from speed.memory import PeakMemory
from speed.profiles import GROUPS, group_of, profile
from speed.result import NotMeasuredError, Result, Settings
from speed.runs import training
from speed.step import step_case, step_variants
from speed.timing import alternate

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'benchmarks' / 'speed.py'
QUICK = Settings(quick=True, rounds=1)


@pytest.fixture(autouse=True)
def restored():
    """Puts back what the tool sets for its own process."""
    logger = MMLogger.get_current_instance()
    threads, level = torch.get_num_threads(), logger.level
    saved = [
        (d, dict(d)) for d in (os.environ, DefaultScope._instance_dict, MMLogger._instance_dict)
    ]
    yield
    for current, before in saved:
        current.clear()
        current.update(before)
    torch.set_num_threads(threads)
    logger.setLevel(level)


@pytest.fixture
def speed(monkeypatch):
    """Runs the tool in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, arguments)])
        runpy.run_path(str(TOOL), run_name='__main__')

    return run


def test_measures_rows(speed, tmp_path, capsys):
    file = tmp_path / 'speed.json'
    speed('--quick', '--rows', 'step', 'loss', '--rounds', 2, '--json', file)
    printed = capsys.readouterr().out
    report = json.loads(file.read_text())
    assert {'cpu', 'gpu', 'torch', 'date', 'commit'} <= report['machine'].keys()
    assert [row['row'] for row in report['rows']] == ['step', 'loss', 'loss']
    step = report['rows'][0]
    assert step['ratio'] == step['ours'] / step['baseline'] and step['goal'] == 1.25
    assert step['met'] == (step['ratio'] <= 1.25) and step['against'] == 'bare backbones'
    assert printed.count('| <= 1.25 x |') == 1 and f'{step["ratio"]:.2f}' in printed
    assert report['quick'] is True and report['not_measured'] == {}


def test_rows_that_fail_do_not_end_the_others(speed, tmp_path, capsys, monkeypatch):
    def broken(settings):
        raise RuntimeError('out of memory')

    def absent(settings):
        raise NotMeasuredError('this CPU cannot')

    monkeypatch.setattr('speed.loss.loss', broken)
    monkeypatch.setattr('speed.step.bf16', absent)
    file = tmp_path / 'speed.json'
    with pytest.raises(SystemExit) as end:
        speed('--quick', '--rows', 'loss', 'bf16', '--json', file)
    assert end.value.code == 1
    assert 'bf16: not measured: this CPU cannot' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        speed('--quick', '--rows', 'step', '--cfg-options', 'model.branchs=1')
    printed = capsys.readouterr()
    assert 'Did you mean branches?' in printed.out and 'Traceback' not in printed.err
    expected = {'loss': 'RuntimeError: out of memory', 'bf16': 'this CPU cannot'}
    assert json.loads(file.read_text())['not_measured'] == expected


def test_refuses_in_one_sentence(speed, capsys):
    for arguments, message in (
        (['--rows', 'loss', 'steps'], '--device cpu has no row steps: it has loss, step, '),
        (['--device', 'cuda', '--rows', 'bf16'], '--device cuda has no row bf16'),
        (['--rounds', '0'], '--rounds must be at least 1, but is 0'),
    ):
        with pytest.raises(SystemExit) as end:
            speed(*arguments)
        assert end.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit) as end:
            speed('--device', 'cuda')
        assert end.value.code == 2
        assert 'PyTorch finds no GPU' in capsys.readouterr().err


def test_every_row_has_a_function():
    assert {*ROWS['cpu'], *ROWS['cuda'], 'compiled'} == {*MODULES}
    assert {*rows_of('cpu')} | {*rows_of('cuda')} == {*MODULES}
    for name in MODULES:
        assert callable(row_function(name))


def test_goals():
    fast = Result('a', 'b', 's', 1.0, 4.0, 'c', goal=0.25)
    assert fast.ratio == 0.25 and fast.met and fast.cells()[-2:] == ['<= 0.25 x', 'yes']
    rate = Result('a', 'b', 'images/s', 7.0, 5.0, 'c', goal=8, at_least=True, absolute=True)
    assert not rate.met and rate.cells()[-2:] == ['>= 8 images/s', 'no']
    assert Result('a', 'b', 's', 1.0).met is None


def test_the_baseline_of_a_step_is_its_backbones_passes():
    """As many operations as the whole model's less those of necks and heads."""
    case = step_case(QUICK)
    cfg = case.synthetic()
    bare = BareBackbones(cfg, [torch.randn(2, 3, size, size) for size in case.sizes])
    with training(cfg) as run:
        branches = run.runner.model.branches.values()
        views = [torch.randn(4, 3, 64, 64), torch.randn(4, 3, 32, 32)]
        students = [branch.student.backbone for branch in branches]
        once = count_flops(lambda: [net(view) for net in students for view in views])
        teachers = count_flops(lambda: [branch.teacher.backbone(views[0]) for branch in branches])
        whole = count_flops(run.step)
        assert run.runner.train_loop.iter == 1
        weights = [p.detach().clone() for p in run.runner.model.parameters()]
        run.step()
        pairs = zip(weights, run.runner.model.parameters(), strict=True)
        assert any(not torch.equal(before, after) for before, after in pairs)
    # A backward pass is two forward passes, without the gradient of the images.
    assert teachers + 2.5 * once < count_flops(bare) < teachers + 3 * once < whole


def test_the_baseline_of_the_loss_is_its_products():
    case = LossCase(QUICK)
    bottleneck, width = case.widths
    student = 3 * 2 * case.views * case.batch * (bottleneck + width)
    teachers = 2 * case.batch * (2 * (bottleneck + width + bottleneck) + 2 * width)
    assert count_flops(case.products()) == case.prototypes * (student + teachers)
    case.loss()
    losses = case.model.loss(case.inputs)
    assert [*losses] == ['one.loss_sm', 'one.loss_st', 'one.loss_cm.peer', 'one.loss_ct.peer']


def test_sizes_that_grow():
    for size, branches in ((Size(4, 32, 0, 1), ['cnn']), (Size(2, 16, 1, 4), None)):
        cfg = growth_cfg(size, QUICK)
        assert cfg.train_dataloader.batch_size == size.batch
        assert len(cfg.train_dataloader.dataset.sizes) == 2 + size.num_locals
        with training(cfg) as run:
            run.step()
            model = run.runner.model
            assert [*model.branches] == (branches or ['cnn', 'vit', 'cnn_2', 'vit_2'])
            assert [*run.runner.optim_wrapper.keys()] == [*model.branches]
            assert model.branches.cnn.student.projector.out_channels == size.prototypes


def test_variants_of_a_step():
    measured = step_variants(step_case(QUICK), QUICK)
    rows = [row[0] for row in measured.tables[0].rows]
    assert rows == [
        'as configured',
        'without channels_last',
        'without cuda_graphs',
        'bare backbones, eager',
    ]
    assert [result.goal for result in measured.results] == [120, 14]


def test_profile():
    parts, kinds, names = (dict(table.rows) for table in profile(QUICK).tables)
    assert {'backward', 'prototypes and losses', 'cnn student backbone'} <= parts.keys()
    assert 'convolution' in kinds and {*kinds} <= {*GROUPS, 'other'}
    assert 'aten::convolution_backward' in names
    for name, group in (
        ('aten::native_layer_norm_backward', 'layer norm'),
        ('void cudnn::bn_fw_tr_1C11_kernel_NCHW<float>', 'batch norm'),
        ('sm90_xmma_fprop_implicit_gemm_bf16bf16_f32_nhwckrsc_nhwc', 'convolution'),
        ('nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_TNT', 'matrix products'),
        ('void at::native::vectorized_elementwise_kernel<4, GeluCUDAKernelImpl>', 'element-wise'),
        ('void at::native::multi_tensor_apply_kernel<', 'optimizer, EMA (foreach, fused)'),
        ('void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel', 'attention'),
        ('void cudnn::ops::nchwToNhwcKernel<__half>', 'layout'),
    ):
        assert group_of(name) == group, name


def test_alternates():
    calls = []
    medians = alternate(dict(a=lambda: calls.append('a'), b=lambda: calls.append('b')), 2, 1, 2)
    assert ''.join(calls) == 'ab' + 'aabb' * 2
    assert medians.keys() == {'a', 'b'} and all(value > 0 for value in medians.values())


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux lets the peak be reset')
def test_peak_memory():
    with PeakMemory('cpu') as memory:
        torch.ones(16 * 2**20)  # 64 MiB, which are gone at the end
    assert 60 < memory.bytes / 2**20 < 80


@pytest.mark.long
def test_rows_of_data_and_processes(speed, tmp_path):
    """The rows that make files, or start processes."""
    file = tmp_path / 'speed.json'
    rows = ('cifar', 'loader', 'growth', 'step_memory', 'threads')
    speed('--quick', '--rounds', 1, '--json', file, '--rows', *rows)
    report = json.loads(file.read_text())
    assert {row['row'] for row in report['rows']} == {*rows}
    lines = start(QUICK).tables[0].rows
    assert 'Epoch(train)' in lines[-1][1]
