# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Every config for mmdet and mmseg: it builds at full size, and it trains, made small, one step."""

import gc
import math
import re

import pytest
import torch
from config_testing import WatchGradients, no_memory
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mokd_testing import short_log
from transfer_testing import BENCHMARKS, make_checkpoint, make_data, need, small_config

from mmmokd.cli.config import set_dataloader_defaults
from mmmokd.engine.runners.build_runner import build_runner

DETECTION = sorted((BENCHMARKS / 'detection').glob('*.py'))
SEGMENTATION = sorted((BENCHMARKS / 'segmentation').glob('*.py'))
CONFIGS = DETECTION + SEGMENTATION
# Of the configs' comments: peak learning rate, its factor a layer, and weight decay.
RATES = {
    'faster-rcnn': (0.01, 1, 1e-4),
    'retinanet': (0.01, 1, 1e-4),
    'mask-rcnn': (0.02, 1, 1e-4),
    'fcn': (0.01, 1, 5e-4),
    'upernet': (0.01, 1, 5e-4),
}
VIT_RATES = {'mask-rcnn': (1e-4, 0.7, 0.1), 'upernet': (1e-4, 0.65, 0.05)}
VIT_LAYERS = 14  # embeddings, 12 blocks, the rest

each_config = pytest.mark.parametrize('path', CONFIGS, ids=[path.stem for path in CONFIGS])


@pytest.fixture(autouse=True)
def _quick(request):
    need(*(('mmdet', 'mmcv.ops') if request.getfixturevalue('path') in DETECTION else ('mmseg',)))
    with short_log():
        yield
    gc.collect()  # a Runner is part of cycles


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A few drawn scenes in the form of each data set."""
    root = tmp_path_factory.mktemp('data')
    make_data(root, num_train=2, num_val=1)
    return root


@each_config
def test_config_builds_at_full_size(path):
    cfg = Config.fromfile(path)
    assert len(path.read_text().splitlines()) <= 60
    scope = 'mmdet' if path in DETECTION else 'mmseg'
    assert cfg.default_scope == scope
    gpus, batch_size = (
        re.search(r'_(\d+)xb(\d+)', path.stem).groups() if scope == 'mmseg' else (8, 2)
    )
    assert cfg.train_dataloader.batch_size == int(batch_size)
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=int(gpus) * int(batch_size))
    init_default_scope(scope)
    with no_memory():
        model = MODELS.build(cfg.model)
    maps = model.extract_feat(torch.empty(2, 3, 224, 256, device='meta'))
    if path in SEGMENTATION:
        classes = DATASETS.get(f'mmseg.{cfg.val_dataloader.dataset.type}').METAINFO['classes']
        for head in (model.decode_head, model.auxiliary_head):
            assert head(maps).shape[1] == len(classes)
        strides = (4, 8, 8, 8) if path.stem.startswith('fcn') else (4, 8, 16, 32)
    else:
        head = model.rpn_head if hasattr(model, 'rpn_head') else model.bbox_head
        strides = [stride[0] for stride in head.prior_generator.strides]
        scores, boxes = head(maps)
        assert len(scores) == len(boxes) == len(maps) == len(strides)
    for level, stride in zip(maps, strides, strict=True):
        assert level.shape[-2:] == (math.ceil(224 / stride), math.ceil(256 / stride))


class OneStep(WatchGradients):
    """Keeps what a run began with, and what its step found and did."""

    def before_train(self, runner):
        super().before_train(runner)
        self.start = {key: value.clone() for key, value in runner.model.state_dict().items()}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses = {key: float(value.detach()) for key, value in outputs.items()}


@each_config
def test_config_trains_one_step_from_a_branch(path, data, tmp_path):
    branch = 'vit' if 'vit' in path.stem else 'cnn'
    checkpoint = tmp_path / 'mokd.pth'
    modules = ['backbone']
    if 'c4' in path.stem:
        modules.append('roi_head.shared_head')
    options = {f'model.{module}.init_cfg.checkpoint': str(checkpoint) for module in modules}
    once = 'max_iters' if path in SEGMENTATION else 'max_epochs'
    no_validation = dict.fromkeys(('val_cfg', 'val_dataloader', 'val_evaluator'))
    options |= {f'train_cfg.{once}': 1, **no_validation}
    cfg = small_config(path, data, tmp_path, options)
    cfg.default_hooks.checkpoint.update(interval=10**6, save_last=False)
    if 'times' in cfg.train_dataloader.dataset:
        cfg.train_dataloader.dataset.times = 1
        cfg.train_dataloader.batch_size = 4
    weights = make_checkpoint(checkpoint, cfg.model, branch)
    assert cfg.model.backbone.init_cfg.prefix == f'branches.{branch}.teacher.backbone.'
    set_dataloader_defaults(cfg)

    runner = build_runner(cfg)
    hook = OneStep()
    runner.register_hook(hook)
    runner.train()

    loaded = 0
    for module in modules:
        for key in runner.model.get_submodule(module).state_dict():
            assert torch.equal(hook.start[f'{module}.{key}'], weights[key]), key
            loaded += 1
    assert loaded == len(weights)
    assert 'loss' in hook.losses and all(map(math.isfinite, hook.losses.values()))
    # A parameter without a gradient would stop a run on several GPUs.
    params = dict(runner.model.named_parameters())
    assert {name for name, param in params.items() if param.requires_grad} == hook.trained
    assert hook.trained == set(params)
    moved = {name for name, param in params.items() if not torch.equal(param, hook.start[name])}
    assert any(name.startswith('backbone.') for name in moved)
    check_rates(path, runner)


def check_rates(path, runner):
    table = VIT_RATES if 'vit' in path.stem else RATES
    lr, factor, weight_decay = table[path.stem.partition('_')[0]]
    groups = runner.optim_wrapper.param_groups
    found = sorted({group.get('initial_lr') for group in groups})
    layers = VIT_LAYERS if factor < 1 else 1
    assert found == pytest.approx([lr * factor**n for n in reversed(range(layers))])
    assert {group['weight_decay'] for group in groups} == {weight_decay, *([0] * (factor < 1))}
