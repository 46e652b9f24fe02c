# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""A MOKD checkpoint with a ResNet-18 and a ViT, for the tests of what takes its weights."""

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

import mmmokd.models  # noqa: F401
from mmmokd.registry import MODELS

IMAGE_SIZE = 64
CNN = dict(type='ResNet', depth=18, zero_init_residual=False)
VIT = dict(
    type='mmmokd.VisionTransformer',
    img_size=IMAGE_SIZE,
    patch_size=16,
    arch=dict(embed_dims=192, num_layers=3, num_heads=3, feedforward_channels=768),
)
PREPROCESSOR = dict(
    type='SelfSupDataPreprocessor', mean=[123.0, 116.0, 103.0], std=[58.0, 57.0, 56.0], to_rgb=True
)


def build(cfg, scope='mmpretrain'):
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(cfg)


def mokd_cfg(cnn=CNN, vit=VIT):
    def branch(backbone, in_channels):
        widths = dict(in_channels=in_channels, out_channels=8)
        return dict(
            backbone=backbone,
            projector=dict(
                type='mmmokd.DINOProjector', **widths, hid_channels=16, bottleneck_channels=8
            ),
            search_head=dict(
                type='mmmokd.TransformerSearchHead',
                **widths,
                embed_dims=24,
                num_layers=1,
                grid_size=2,
            ),
        )

    return dict(type='mmmokd.MOKD', branches=dict(cnn=branch(cnn, 512), vit=branch(vit, 192)))


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Give every weight and statistic a value that no initialization gives."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator) - 0.5
            value.mul_(1 + 0.2 * noise).add_(0.05 * (noise if 'var' not in name else noise + 1))


def save_mokd(path, with_config=True):
    """Write a checkpoint as a run does; returns the model."""
    cfg = Config(dict(model=mokd_cfg(), data_preprocessor=PREPROCESSOR))
    model = build(cfg.model)
    randomize(model)
    meta = dict(cfg=cfg.pretty_text) if with_config else {}
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return model.eval()


CLASSIFIER = """
_base_ = './base.py'
model = dict(
    _delete_=True,
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=512))
optim_wrapper = dict(optimizer=dict(lr=0.0))
"""


def write_classifier(folder, tiny_config):
    """A config of a ResNet-18 on the images of ``tiny_config``, in color, that learns nothing."""
    text = tiny_config.read_text().replace(", color_type='grayscale'", '')
    (folder / 'base.py').write_text(
        text.replace('[128.]', '[128.] * 3').replace('[64.]', '[64.] * 3')
    )
    config = folder / 'r18.py'
    config.write_text(CLASSIFIER)
    return config


def run_double(model: nn.Module, images: torch.Tensor):
    """A model's output in double precision and evaluation mode; not all `eval()` return the model."""
    model.double()
    model.eval()
    with torch.no_grad():
        return model(images.double())
