# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mokd_testing import train
from PIL import Image
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


def test_knn_of_every_branch_while_training(runner_cfg, tmp_path):
    """On class folders, by the config that a user writes; the measure is taken again by hand."""
    rng = np.random.default_rng(0)
    for part, count in (('bank', 12), ('queries', 6)):
        for label in range(3):
            folder = tmp_path / part / f'class{label}'
            folder.mkdir(parents=True)
            for index in range(count):
                image = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
                image[..., label] += 40
                Image.fromarray(image).save(folder / f'{index}.png')

    def loader(part, batch_size=5, crops=()):
        load = [dict(type='mmmokd.LoadImage'), *crops, dict(type='PackInputs')]
        return dict(
            batch_size=batch_size,
            dataset=dict(
                type='mmmokd.ImageFolder',
                data_root=str(tmp_path / part),
                with_label=True,
                pipeline=load,
            ),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        )

    best = 'cnn.teacher/knn_top1'
    groups = [dict(num=2, size=32, scale=(0.5, 1)), dict(num=2, size=24, scale=(0.3, 0.5))]
    cfg = runner_cfg(
        train_dataloader=loader('bank', 18, [dict(type='mmmokd.MultiCrop', groups=groups)]),
        train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=2),
        val_dataloader=loader('queries'),
        val_cfg=dict(
            type='mmmokd.FeatureValLoop',
            bank_dataloader=loader('bank'),
            networks=('teacher', 'student'),
            maps=True,
        ),
        val_evaluator=dict(type='mmmokd.KNNMetric', k=5),
    )
    cfg.model.data_preprocessor = dict(
        type='SelfSupDataPreprocessor', mean=[60.0] * 3, std=[35.0] * 3, to_rgb=True
    )
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', save_best=best, interval=2)
    runner = train(cfg)

    def read(part):
        files = sorted((tmp_path / part).rglob('*.png'))
        pixels = torch.stack([torch.from_numpy(np.array(Image.open(file))) for file in files])
        labels = torch.tensor([int(file.parent.name[-1]) for file in files])
        return (pixels.permute(0, 3, 1, 2) - 60.0) / 35.0, labels

    (bank, bank_labels), (queries, labels) = read('bank'), read('queries')
    runner.model.eval()
    for branch in runner.model.branches:
        for network in ('teacher', 'student'):
            with torch.no_grad():
                of_bank, of_queries = (
                    getattr(runner.model.branches[branch], network).extract(images)
                    for images in (bank, queries)
                )
            for name, unit in (
                ('', (of_bank.pooled, of_queries.pooled)),
                ('.map', (of_bank.tokens.flatten(1), of_queries.tokens.flatten(1))),
            ):
                unit = [torch.nn.functional.normalize(value.double()) for value in unit]
                similarity, nearest = (unit[1] @ unit[0].T).topk(5)
                votes = torch.zeros(len(labels), 3, dtype=torch.float64)
                votes.scatter_add_(1, bank_labels[nearest], (similarity / 0.07).exp())
                expected = 100 * (votes.argmax(dim=1) == labels).double().mean().item()
                key = f'val/{branch}.{network}{name}/knn_top1'
                found = runner.message_hub.get_scalar(key).current()
                assert found == pytest.approx(expected, abs=1e-4)
    assert list(Path(cfg.work_dir).glob('best_cnn.teacher_knn_top1_epoch_2.pth'))


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
