# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""A MOKD checkpoint through the commands to linear evaluation and fine-tuning."""

import re
import subprocess
import sys
from pathlib import Path

import cv2
import mmpretrain
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import save_checkpoint

from mmmokd.registry import MODELS
from mmmokd.weights import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
CLASSIFICATION = ROOT / 'configs' / 'mokd' / 'benchmarks' / 'classification'
TRAIN = ROOT / 'tools' / 'train.py'
MMPRETRAIN_TRAIN = Path(mmpretrain.__file__).parent / '.mim' / 'tools' / 'train.py'

SMALL = """
_base_ = {base!r}


def small(dataloader, split, crop):
    load, *transforms = dataloader.dataset.pipeline
    transforms[0 if split == 'train' else 1] = crop
    dataset = dict(data_root={data_root!r}, split=split, pipeline=[load, *transforms])
    return dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dataset)


train_dataloader = small(_base_.train_dataloader, 'train', dict(type='Resize', scale=64))
val_dataloader = small(_base_.val_dataloader, 'val', dict(type='CenterCrop', crop_size=64))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1)
default_hooks = dict(logger=dict(interval=1))
"""
# The backbones of `mokd_config`.
CNN = """
model = dict(
    backbone=dict(depth=18, stem_channels=8, base_channels=8),
    head=dict(in_channels=64))
"""
VIT = """
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48),
        img_size=64),
    head=dict(in_channels=24))
param_scheduler = dict(warmup=0)
"""
KINDS = {
    'cnn': ('resnet50_8xb128-linear-coslr-100e_in1k', CNN),
    'vit': ('vit-small-p16_8xb128-coslr-200e_in1k', VIT),
}


@pytest.fixture(scope='module')
def checkpoint(mokd_config, tmp_path_factory) -> Path:
    """A checkpoint as training MOKD on its fixture's config would leave it at the very start."""
    cfg = Config.fromfile(mokd_config)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.01, 0.1)  # teacher and student differ, and statistics are not initial
    file = tmp_path_factory.mktemp('mokd_weights') / 'epoch_1.pth'
    save_checkpoint(dict(meta={}, state_dict=model.state_dict()), str(file))
    return file


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory) -> Path:
    """A few images of noise in the form of ImageNet, with lists."""
    root = tmp_path_factory.mktemp('imagenet')
    rng = np.random.default_rng(0)
    (root / 'meta').mkdir()
    for split in ('train', 'val'):
        (root / split).mkdir()
        for i in range(4):
            image = rng.integers(0, 256, (96, 80, 3), dtype=np.uint8)
            cv2.imwrite(str(root / split / f'{i}.png'), image)
        (root / 'meta' / f'{split}.txt').write_text('\n'.join(f'{i}.png {i}' for i in range(4)))
    return root


@pytest.fixture
def finetune(run, checkpoint, imagenet, tmp_path):
    """Run a config of a kind, made small, by a command and with options; what it left behind."""

    def finetune(kind, *options, tool=TRAIN) -> subprocess.CompletedProcess:
        name, model = KINDS[kind]
        config = tmp_path / f'{kind}.py'
        base = str(CLASSIFICATION / f'{name}.py')
        config.write_text(SMALL.format(base=base, data_root=f'{imagenet}/') + model)
        command = (sys.executable, tool, config, '--work-dir', tmp_path / 'out')
        return run(*command, '--cfg-options', *options, cwd=tmp_path)

    return finetune


def start_from(checkpoint, prefix):
    init_cfg = 'model.backbone.init_cfg'
    return f'{init_cfg}.checkpoint={checkpoint}', f'{init_cfg}.prefix={prefix}'


@pytest.mark.parametrize(
    ('network', 'tool'), [('teacher', TRAIN), ('student', MMPRETRAIN_TRAIN)], ids=['our', 'mmpret']
)
def test_linear_evaluation_is_of_the_checkpoint(finetune, checkpoint, tmp_path, network, tool):
    prefix = f'branches.cnn.{network}.backbone.'
    done = finetune('cnn', *start_from(checkpoint, prefix), tool=tool)
    assert done.returncode == 0, done.stdout
    assert 'accuracy/top1' in done.stdout
    source = read_checkpoint(checkpoint)['state_dict']
    found = read_checkpoint(tmp_path / 'out' / 'epoch_1.pth')['state_dict']
    backbone = {key: value for key, value in source.items() if key.startswith(prefix)}
    assert len(backbone) == sum(key.startswith('backbone.') for key in found)
    for key, value in backbone.items():
        assert torch.equal(found[f'backbone.{key.removeprefix(prefix)}'], value), key
    assert found['head.fc.bias'].any()


def test_fine_tuning_starts_from_the_checkpoint(finetune, checkpoint, tmp_path):
    prefix = 'branches.vit.teacher.backbone.'
    # No layer learns: what is left is what was loaded.
    still = ('optim_wrapper.optimizer.lr=0', 'optim_wrapper.optimizer.weight_decay=0')
    done = finetune('vit', *start_from(checkpoint, prefix), *still, 'param_scheduler.final=0')
    assert done.returncode == 0, done.stdout
    assert re.search(r'VisionTransformer: all \d+ weights loaded from', done.stdout)
    source = read_checkpoint(checkpoint)['state_dict']
    found = read_checkpoint(tmp_path / 'out' / 'epoch_1.pth')['state_dict']
    backbone = {key for key in found if key.startswith('backbone.')}
    assert backbone == {
        f'backbone.{key.removeprefix(prefix)}' for key in source if key.startswith(prefix)
    }
    for key in backbone:
        assert torch.equal(found[key], source[prefix + key.removeprefix('backbone.')]), key


def test_wrong_branch_is_one_message(finetune, checkpoint, tmp_path):
    done = finetune('cnn', *start_from(checkpoint, 'branches.resnet.teacher.backbone.'))
    assert done.returncode == 2, done.stdout
    (error,) = re.findall(r'^error: .*', done.stdout, re.MULTILINE)
    assert 'cnn (student, teacher), vit (student, teacher)' in error
    assert not list((tmp_path / 'out').glob('*.pth'))
