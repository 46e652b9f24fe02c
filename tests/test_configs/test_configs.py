# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Every config of MOKD: it reads, it builds at full size, and it trains, made small, one step."""

import ast
import gc
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from config_testing import BATCH_SIZE, OneStep, dicts, no_memory, small_config
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmmokd.cli.config import load_config
from mmmokd.engine.runners.build_runner import build_runner
from mmmokd.registry import MODELS

ROOT = Path(__file__).parents[2]
MOKD = ROOT / 'configs' / 'mokd'
CONFIGS = sorted(  # other algorithms, benchmarks and variants have tests of their own
    path
    for path in MOKD.rglob('*.py')
    if not {'benchmarks', 'variants'} & set(path.relative_to(ROOT).parts)
)
PAPER = MOKD / 'mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'
CIFAR = MOKD / 'mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'
FOLDER = MOKD / 'mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder.py'
PARTS = ('backbone', 'projector', 'search_head')
OUR_HOOKS = {
    'AccumulatedLRHook',
    'EMATeacherHook',
    'EpochSeedHook',
    'HeadScheduleHook',
    'PrototypeFreezeHook',
    'DataHealthHook',
    'CollapseMonitorHook',
    'NonFiniteLossHook',
}
# Peak lr for 256 images, last lr, first and last weight decay: the table of the method.
SGD = (0.1, 0.0048, 1e-4, 1e-4)
ADAMW = (3e-4, 1e-5, 0.04, 0.4)
WARMUP_EPOCHS = 10

# The runs here begin in the middle.
pytestmark = pytest.mark.filterwarnings('ignore:Detected call of `scheduler.step')


@pytest.fixture(autouse=True)
def _clean():
    yield
    gc.collect()  # a Runner is part of cycles, and two of the largest are too much


each_config = pytest.mark.parametrize('path', CONFIGS, ids=[path.stem for path in CONFIGS])


class MiddleStep(OneStep):
    """Makes one step in the middle of the run."""

    def __init__(self, epoch):
        self.epoch = epoch

    def before_train(self, runner):
        loop = runner.train_loop
        loop._epoch, loop._iter = self.epoch, self.epoch * len(runner.train_dataloader)
        for schedulers in runner.param_schedulers.values():
            for scheduler in schedulers:
                scheduler.last_step = loop._iter - 1
                scheduler.step()
        runner.optim_wrapper.initialize_count_status(runner.model, loop._iter, loop._max_iters)
        super().before_train(runner)


def scheduled(step, steps, peak, last, warmup=0):
    """DINO's schedule as DINO writes it, as a list; here one number of it."""
    if step < warmup:
        return float(np.linspace(0, peak, warmup)[step])
    share = (step - warmup) / (steps - warmup)
    return last + 0.5 * (peak - last) * (1 + math.cos(math.pi * share))


def expected_setting(optimizer, part, step, epoch_length, epochs, scale):
    """Learning rate and weight decay of a part of a branch."""
    peak, last, first_decay, last_decay = SGD if (optimizer, part) == ('SGD', 'main') else ADAMW
    peak *= scale
    steps, warmup = (math.ceil(n * epoch_length) for n in (epochs, WARMUP_EPOCHS))
    return (
        scheduled(step, steps, peak, min(peak, last), warmup),
        scheduled(step, steps, first_decay, last_decay),
    )


def expected_losses(branches):
    keys = set()
    for name in branches:
        keys |= {f'{name}.loss_sm', f'{name}.loss_st'}
        keys |= {
            f'{name}.loss_{t}.{peer}' for t in ('cm', 'ct') for peer in branches if peer != name
        }
    return keys


@each_config
def test_config_trains_one_step(path, tmp_path, data_roots):
    cfg = small_config(path, tmp_path, data_roots)
    epochs = cfg.train_cfg.max_epochs
    recipe = path.parent == MOKD  # or a quick start, of a few epochs and with settings of its own
    epoch = WARMUP_EPOCHS + 20 if recipe else epochs // 2
    runner = Runner.from_cfg(cfg)
    hook = MiddleStep(epoch)
    runner.register_hook(hook)
    runner.train()

    assert set(hook.losses) >= expected_losses(runner.model.branches)
    assert all(map(math.isfinite, (hook.total, *hook.losses.values())))
    for name, branch in runner.model.branches.items():
        for part in PARTS:
            student, teacher = (f'branches.{name}.{net}.{part}.' for net in ('student', 'teacher'))
            assert any(key.startswith(student) for key in hook.moved), student
            assert any(key.startswith(teacher) for key in hook.moved), teacher
        # A parameter without a gradient would stop a run on several GPUs.
        trainable = {
            f'branches.{name}.student.{key}'
            for key, param in branch.student.named_parameters()
            if param.requires_grad
        }
        assert trainable <= hook.trained
        parts = {'main'}
        for group in hook.groups[name]:
            parts.add(group['part'])
            if not recipe:
                continue
            lr, weight_decay = expected_setting(
                cfg.optim_wrapper.branches[name].optimizer.type,
                group['part'],
                step=epoch,
                epoch_length=1,
                epochs=epochs,
                scale=BATCH_SIZE / 256,
            )
            assert group['lr'] == pytest.approx(lr, rel=1e-9)
            undecayed = group['part'] == 'main' and group['weight_decay'] == 0
            assert undecayed or group['weight_decay'] == pytest.approx(weight_decay, rel=1e-9)
        assert parts == {'main', *cfg.optim_wrapper.branches[name].get('parts', {})}
    assert {type(hook).__name__ for hook in runner.hooks} >= OUR_HOOKS
    logged = set(runner.message_hub.log_scalars)
    for name in runner.model.branches:
        assert {f'train/{name}.{key}' for key in ('lr', 'sm.teacher_temp', 'entropy')} <= logged
    assert 'train/ema_momentum' in logged


def test_cifar_trains_on_images_that_the_device_keeps(tmp_path, data_roots):
    """By one step, with labels for a part of them, as mokd-semi has it."""
    cfg = small_config(CIFAR, tmp_path, data_roots)
    cfg.data_preprocessor.update(type='mmmokd.MultiCropDataPreprocessor', keep_images=True)
    inner = dict(cfg.train_dataloader.dataset)
    cfg.train_dataloader.dataset = dict(
        type='mmmokd.LabeledShare', share=0.5, unlabeled=True, dataset=inner
    )
    ce = dict(type='mmmokd.ClassificationHead', num_classes=10)
    cfg.model.branches.cnn.heads = dict(ce=ce)
    cfg.launcher = 'none'
    runner, hook = build_runner(cfg), MiddleStep(0)
    runner.register_hook(hook)
    runner.train()
    bank = runner.model.data_preprocessor.bank
    assert bank.images.shape == (len(runner.train_dataloader.dataset), 32, 3, 32)
    assert set(hook.losses) > {'cnn.loss_ce'} and all(map(math.isfinite, hook.losses.values()))


@each_config
def test_config_builds_at_full_size(path):
    cfg = Config.fromfile(path)
    init_default_scope('mmpretrain')
    with no_memory():
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    views = dicts(cfg.train_dataloader)
    crop = next(node for node in views if node.get('type') == 'mmmokd.MultiCrop')
    sizes = [group['size'] for group in crop['groups'] for _ in range(group.get('num', 1))]
    assert {*sizes[: model.num_global_views]} == {max(sizes)}
    for name, branch in model.branches.items():
        images = torch.empty(1, 3, *[crop['groups'][0]['size']] * 2, device='meta')
        features = branch.student.extract(images)
        head = branch.student.search_head
        assert features.grid == head.grid_size, f'{name}: the position embedding fits a global view'
        assert head([features]).shape == (1, model.neck_defaults['out_channels'])


@each_config
def test_config_is_short_and_says_nothing_in_vain(path):
    cfg = load_config(path)  # an error if nothing reads a name
    assert cfg.default_scope == 'mmpretrain'
    assert len(path.read_text().splitlines()) <= 60


def test_files_are_short_and_define_no_functions():
    files = list((ROOT / 'configs').rglob('*.py'))
    assert len(files) > len(CONFIGS) > 10
    assert {path.name: n for path in files if (n := len(path.read_text().splitlines())) > 60} == {}
    code = (ast.FunctionDef, ast.Delete, ast.Lambda)
    trees = {path.name: ast.walk(ast.parse(path.read_text())) for path in files}
    assert not [name for name, tree in trees.items() if any(isinstance(n, code) for n in tree)]


class Stop(Exception):
    pass


class ReadSchedule(Hook):
    """Reads what each parameter group has at some iterations, and ends the run."""

    priority = 'VERY_LOW'

    def __init__(self, iterations):
        self.iterations = iterations

    def before_train(self, runner):
        self.epoch_length = len(runner.train_dataloader)
        self.settings = {}
        for iteration in self.iterations:
            for name, schedulers in runner.param_schedulers.items():
                for scheduler in schedulers:
                    scheduler.last_step = iteration - 1
                    scheduler.step()
                for group in runner.optim_wrapper[name].param_groups:
                    key = (iteration, name, group['part'], group['weight_decay'] == 0)
                    self.settings[key] = (group['lr'], group['weight_decay'])
        raise Stop


@pytest.mark.parametrize(
    ('batch_size', 'accumulative_counts'),
    [(256, 1), (64, 1), (64, 2), (64, 4), (256, 4), (1024, 1)],
)
def test_paper_schedules(tmp_path, data_roots, batch_size, accumulative_counts):
    cfg = small_config(PAPER, tmp_path, data_roots)
    cfg.model.branches.cnn.backbone.depth = 18
    # As long as ImageNet is; no image is read.
    image = dict(cfg.train_dataloader.dataset, indices=1)
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=1281167, dataset=image)
    cfg.train_dataloader.batch_size = batch_size
    cfg.optim_wrapper.accumulative_counts = accumulative_counts
    epoch_length = 1281167 // batch_size
    iterations = [
        0,
        1,
        2 * epoch_length,
        10 * epoch_length,
        60 * epoch_length,
        100 * epoch_length - 1,
    ]
    hook = ReadSchedule(iterations)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(hook)
    with pytest.raises(Stop):
        runner.train()

    assert hook.epoch_length == epoch_length
    seen = set()
    for (iteration, name, part, undecayed), found in hook.settings.items():
        lr, weight_decay = expected_setting(
            'SGD' if name == 'cnn' else 'AdamW',
            part,
            step=iteration // accumulative_counts,
            epoch_length=epoch_length / accumulative_counts,
            epochs=100,
            scale=batch_size * accumulative_counts / 256,
        )
        seen.add((name, part, undecayed))
        assert found == pytest.approx((lr, 0 if undecayed else weight_decay), rel=1e-9)
    assert seen == {
        ('cnn', 'main', False),
        ('cnn', 'main', True),
        ('cnn', 'search_head', False),
        ('vit', 'main', False),
        ('vit', 'main', True),
    }


@pytest.mark.parametrize('epochs', [1, 5, 40, 200])
def test_folder_config_in_runs_of_any_length(tmp_path, data_roots, epochs):
    """By max_epochs alone: the warm-up takes a tenth of the run, and ten epochs at most."""
    cfg = small_config(FOLDER, tmp_path, data_roots)
    image = dict(cfg.train_dataloader.dataset, indices=1)
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=40, dataset=image)
    cfg.train_cfg.max_epochs = epochs
    cfg.auto_scale_lr.enable = False  # the peaks of so small a batch are below the last rates
    epoch_length = 40 // BATCH_SIZE
    steps, warmup = epochs * epoch_length, min(epochs, 100) * epoch_length // 10
    hook = ReadSchedule([0, 1, warmup, steps // 2, steps - 1])
    runner = Runner.from_cfg(cfg)
    runner.register_hook(hook)
    with pytest.raises(Stop):
        runner.train()
    for (iteration, name, part, _), (lr, _) in hook.settings.items():
        peak, last, *_ = SGD if (name, part) == ('cnn', 'main') else ADAMW
        assert lr == pytest.approx(scheduled(iteration, steps, peak, last, warmup), rel=1e-9)


@pytest.mark.parametrize('path', [PAPER, CIFAR], ids=['imagenet', 'cifar'])
def test_config_validates(path, tmp_path, data_roots):
    cfg = small_config(path, tmp_path, data_roots)
    cfg.val_cfg.networks = ('teacher', 'student')
    runner = Runner.from_cfg(cfg)
    metrics = runner.val()
    for name in ('cnn.teacher', 'cnn.student', 'vit.teacher', 'vit.student'):
        assert 0 <= metrics[f'{name}/knn_top1'] <= metrics[f'{name}/knn_top5'] <= 100
    assert runner.test().keys() == {key for key in metrics if '.teacher/' in key}


def test_user_hooks_leave_ours(tmp_path, data_roots):
    user = tmp_path / 'user.py'
    user.write_text(
        f'_base_ = {str(FOLDER)!r}\n'
        "custom_hooks = [dict(type='EmptyCacheHook')]\n"
        'default_hooks = dict(ema_teacher=dict(base_momentum=0.99), collapse_monitor=None)\n'
    )
    runner = build_runner(small_config(user, tmp_path, data_roots))
    hooks = {type(hook).__name__: hook for hook in runner.hooks}
    assert set(hooks) >= {'EmptyCacheHook', *OUR_HOOKS} - {'CollapseMonitorHook'}
    assert 'CollapseMonitorHook' not in hooks
    assert hooks['EMATeacherHook'].base_momentum == 0.99


def test_settings_shared_in_a_file_are_overridden_one_by_one():
    cfg = Config.fromfile(MOKD / 'mokd_resnet50_resnet18_16xb16-amp-coslr-100e_in1k.py')
    cfg.merge_from_dict(
        {
            'optim_wrapper.branches.resnet50.optimizer.lr': 0.2,
            'param_scheduler.resnet50.0.final': 0.5,
            'model.branches.resnet50.heads.sm.warmup_teacher_temp_epochs': 7,
            'val_dataloader.dataset.data_root': 'elsewhere',
        }
    )
    assert cfg.optim_wrapper.branches.resnet50.optimizer.lr == 0.2
    assert cfg.optim_wrapper.branches.resnet18.optimizer.lr == 0.1
    assert cfg.param_scheduler.resnet50[0].final == 0.5
    assert cfg.param_scheduler.resnet18[0].final == 0.0048
    heads = {name: branch.heads for name, branch in cfg.model.branches.items()}
    assert heads['resnet50'].sm.warmup_teacher_temp_epochs == 7
    assert heads['resnet50'].st.warmup_teacher_temp_epochs == 50
    assert heads['resnet18'].sm.warmup_teacher_temp_epochs == 50
    assert cfg.test_dataloader.dataset.data_root == 'data/imagenet/'
