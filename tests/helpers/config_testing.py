# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Configs made small, and random images in the form of each data set that they name."""

import functools
import pickle
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmpretrain.models import VisionTransformer as ViT
from PIL import Image

from mmmokd.models.branches.backbone import class_of, has_argument
from mmmokd.registry import MODELS

BATCH_SIZE = 2
IMAGES = 30  # of a set with labels


def dicts(node) -> Iterator[dict]:
    """Every dict of a config, outer before inner."""
    if isinstance(node, dict):
        yield node
    if isinstance(node, dict | list | tuple):
        for child in node.values() if isinstance(node, dict) else node:
            yield from dicts(child)


@contextmanager
def no_memory():
    """Build models without memory for their weights.

    Backbones read the numbers of their linspace, queues draw their rows by a generator of their own.
    """
    with (
        patch('torch.linspace', functools.partial(torch.linspace, device='cpu')),
        patch('torch.Generator', functools.partial(torch.Generator, 'cpu')),
        torch.device('meta'),
    ):
        yield


class WatchGradients(Hook):
    """Keeps the names of the parameters that have had a gradient."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.trained = set()
        for name, param in runner.model.named_parameters():
            if param.requires_grad:
                param.register_post_accumulate_grad_hook(lambda _, n=name: self.trained.add(n))


class OneStep(WatchGradients):
    """Ends the run after a step; keeps its losses and settings, and which parameters it moved."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.groups = {
            name: [dict(group, params=len(group['params'])) for group in wrapper.param_groups]
            for name, wrapper in runner.optim_wrapper.items()
        }
        self.before = checksums(runner.model)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses = {key: float(x.detach()) for key, x in outputs.items() if '.loss_' in key}
        self.total = float(outputs['loss'].detach())
        after = checksums(runner.model)
        self.moved = {name for name in after if after[name] != self.before[name]}
        runner.train_loop.stop_training = True


def checksums(model):
    """Of every parameter; copies would double the memory."""
    return {
        name: zlib.crc32(p.detach().contiguous().numpy()) for name, p in model.named_parameters()
    }


def draw_image(path, rng, size=80):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)


def write_idx(path, array):
    """The format of MNIST: two zeros, the type (8: a byte), the dimensions, their sizes, the data."""
    sizes = struct.pack(f'>{array.ndim}I', *array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


def make_data_roots(tmp_path_factory):
    """Folders by type of data set."""
    rng = np.random.default_rng(0)
    kinds = ('ImageNet', 'CIFAR10', 'FashionMNIST', 'mmmokd.ImageFolder')
    roots = {kind: tmp_path_factory.mktemp(kind) for kind in kinds}
    for split in ('train', 'val'):
        names = [f'{i}.png' for i in range(IMAGES)]
        for name in names:
            draw_image(roots['ImageNet'] / split / name, rng)
        lines = [f'{name} {i % 3}' for i, name in enumerate(names)]
        (roots['ImageNet'] / 'meta').mkdir(exist_ok=True)
        (roots['ImageNet'] / 'meta' / f'{split}.txt').write_text('\n'.join(lines))
    for i in range(IMAGES):
        draw_image(roots['mmmokd.ImageFolder'] / 'abc'[i % 3] / f'{i}.png', rng)
    cifar = roots['CIFAR10'] / 'cifar-10-batches-py'
    cifar.mkdir()
    for name in (*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch'):
        data = rng.integers(0, 256, (8, 3 * 32 * 32), dtype=np.uint8)
        (cifar / name).write_bytes(pickle.dumps(dict(data=data, labels=list(range(8)))))
    for split in ('train', 't10k'):
        images = rng.integers(0, 256, (IMAGES, 28, 28), dtype=np.uint8)
        write_idx(roots['FashionMNIST'] / f'{split}-images-idx3-ubyte', images)
        labels = np.arange(IMAGES, dtype=np.uint8) % 3
        write_idx(roots['FashionMNIST'] / f'{split}-labels-idx1-ubyte', labels)
    return roots


def shrink_sizes(cfg):
    """Few prototypes, narrow projectors, two layers of a ViT's twelve, small and few views."""
    narrow = dict(out_channels=32, hid_channels=64, bottleneck_channels=32)
    necks = [class_of(neck) for neck in MODELS.get(cfg.model.type).necks.values()]
    taken = {k: v for k, v in narrow.items() if any(has_argument(neck, k) for neck in necks)}
    cfg.model.setdefault('neck_defaults', {}).update(taken)
    for branch in filter(None, cfg.model.branches.values()):
        arch = branch.backbone.get('arch')
        if branch.backbone.type == 'mmmokd.VisionTransformer' and isinstance(arch, str):
            branch.backbone.arch = dict(ViT.arch_zoo[arch], num_layers=2)
    for node in dicts(cfg._cfg_dict):
        if node.get('type') == 'mmmokd.MultiCrop':
            largest = max(group['size'] for group in node['groups'])
            for group in node['groups']:
                if group['size'] < largest:
                    group['num'] = min(group.get('num', 1), 2)
                if largest > 64:
                    group['size'] = 64 if group['size'] == largest else 32
        elif node.get('type') == 'ResizeEdge':
            node['scale'] = 64
        elif node.get('type') == 'CenterCrop':
            node['crop_size'] = 64


def small_config(path, tmp_path, data_roots):
    """A config that trains on a few images in seconds."""
    cfg = Config.fromfile(path)
    shrink_sizes(cfg)
    for node in dicts(cfg._cfg_dict):
        if node.get('type') in data_roots and 'pipeline' in node:
            node['data_root'] = str(data_roots[node['type']])
        elif 'dataset' in node and 'sampler' in node:
            node.update(num_workers=0, persistent_workers=False, pin_memory=False)
            node['batch_size'] = 8
    cfg.train_dataloader.batch_size = BATCH_SIZE
    cfg.train_dataloader.dataset.indices = BATCH_SIZE
    cfg.default_hooks.checkpoint.update(interval=10**6, save_last=False)
    if cfg.default_hooks.collapse_monitor:
        cfg.default_hooks.collapse_monitor.interval = 1
    cfg.work_dir = str(tmp_path)
    cfg.experiment_name = tmp_path.name
    return cfg
