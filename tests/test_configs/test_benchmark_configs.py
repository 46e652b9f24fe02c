# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Every config of fine-tuning and linear evaluation: it reads, builds and trains, made small, a step."""

import gc
import math
from pathlib import Path

import pytest
import torch
from classification_testing import LAYERS, SIZE, small_config, write_datasets
from config_testing import WatchGradients, no_memory
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS
from mokd_testing import build_runner, copy_of, short_log
from torch import nn

from mmmokd.cli.config import load_config
from mmmokd.registry import MODELS

CLASSIFICATION = Path(__file__).parents[2] / 'configs' / 'mokd' / 'benchmarks' / 'classification'
CONFIGS = sorted(CLASSIFICATION.rglob('*.py'))
LINEAR_VIT = CLASSIFICATION / 'vit-small-p16_8xb128-linear-coslr-100e_in1k.py'
BATCH_SIZE = 2

each_config = pytest.mark.parametrize('path', CONFIGS, ids=[path.stem for path in CONFIGS])


@pytest.fixture(scope='module')
def data_roots(tmp_path_factory):
    gc.freeze()  # earlier objects are not traversed again for each config
    yield write_datasets(tmp_path_factory)
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _clean():
    yield
    gc.collect()  # a Runner is part of cycles


class Stop(Exception):
    pass


class OneStep(WatchGradients):
    """Makes the first step of a run, and keeps what it found and did."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.groups = [dict(group, params=None) for group in runner.optim_wrapper.param_groups]
        self.before = copy_of(runner.model.state_dict())

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.loss = float(outputs['loss'].detach())
        after = runner.model.state_dict()
        self.moved = {key for key in after if not torch.equal(after[key], self.before[key])}
        raise Stop


def one_step(cfg):
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    hook = OneStep()
    runner = build_runner(cfg, hook)
    with short_log(), pytest.raises(Stop):
        runner.train()
    return runner, hook


@each_config
def test_config_trains_one_step(path, tmp_path, data_roots):
    cfg = small_config(path, tmp_path, data_roots, BATCH_SIZE)
    runner, hook = one_step(cfg)
    model = runner.model
    assert math.isfinite(hook.loss)
    trainable = {name for name, param in model.named_parameters() if param.requires_grad}
    assert trainable == hook.trained
    head = {name for name in trainable if name.startswith('head.')}
    assert head and head <= hook.moved
    modes = {module.training for module in model.backbone.modules() if is_random(module)}
    if '-linear-' in path.stem:
        # Bit for bit, statistics of batch norm included.
        assert trainable == hook.moved == head
        assert modes <= {False}
    else:
        assert hook.moved & (trainable - head)
        assert modes == {True}
    # The peak learning rate, for the batch size of the run.
    optimizer = cfg.optim_wrapper.optimizer
    peak = optimizer.lr * BATCH_SIZE / cfg.auto_scale_lr.base_batch_size
    assert max(group['lr'] for group in hook.groups) == pytest.approx(peak, rel=1e-9)
    decay = cfg.optim_wrapper.get('paramwise_cfg', {}).get('layer_decay_rate', 1.0)
    if type(model.backbone).__name__ == 'VisionTransformer' and '-linear-' not in path.stem:
        first = min(group['lr'] for group in hook.groups)
        assert first == pytest.approx(peak * decay ** (LAYERS + 1), rel=1e-9)
        assert {group['weight_decay'] for group in hook.groups} == {0.0, optimizer.weight_decay}


def is_random(module):
    """Check whether a module behaves differently in training."""
    return isinstance(module, nn.BatchNorm2d) or getattr(module, 'drop_prob', 0) > 0


@each_config
def test_config_builds_at_full_size(path):
    cfg = Config.fromfile(path)
    init_default_scope('mmpretrain')
    with no_memory():
        model = MODELS.build(cfg.model)
        model.eval()
        scores = model(torch.empty(1, 3, 224, 224))
    classes = cfg.data_preprocessor.num_classes
    assert scores.shape == (1, classes)
    dataset = cfg.train_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    names = DATASETS.get(dataset.type).METAINFO.get('classes')
    assert names is None or len(names) == classes
    if '-linear-' in path.stem:
        trainable = [name for name, param in model.named_parameters() if param.requires_grad]
        assert trainable == ['head.fc.weight', 'head.fc.bias']
        optimizer = cfg.optim_wrapper.optimizer
        lr = 0.001 if path.stem.startswith('vit') else 0.01
        assert optimizer == dict(type='SGD', lr=lr, momentum=0.9, weight_decay=0.0)
        assert cfg.auto_scale_lr == dict(base_batch_size=256, enable=True)


@each_config
def test_config_is_short_and_says_nothing_in_vain(path):
    cfg = load_config(path)  # an error if nothing reads a name
    assert cfg.default_scope == 'mmpretrain' and 'mmmokd' in cfg.custom_imports.imports
    assert len(path.read_text().splitlines()) <= 60
    start = cfg.model.backbone.init_cfg
    assert start.type == 'Pretrained' and start.prefix.endswith('.teacher.backbone.')
    pretraining = Path(start.checkpoint).parent.name
    (recipe,) = CLASSIFICATION.parents[1].glob(f'{pretraining}.py')
    branch = Config.fromfile(recipe).model.branches[start.prefix.split('.')[1]]
    for key in ('type', 'depth', 'arch', 'patch_size'):
        assert branch.backbone.get(key) == cfg.model.backbone.get(key), key


@pytest.mark.parametrize('name', ['resnet50_8xb128-coslr-30e_in1k', 'resnet50_*_flowers102'])
def test_config_validates_and_tests(name, tmp_path, data_roots):
    (path,) = CLASSIFICATION.glob(f'{name}.py')
    cfg = small_config(path, tmp_path, data_roots)
    cfg.model.backbone.depth, cfg.model.head.in_channels = 18, 512
    runner = build_runner(cfg)
    metrics = runner.val()
    keys = ('top1', 'top5') if 'in1k' in name else ('top1',)
    assert {f'accuracy/{key}' for key in keys} <= metrics.keys()
    assert 'in1k' in name or 'single-label/recall' in metrics
    assert all(0 <= value <= 100 for value in metrics.values())
    assert runner.test().keys() == metrics.keys()


def attention(layer, x, num_heads):
    batch, length, width = x.shape
    qkv = nn.functional.linear(x, layer.attn.qkv.weight, layer.attn.qkv.bias)
    q, k, v = qkv.reshape(batch, length, 3, num_heads, -1).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) / math.sqrt(width // num_heads)).softmax(-1)
    x = (weights @ v).transpose(1, 2).reshape(batch, length, width)
    return nn.functional.linear(x, layer.attn.proj.weight, layer.attn.proj.bias)


def test_linear_evaluation_reads_the_last_four_class_tokens(tmp_path, data_roots, float64):
    """By hand: each block, and of each of the last four the class token after the final norm."""
    cfg = small_config(LINEAR_VIT, tmp_path, data_roots)
    model_cfg = cfg.model
    model_cfg.backbone.arch.update(
        num_layers=LAYERS + 2, embed_dims=24, num_heads=3, feedforward_channels=48
    )
    model_cfg.backbone.update(img_size=SIZE, frozen_stages=LAYERS + 2, out_indices=[2, 3, 4, 5])
    model_cfg.head.in_channels = 4 * 24
    init_default_scope('mmpretrain')
    model = MODELS.build(model_cfg)
    torch.manual_seed(0)
    for param in model.parameters():
        nn.init.normal_(param, std=0.2)
    model.train()
    images = torch.randn(2, 3, SIZE, SIZE)
    (found,) = model.extract_feat(images)

    vit = model.backbone
    projection = vit.patch_embed.projection
    patches = images.unfold(2, 16, 16).unfold(3, 16, 16)  # (B, 3, 4, 4, 16, 16)
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)  # (B, 16, 3 * 16 * 16)
    x = patches @ projection.weight.flatten(1).T + projection.bias
    x = torch.cat((vit.cls_token.expand(2, -1, -1), x), dim=1) + vit.pos_embed
    tokens = []
    for layer in vit.layers:
        x = x + attention(layer, layer.ln1(x), 3)
        (first, _, _), second = layer.ffn.layers[0], layer.ffn.layers[1]
        x = x + second(nn.functional.gelu(first(layer.ln2(x))))
        tokens.append(vit.ln1(x)[:, 0])
    expected = torch.cat(tokens[-4:], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert not found.requires_grad
