# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The configs of DINO and DoGo: each trains a step and is validated, made small."""

import functools
import math
from pathlib import Path

import pytest
import torch
from config_testing import BATCH_SIZE, make_data_roots, small_config
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mokd_testing import build_runner

from mmmokd.cli.config import load_config
from mmmokd.registry import MODELS

ROOT = Path(__file__).parents[2] / 'configs'
CONFIGS = sorted(path for name in ('dino', 'dogo') for path in (ROOT / name).glob('*.py'))
MOKD = ROOT / 'mokd'
each_config = pytest.mark.parametrize('path', CONFIGS, ids=[path.stem for path in CONFIGS])
CIFAR = [path for path in CONFIGS if 'cifar10' in path.name]
EVERYDAY = [path for path in CIFAR if 'simsiam' not in path.name]


@pytest.fixture(scope='module')
def data_roots(tmp_path_factory):
    """A few random images in the form of each kind of data set."""
    return make_data_roots(tmp_path_factory)


@pytest.fixture(autouse=True)
def _random_images_are_cifar(monkeypatch):
    monkeypatch.setattr('mmpretrain.datasets.cifar.check_md5', lambda path, md5: True)


class OneStep(Hook):
    """Ends the run after a step, and keeps its losses and what had a gradient."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.trained = set()
        for name, param in runner.model.named_parameters():
            if param.requires_grad:
                param.register_post_accumulate_grad_hook(lambda _, n=name: self.trained.add(n))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses = {k: float(v.detach()) for k, v in outputs.items() if '.loss_' in k}
        runner.train_loop.stop_training = True


def expected_losses(path, branches):
    if path.parent.name == 'dino':
        return {f'{name}.loss_sm' for name in branches}
    pairs = {f'{i}.loss_kl.{j}' for i in branches for j in branches if i != j}
    return pairs | {f'{name}.loss_ssl' for name in branches}


@pytest.mark.parametrize(
    'path',
    [
        pytest.param(path, marks=[] if path in EVERYDAY else pytest.mark.long, id=path.stem)
        for path in CONFIGS
    ],
)
def test_config_trains_and_validates(path, tmp_path, data_roots):
    cfg = small_config(path, tmp_path, data_roots)
    cfg.train_cfg.val_interval = 1
    runner = build_runner(cfg, hook := OneStep())
    runner.train()
    branches = runner.model.branches
    assert {*hook.losses} == expected_losses(path, branches)
    assert all(map(math.isfinite, hook.losses.values()))
    trainable = {name for name, param in runner.model.named_parameters() if param.requires_grad}
    assert hook.trained == trainable  # or a run on several GPUs would stop
    for name, branch in branches.items():
        groups = runner.optim_wrapper[name].param_groups
        found = {id(param) for group in groups for param in group['params']}
        assert found == {id(param) for param in branch.parameters() if param.requires_grad}
        assert 0 <= runner.message_hub.get_scalar(f'val/{name}.teacher/knn_top1').current() <= 100
    assert len(next(iter(runner.train_dataloader))['inputs'][0]) == BATCH_SIZE


@pytest.mark.parametrize('path', CIFAR, ids=[path.stem for path in CIFAR])
def test_cifar_configs_are_mokds(path):
    """But for the method: the same backbones, optimizers and schedules, data and evaluation."""
    cfg = Config.fromfile(path)
    base = Config.fromfile(MOKD / 'mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py')
    for name, branch in base.model.branches.items():
        assert cfg.model.branches[name].backbone == branch.backbone
        settings = cfg.optim_wrapper.branches[name]
        assert settings.optimizer == base.optim_wrapper.branches[name].optimizer
        main = [each for each in base.param_scheduler[name] if each.get('part') != 'search_head']
        assert cfg.param_scheduler[name] == main
    for key in ('train_cfg', 'val_cfg', 'val_evaluator', 'data_preprocessor', 'auto_scale_lr'):
        assert cfg[key] == base[key]
    groups, own = (each.train_dataloader.dataset.pipeline[1].groups for each in (base, cfg))
    assert own == (groups if path.parent.name == 'dino' else groups[:2] * 2)


@each_config
def test_config_builds_at_full_size(path, monkeypatch):
    # Without memory for the weights. Backbones read the numbers of their linspace.
    monkeypatch.setattr(torch, 'linspace', functools.partial(torch.linspace, device='cpu'))
    cfg = load_config(path)  # an error if nothing reads a name
    init_default_scope('mmpretrain')
    with torch.device('meta'):
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).eval()
    groups = cfg.train_dataloader.dataset.pipeline[1].groups
    size = groups[0]['size']
    sizes = [each['size'] for each in groups for _ in range(each.get('num', 1))]
    assert {*sizes[: model.num_global_views]} == {size} == {max(sizes)}
    images = [torch.empty(1, 3, size, size, device='meta')]
    widths = dict(dino=model.neck_defaults.get('out_channels'), dogo=128)
    for branch in model.branches.values():
        found = branch.student([images], 1)['projector'].shape
        wanted = 2048 if 'simsiam' in path.name else widths[path.parent.name]
        assert found == (1, 1, wanted)
