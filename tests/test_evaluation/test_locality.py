# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import cv2
import numpy as np
import pytest
import torch
from array_dataset import PIXELS
from backbone_families import FAMILIES
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mokd_testing import BACKBONES, branch_cfg, model_cfg

from mmmokd.analysis import attention_distance, effective_receptive_field, watch_attention
from mmmokd.evaluation.locality import (
    build_images,
    build_model,
    load_networks,
    measure_locality,
    read_backbones,
    read_images,
)
from mmmokd.models.branches import BranchNetwork
from mmmokd.utils.errors import CheckpointError, ConfigError


def network_of(cfg, **kwargs):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return BranchNetwork(cfg, **kwargs).eval()


def test_vit_equals_one_image_at_a_time(float64):
    network = network_of(BACKBONES['vit'])
    images = torch.randn(3, 3, 32, 32)
    found = measure_locality(network, [images[:2], images[2:]])
    assert (found.image_size, found.grid) == ((32, 32), (4, 4))
    expected, weights = [torch.zeros(2), torch.zeros(2)], []
    field, generator = torch.zeros(32, 32), torch.Generator().manual_seed(0)
    for image in images.split(1):
        with torch.no_grad(), watch_attention(weights.append):
            network.backbone(image)
    for number, each in enumerate(weights):
        assert each.shape == (1, 2, 17, 17)  # with the class token
        expected[number % 2] += attention_distance(each, (4, 4), (32, 32), 1)[0] / 3
    torch.testing.assert_close(found.distances, expected, rtol=1e-12, atol=0)
    for batch in (images[:2], images[2:]):

        def to_map(x):
            return network.backbone(x)[-1][:, 1:].transpose(1, 2).reshape(-1, 24, 4, 4)

        field += len(batch) * effective_receptive_field(to_map, batch, generator=generator)
    torch.testing.assert_close(found.field, field / field.sum(), rtol=1e-9, atol=0)
    torch.testing.assert_close(found.pooled, network.extract(images).pooled.float())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_cnn_has_no_attention_and_sees_what_its_kernels_reach():
    cnn = dict(type='ResNet_CIFAR', depth=18, stem_channels=8, base_channels=8, num_stages=1,
               strides=(1,), dilations=(1,), out_indices=(0,))  # fmt: skip
    found = measure_locality(network_of(cnn), [torch.randn(4, 3, 32, 32)])
    assert found.distances == []
    seen = found.field.nonzero()
    # A stem and four layers of 3x3: five pixels to each side of the center.
    assert seen.min(dim=0).values.tolist() == [11, 11]
    assert seen.max(dim=0).values.tolist() == [21, 21]


@pytest.mark.parametrize(
    ('family', 'num_layers'),
    [
        ('swin', 1),  # windows of 2x2: the last of its stages has only one
        ('timm_dinov3_rope_registers', 2),
        ('xcit_uncounted_class_token', 0),  # over channels
    ],
)
def test_only_attention_over_the_last_map_counts(family, num_layers, read_log):
    network = network_of(FAMILIES[family].cfg)
    found = measure_locality(network, [torch.randn(2, 3, 64, 64)])
    assert [len(layer) for layer in found.distances] == [2] * num_layers
    if family == 'xcit_uncounted_class_token':
        assert 'attentions is over the 4x4 places' in read_log()[-1]


@pytest.fixture(scope='module')
def model():
    return build_model(Config(dict(model=model_cfg())))


def save(path, branches):
    torch.manual_seed(1)
    model = build_model(Config(dict(model=model_cfg(branches))))
    torch.save(dict(state_dict=model.state_dict()), path)
    return model


def test_networks_of_a_pair_and_of_one_alone(model, tmp_path, read_log):
    pair = save(tmp_path / 'pair.pth', ('cnn', 'vit'))
    alone = save(tmp_path / 'alone.pth', dict(vit=branch_cfg('vit', ema=False)))
    file = read_backbones(tmp_path / 'pair.pth')
    names = []
    for name, network in load_networks(model, file, ('teacher', 'student')):
        names.append(name)
        branch, which = name.split('.')
        expected = pair.branches[branch].network(which).backbone.state_dict()
        torch.testing.assert_close(network.backbone.state_dict(), expected, rtol=0, atol=0)
    assert names == ['cnn.teacher', 'cnn.student', 'vit.teacher', 'vit.student']
    file = read_backbones(tmp_path / 'alone.pth')
    assert all('.backbone.' in key for key in file.weights)
    ((name, network),) = load_networks(model, file, ('teacher', 'student'))
    assert name == 'vit.student'  # it has no teacher
    expected = alone.branches['vit'].student.backbone.state_dict()
    torch.testing.assert_close(network.backbone.state_dict(), expected, rtol=0, atol=0)
    assert read_log()[-1].endswith('alone.pth has no branch cnn: measured is vit only')


def test_checkpoints_that_do_not_fit(model, tmp_path):
    save(tmp_path / 'next.pth', ('next',))
    with pytest.raises(CheckpointError, match='none of the branches cnn, vit .* branches next'):
        list(load_networks(model, read_backbones(tmp_path / 'next.pth')))
    save(tmp_path / 'other.pth', dict(cnn=branch_cfg('next')))
    with pytest.raises(CheckpointError, match=r'other.pth \(cnn.teacher\)'):
        list(load_networks(model, read_backbones(tmp_path / 'other.pth')))
    torch.save(dict(state_dict={'backbone.weight': torch.zeros(1)}), tmp_path / 'plain.pth')
    with pytest.raises(
        CheckpointError, match='no branches to measure. It holds 1 weights: backbone'
    ):
        read_backbones(tmp_path / 'plain.pth')
    classifier = dict(
        type='mmpretrain.ImageClassifier', backbone=dict(type='LeNet5', num_classes=2)
    )
    with pytest.raises(ConfigError, match='ImageClassifier of the config has none'):
        build_model(Config(dict(model=classifier)))


PACK = dict(type='PackInputs')
LOAD = dict(type='mmmokd.LoadImage', channel_order='rgb', to_rgb=True)


def test_images_are_spread_evenly_over_the_dataset(model):
    dataset = dict(type='mmmokd.Arrays', pipeline=[LOAD, PACK])
    cfg = Config(dict(default_scope='mmpretrain', val_dataloader=dict(dataset=dataset)))
    dataset = build_images(cfg)
    found = read_images(model, dataset, 4, batch_size=3)
    assert [len(batch) for batch in found] == [3, 1]
    expected = torch.from_numpy(PIXELS[[0, 4, 7, 11]]).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(torch.cat(found).float(), expected)
    assert sum(map(len, read_images(model, dataset, 100))) == 12


def test_images_of_a_folder_and_those_that_cannot_be_taken(model, tmp_path):
    crop = dict(type='CenterCrop', crop_size=16)
    cfg = Config(dict(default_scope='mmpretrain', test_dataloader=dict(dataset=dict(
        type='mmmokd.Arrays', pipeline=[LOAD, crop, PACK]))))  # fmt: skip
    rng = np.random.default_rng(0)
    for number, size in enumerate([(20, 24), (30, 20)]):
        cv2.imwrite(str(tmp_path / f'{number}.png'), rng.integers(0, 256, (*size, 3), np.uint8))
    (images,) = read_images(model, build_images(cfg, str(tmp_path)), 4)
    assert images.shape == (2, 3, 16, 16)
    cfg.test_dataloader.dataset = dict(
        type='mmmokd.ImageFolder', data_root=str(tmp_path), pipeline=[LOAD, PACK]
    )
    with pytest.raises(ConfigError, match='one size, but the pipeline gives .*20, 24.*CenterCrop'):
        read_images(model, build_images(cfg), 4)
    with pytest.raises(ConfigError, match='has no validation images .* --data FOLDER'):
        build_images(Config(dict()))
