# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from test_features import NumberedImages, make_loader

import mmmokd.models  # noqa: F401
from mmmokd.engine.hooks.collapse_monitor_hook import CollapseMonitorHook
from mmmokd.evaluation import extract_features
from mmmokd.registry import MODELS


@pytest.fixture(scope='module')
def mokd():
    torch.manual_seed(0)

    def branch(backbone, channels, **search_head):
        projector = dict(type='mmmokd.DINOProjector', in_channels=channels, out_channels=16)
        head = dict(
            type='mmmokd.TransformerSearchHead',
            in_channels=channels,
            out_channels=16,
            embed_dims=12,
            num_heads=2,
            num_layers=1,
            **search_head,
        )
        return dict(
            backbone=backbone,
            projector=dict(projector, hid_channels=8, bottleneck_channels=8),
            search_head=head,
        )

    resnet = dict(type='mmpretrain.ResNet', depth=18, stem_channels=4, base_channels=4)
    arch = dict(embed_dims=12, num_layers=1, num_heads=2, feedforward_channels=12)
    vit = dict(type='mmmokd.VisionTransformer', arch=arch, img_size=8, patch_size=4)
    branches = dict(
        cnn=branch(resnet, 32, grid_size=1), vit=branch(vit, 12, grid_size=2, projection=False)
    )
    model = MODELS.build(dict(type='mmmokd.MOKD', branches=branches))
    for each in model.branches.values():
        for parameter in each.student.parameters():
            parameter.data.mul_(1.1)
    return model


def test_features_of_all_networks(mokd):
    images = torch.stack([NumberedImages(5)[i]['inputs'] for i in range(5)])
    features, labels = extract_features(
        mokd, make_loader(NumberedImages(5)), networks=('teacher', 'student')
    )
    assert {name: tuple(value.shape) for name, value in features.items()} == {
        'cnn.teacher': (5, 32),
        'vit.teacher': (5, 12),
        'cnn.student': (5, 32),
        'vit.student': (5, 12),
    }
    assert labels.tolist() == [0, 1, 2, 0, 1] and mokd.training
    mokd.eval()
    with torch.no_grad():
        for network in ('teacher', 'student'):
            for branch, value in mokd.extract_feat(images.float(), network=network).items():
                torch.testing.assert_close(features[f'{branch}.{network}'], value)
    mokd.train()
    assert not torch.allclose(features['vit.teacher'], features['vit.student'])


def test_collapse_monitor_sees_every_teacher(mokd):
    runner = SimpleNamespace(
        model=mokd, iter=0, max_iters=10, message_hub=MessageHub('mokd'), logger=None
    )
    monitor = CollapseMonitorHook(interval=1)
    monitor.before_train(runner)
    monitor.before_train_iter(runner, 0)
    mokd.loss([torch.randn(4, 3, 8, 8) for _ in range(3)])
    monitor.after_train_iter(runner, 0)
    for branch in ('cnn', 'vit'):
        for signal in ('entropy', 'mutual_info', 'feature_std', 'effective_rank'):
            assert runner.message_hub.get_scalar(f'train/{branch}.{signal}').current() > 0
