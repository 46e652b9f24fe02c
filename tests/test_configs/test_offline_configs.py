# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Configs of CompRess, DisCo and BINGO: each reads, builds at full size and, made small, trains."""

import functools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from config_testing import BATCH_SIZE, dicts, make_data_roots, small_config
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope, init_default_scope
from mokd_testing import short_log

from mmmokd.cli.config import load_config
from mmmokd.engine.runners.build_runner import build_runner
from mmmokd.registry import MODELS

ROOT = Path(__file__).parents[2] / 'configs'
METHODS = ('compress', 'disco', 'bingo')
CONFIGS = sorted(path for name in METHODS for path in (ROOT / name).glob('*.py'))
CIFAR = [path for path in CONFIGS if 'cifar10' in path.name]
(EVERYDAY,) = [path for path in CIFAR if path.parent.name == 'bingo']
BASE = ROOT / 'mokd' / 'mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'
TERMS = dict(compress=['kl'], disco=['co', 'dis'], bingo=['bag'])


@pytest.fixture(scope='module')
def data_roots(tmp_path_factory):
    return make_data_roots(tmp_path_factory)


@pytest.fixture(autouse=True)
def _random_images_are_cifar(monkeypatch):
    monkeypatch.setattr('mmpretrain.datasets.cifar.check_md5', lambda path, md5: True)


class OneStep(Hook):
    """Ends the run after a step; keeps its losses and what had a gradient."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.trained = set()
        for name, param in runner.model.named_parameters():
            if param.requires_grad:
                param.register_post_accumulate_grad_hook(lambda _, n=name: self.trained.add(n))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses = {k: float(v.detach()) for k, v in outputs.items() if '.loss_' in k}
        runner.train_loop.stop_training = True


def make_small(path, tmp_path, data_roots):
    """With short queues, a file of neighbors, and a file of the teacher's weights."""
    defaults = Config.fromfile(path).model.get('neck_defaults', {})
    cfg = small_config(path, tmp_path, data_roots)
    cfg.model.neck_defaults = defaults
    for node in dicts(cfg.model):
        if 'queue_length' in node:
            node['queue_length'] = 8
        if node.get('type') == 'ResNet_CIFAR':
            node.update(stem_channels=8, base_channels=8)
    cfg.optim_wrapper.type, cfg.optim_wrapper.dtype = 'OptimWrapper', None
    cfg.optim_wrapper.loss_scale = None
    cfg.update(log_level='WARNING', visualizer=None)
    bags = cfg.train_dataloader.dataset
    if bags.type == 'mmmokd.NeighborBags':
        bags.dataset.indices = bags.pop('indices')
        neighbors = np.arange(BATCH_SIZE)[::-1, None].repeat(bags.num_neighbors, axis=1)
        np.savez(tmp_path / 'neighbors.npz', neighbors=neighbors)
        bags.neighbors = str(tmp_path / 'neighbors.npz')
    teacher = next(branch for branch in cfg.model.branches.values() if branch.get('frozen'))
    state = {}
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        parts = [dict(teacher.backbone)]
        if 'projector' in teacher:
            parts.append(dict(MODELS.get('mmmokd.DisCo').necks['projector'], **teacher.projector))
            parts[1].update(in_channels=2048, hid_channels=2048)
        for part in parts:
            start = part.pop('init_cfg')
            module = MODELS.build(part)
            state |= {f'{start["prefix"]}{k}': v for k, v in module.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'teacher.pth')
    for node in dicts(teacher):
        if 'checkpoint' in node:
            node['checkpoint'] = str(tmp_path / 'teacher.pth')
    return cfg


@pytest.mark.parametrize(
    'path',
    [
        pytest.param(path, marks=[] if path == EVERYDAY else pytest.mark.long, id=path.stem)
        for path in CONFIGS
    ],
)
def test_config_trains_and_validates(path, tmp_path, data_roots):
    init_default_scope('mmpretrain')
    cfg = make_small(path, tmp_path, data_roots)
    cfg.train_cfg.val_interval = 1
    cfg.launcher = 'none'
    with short_log():
        runner = build_runner(cfg)
    runner.register_hook(hook := OneStep())
    runner.train()
    branches = runner.model.branches
    (student,) = (name for name, branch in branches.items() if not branch.frozen)
    assert [key.split('.')[1].removeprefix('loss_') for key in hook.losses] == TERMS[
        path.parent.name
    ]
    assert all(map(math.isfinite, hook.losses.values()))
    trainable = {name for name, param in runner.model.named_parameters() if param.requires_grad}
    assert hook.trained == trainable  # or a run on several GPUs would stop
    assert list(runner.optim_wrapper.keys()) == [student]
    views = cfg.model.get('num_global_views', 2) if path.parent.name == 'compress' else 1
    pointers = [int(v) for k, v in runner.model.state_dict().items() if k.endswith('queue.pointer')]
    assert pointers == [views * BATCH_SIZE]
    logged = runner.message_hub.log_scalars
    assert [key for key in logged if key.startswith(f'val/{student}.') and 'knn_top1' in key]


@pytest.mark.parametrize('path', CIFAR, ids=[path.stem for path in CIFAR])
def test_cifar_config_is_mokds(path):
    """But for the method and the local views: models, data, optimizer, schedules and evaluation."""
    cfg, base = Config.fromfile(path), Config.fromfile(BASE)
    assert cfg.model.branches.cnn.backbone == base.model.branches.cnn.backbone
    assert dict(cfg.model.branches.vit.backbone, init_cfg=None) == dict(
        base.model.branches.vit.backbone, init_cfg=None
    )
    optimizers = (each.optim_wrapper.branches.cnn.optimizer for each in (cfg, base))
    assert [*optimizers] == [base.optim_wrapper.branches.cnn.optimizer] * 2
    assert cfg.param_scheduler.cnn == base.param_scheduler.cnn[:1]
    for key in ('train_cfg', 'val_cfg', 'val_evaluator', 'data_preprocessor', 'auto_scale_lr'):
        assert cfg[key] == base[key]
    crops = [
        [
            node.groups
            for node in dicts(each.train_dataloader)
            if node.get('type') == 'mmmokd.MultiCrop'
        ]
        for each in (cfg, base)
    ]
    assert crops[0] == [crops[1][0][:2]]


@pytest.mark.parametrize('path', CONFIGS, ids=[path.stem for path in CONFIGS])
def test_config_builds_at_full_size(path, monkeypatch):
    monkeypatch.setattr(torch, 'linspace', functools.partial(torch.linspace, device='cpu'))
    monkeypatch.setattr(torch, 'Generator', lambda: torch.default_generator)
    cfg = load_config(path)  # an error if nothing reads a name
    assert len(path.read_text().splitlines()) <= 60
    init_default_scope('mmpretrain')
    with torch.device('meta'):
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    (student,) = (branch for branch in model.branches.values() if not branch.frozen)
    (head, *_) = (head for _, _, head in student.terms() if hasattr(head, 'queue'))
    (frozen,) = (branch for branch in model.branches.values() if branch.frozen)
    reads = next(head.target_reads for _, peer, head in student.terms() if peer)
    width = frozen.teacher.width(reads)
    assert width == (128 if reads == 'projector' else frozen.teacher.spec.pooled_channels)
    assert head.queue['teacher'].shape[1] == width
    assert (
        ('student' in head.queue.embeddings)
        == (path.parent.name == 'compress')
        == bool(student.ema and path.parent.name != 'disco')
    )
