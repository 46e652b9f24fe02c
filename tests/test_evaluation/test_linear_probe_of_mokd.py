# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Features of several blocks, and the linear probe beside k-NN, on real models and real runs."""

from pathlib import Path

import pytest
import torch
from mmengine.dataset import default_collate
from mmengine.registry import DefaultScope
from mmpretrain.models import ImageClassifier
from mmpretrain.structures import DataSample
from mokd_testing import BACKBONES, build_mokd, runner_cfg, train
from test_features import NumberedImages, make_loader
from torch.utils.data import Dataset

from mmmokd.evaluation import extract_features, linear_probe
from mmmokd.models.branches import BranchNetwork
from mmmokd.registry import DATASETS, MODELS


class Noise(NumberedImages):
    def __getitem__(self, index):
        image = torch.randint(
            256, (3, 32, 32), generator=torch.Generator().manual_seed(index), dtype=torch.uint8
        )
        return dict(super().__getitem__(index), inputs=image)


def test_features_of_the_last_blocks():
    model = build_mokd(('cnn', 'vit', 'next'))
    model.data_preprocessor = MODELS.build(
        dict(type='mmpretrain.SelfSupDataPreprocessor', mean=[128.0] * 3, std=[64.0] * 3)
    )
    with torch.no_grad():
        for parameter in model.branches.vit.student.parameters():
            parameter.mul_(1.1)
    loader, networks = make_loader(Noise(5)), ('teacher', 'student')
    pooled, _ = extract_features(model, loader, networks)
    found, labels = extract_features(model, loader, networks, last_blocks=4)
    shapes = dict(cnn=(5, 1, 16), vit=(5, 2, 24), next=(5, 1, 20))  # the ViT has two blocks
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        f'{branch}.{network}': shape for branch, shape in shapes.items() for network in networks
    }
    assert labels.tolist() == [0, 1, 2, 0, 1]
    for name, value in found.items():
        assert torch.equal(value[:, -1], pooled[name]), name
    first = {network: found[f'vit.{network}'][:, 0] for network in networks}
    for network, value in first.items():
        assert not torch.allclose(value, pooled[f'vit.{network}'], atol=0.1)
    assert not torch.allclose(first['teacher'], first['student'], atol=1e-3)


def test_classifier_of_mmpretrain():
    vit = dict(BACKBONES['vit'], type='VisionTransformer')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = ImageClassifier(vit, data_preprocessor=dict(type='ClsDataPreprocessor'))
    found, _ = extract_features(model, make_loader(Noise(3)), last_blocks=4)
    assert found['backbone'].shape == (3, 2, 24)
    assert torch.equal(
        found['backbone'][:, -1], extract_features(model, make_loader(Noise(3)))[0]['backbone']
    )


def test_features_that_change_their_shape():
    """An assignment of one shape to the other would broadcast, and say nothing."""
    model = build_mokd(('vit',))
    passes = iter((2, 1))
    teacher = model.branches['vit'].teacher
    extract = teacher.extract

    def unlike(images):
        return extract(images)._replace(pooled=torch.ones(len(images), next(passes)))

    teacher.extract = unlike
    model.data_preprocessor = MODELS.build(dict(type='mmpretrain.SelfSupDataPreprocessor'))
    with pytest.raises(ValueError, match=r"'vit.teacher' are of shape \(1, 2\) .* and \(1, 1\)"):
        extract_features(model, make_loader(Noise(4)), last_blocks=2)


@DATASETS.register_module()
class Patterns(Dataset):
    """Images of noise on one of three patterns, which is their class."""

    metainfo = dict(classes=('a', 'b', 'c'))

    def __init__(self, length, seed, views=0, classes='abc'):
        self.length, self.seed, self.views = length, seed, views
        self.metainfo = dict(classes=tuple(classes))

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(1000 * self.seed + index)
        patterns = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(7))
        image = patterns[index % 3] + 2 * torch.randn(3, 32, 32, generator=generator)
        sample = DataSample(metainfo=dict(img_path=f'{index}.jpg')).set_gt_label(index % 3)
        return dict(inputs=[image] * self.views if self.views else image, data_samples=sample)


def loader(length, seed, **kwargs):
    return dict(
        batch_size=16,
        num_workers=0,
        dataset=dict(type='mmmokd.Patterns', length=length, seed=seed, **kwargs),
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )


PROBE = dict(type='mmmokd.LinearProbeMetric', lrs=(0.01, 0.1), epochs=5, batch_size=16)


def config(tmp_path, **kwargs):
    """A run of MOKD with k-NN and a linear probe after each of four epochs."""
    return runner_cfg(
        tmp_path,
        train_dataloader=loader(16, seed=1, views=4),
        train_cfg=dict(by_epoch=True, max_epochs=4, val_interval=1),
        val_dataloader=loader(33, seed=2),
        val_cfg=dict(
            type='mmmokd.FeatureValLoop', bank_dataloader=loader(60, 3), networks=('teacher',)
        ),
        val_evaluator=[dict(type='mmmokd.KNNMetric', k=5), PROBE],
        **kwargs,
    )


def test_linear_probe_beside_knn_while_training(tmp_path, monkeypatch):
    """Best checkpoint and early stop by the probe; the last measure is taken again by hand."""
    calls = []
    extract = BranchNetwork.extract

    def counted(self, images):
        if not self.training:
            calls.append(len(images))
        return extract(self, images)

    monkeypatch.setattr(BranchNetwork, 'extract', counted)
    best = 'vit.teacher/linear_top1'
    cfg = config(tmp_path)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', save_best=best, interval=1)
    cfg.default_hooks.stopping = dict(
        type='EarlyStoppingHook', monitor='cnn.teacher/linear_top1', patience=1, min_delta=101
    )
    runner = train(cfg)
    assert runner.epoch == 2  # nothing gains 101 percent, so the second validation is the last
    assert sum(calls) == 2 * 2 * (33 + 60)  # two branches; one pass serves both measures
    history = [x.item() for x in runner.message_hub.get_scalar(f'val/{best}').data[0]]
    epoch = history.index(max(history)) + 1
    (kept,) = Path(cfg.work_dir).glob('best_vit.teacher_linear_top1_*.pth')
    assert kept.name.endswith(f'epoch_{epoch}.pth')
    assert runner.message_hub.get_scalar('val/vit.teacher/knn_top1').current() > 34
    assert runner.message_hub.get_scalar('val/vit.teacher/linear_lr').current() in (0.01, 0.1)

    def blocks(length, seed):
        batch = default_collate([Patterns(length, seed)[i] for i in range(length)])
        vit = runner.model.eval().branches.vit.teacher.backbone
        x, _ = vit.patch_embed(batch['inputs'])
        x = torch.cat((vit.cls_token.expand(length, -1, -1), x), dim=1) + vit.pos_embed
        first = vit.layers[0](x)
        tokens = [vit.ln1(each)[:, 0] for each in (first, vit.layers[1](first))]
        return torch.cat(tokens, dim=1).detach(), torch.arange(length) % 3

    (bank, bank_labels), (queries, query_labels) = blocks(60, 3), blocks(33, 2)
    probe = linear_probe(bank, bank_labels, queries, (0.01, 0.1), epochs=5, batch_size=16)
    expected = 100 * (probe.predictions[:, 0] == query_labels).double().mean().item()
    assert history[-1] == pytest.approx(expected, abs=1e-3)


def test_other_classes_are_an_error_before_training(tmp_path):
    cfg = config(tmp_path)
    cfg.val_dataloader.dataset.classes = 'acd'
    with pytest.raises(ValueError, match=r'have 3 and 3: 1 in the bank only \(b\), 1 in the que'):
        train(cfg)
    cfg = config(tmp_path)
    cfg.val_dataloader.dataset.classes = 'acb'
    with pytest.raises(ValueError, match='the same names in another order'):
        train(cfg)
