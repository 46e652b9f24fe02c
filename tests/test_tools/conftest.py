# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mokd_testing import short_log

from mmmokd.cli.config import load_config, set_dataloader_defaults, set_work_dir
from mmmokd.engine.runners.build_runner import build_runner

ROOT = Path(__file__).resolve().parents[2]

CONFIG = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(type='LeNet5', num_classes=2),
    head=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss')))
data_preprocessor = dict(mean=[128.], std=[64.])
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset',
        data_root={data_root!r},
        pipeline=[
            dict(type='LoadImageFromFile', color_type='grayscale'),
            dict(type='PackInputs'),
        ]))
val_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=train_dataloader['dataset'])
val_evaluator = dict(type='Accuracy', topk=(1, ))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=True, max_epochs=1, val_interval=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
param_scheduler = dict(type='PolyLR', end=200, by_epoch=False)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', interval=1))
auto_scale_lr = dict(base_batch_size=2)
randomness = dict(seed=0)
"""


@pytest.fixture(scope='session')
def tiny_config(tmp_path_factory) -> Path:
    """A stock mmpretrain config: LeNet-5 on eight images of two classes, on the CPU."""
    folder = tmp_path_factory.mktemp('tiny')
    rng = np.random.default_rng(0)
    for index in range(8):
        image = rng.integers(0, 128, (32, 32), dtype=np.uint8) + 127 * (index % 2)
        file = folder / 'images' / 'ab'[index % 2] / f'{index}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), image)
    config = folder / 'lenet5_tiny.py'
    config.write_text(CONFIG.format(data_root=str(folder / 'images')))
    return config


@pytest.fixture(scope='session')
def cpu_env() -> dict[str, str]:
    """The environment of a command that is to find this checkout, and no GPU."""
    return {
        **os.environ,
        'CUDA_VISIBLE_DEVICES': '',
        'OMP_NUM_THREADS': '1',
        'PYTHON': sys.executable,
        'PYTHONPATH': str(ROOT),
    }


@pytest.fixture(scope='session')
def run(cpu_env):
    """Run a command in the checkout to its end; its output comes as ``.stdout``, all of it."""

    def run(*command, cwd: Path = ROOT) -> subprocess.CompletedProcess:
        return subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env=cpu_env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )

    return run


MOKD_CONFIG = """
_base_ = {base!r}

load, crop, pack = _base_.train_dataloader.dataset.pipeline
first, second, local = crop.groups
crop.groups = [dict(first, size=64), dict(second, size=64), dict(local, size=32, num=2)]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root={data_root!r}, pipeline=[load, crop, pack]))
model = dict(
    global_size=64,
    neck_defaults=dict(
        out_channels=16, embed_dims=24, hid_channels=32, bottleneck_channels=16),
    branches=dict(
        cnn=dict(
            backbone=dict(stem_channels=8, base_channels=8)),
        vit=dict(
            backbone=dict(
                arch=dict(
                    _delete_=True,
                    embed_dims=24,
                    num_layers=2,
                    num_heads=2,
                    feedforward_channels=48),
                img_size=64,
                drop_path_rate=0.5))))
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(interval=1, max_keep_ckpts=-1),
    collapse_monitor=dict(interval=1))
del load, crop, pack, first, second, local
"""


@pytest.fixture(scope='session')
def mokd_config(tmp_path_factory) -> Path:
    """The config for your own folder, made narrow, on eight images of noise."""
    folder = tmp_path_factory.mktemp('mokd')
    rng = np.random.default_rng(0)
    (folder / 'images').mkdir()
    for index in range(8):
        image = rng.integers(0, 256, (80, 96, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / 'images' / f'{index}.png'), image)
    base = ROOT / 'configs' / 'mokd' / 'mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder.py'
    config = folder / 'mokd_tiny.py'
    config.write_text(MOKD_CONFIG.format(base=str(base), data_root=str(folder / 'images')))
    return config


@pytest.fixture(scope='session')
def mokd_checkpoint(mokd_config) -> Path:
    """The checkpoint of a short run of ``mokd_config``, its ViT with four blocks."""
    options = {'model.branches.vit.backbone.arch.num_layers': 4, 'param_scheduler': None}
    cfg = load_config(mokd_config, {**options, 'train_cfg.max_epochs': 1})
    set_work_dir(cfg, str(mokd_config.parent / 'four_blocks'))
    set_dataloader_defaults(cfg)
    with short_log():
        build_runner(cfg).train()
    return Path(cfg.work_dir) / 'epoch_1.pth'
