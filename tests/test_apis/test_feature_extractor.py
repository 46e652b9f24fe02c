# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from image_testing import save
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, default_collate
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image
from torch.utils.data import DataLoader

from mmmokd.apis import FeatureExtractor, init_model
from mmmokd.evaluation import extract_features
from mmmokd.evaluation.report import set_evaluation
from mmmokd.utils.errors import BadImageError, ConfigError

VIEWS = dict(type='mmmokd.MultiCrop', groups=[dict(size=32, num=2), dict(size=24, num=2)])
PIPELINE = [dict(type='mmmokd.LoadImage'), VIEWS, dict(type='PackInputs')]
NAMES = ['a/0.png', 'a/1.png', 'b/2.jpg', 'b/3.png', 'b/4.png']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Images of several sizes and kinds, in folders of two classes."""
    folder = tmp_path_factory.mktemp('features') / 'my images'
    rng = np.random.default_rng(0)
    modes = ('RGB', 'L', 'CMYK', 'RGBA', 'RGB')
    for i, (name, mode) in enumerate(zip(NAMES, modes, strict=True)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (70 + 9 * i, 90, 3), dtype=np.uint8)
        save(folder / name, pixels, mode)
    (folder / 'notes.txt').write_text('no image')
    return folder


@pytest.fixture(scope='module')
def cfg(tiny_cfg):
    train_dataloader = dict(dataset=dict(pipeline=PIPELINE))
    return Config(dict(tiny_cfg.to_dict(), train_dataloader=train_dataloader))


@pytest.fixture(scope='module')
def extract(tiny_mokd, cfg):
    return FeatureExtractor(cfg, tiny_mokd[0])


@pytest.fixture(scope='module')
def features(extract, folder):
    """By branch, shape (5, C)."""
    found = extract(folder, batch_size=2, show_progress=False)
    return {name: torch.stack([each[name] for each in found]) for name in found[0]}


def test_equal_those_that_evaluation_extracts(tiny_mokd, cfg, folder, features):
    cfg = Config(cfg.to_dict())
    set_evaluation(cfg, data=(str(folder), str(folder)))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    loader = DataLoader(
        dataset, 2, sampler=DefaultSampler(dataset, shuffle=False), collate_fn=default_collate
    )
    expected, labels = extract_features(init_model(cfg, tiny_mokd[0]), loader)
    assert labels.tolist() == [0, 0, 1, 1, 1]
    assert set(features) == {'cnn', 'vit'}
    for name, value in features.items():
        assert torch.equal(value, expected[f'{name}.teacher'])


def test_files_and_batches(extract, folder, features):
    assert [path[len(str(folder)) + 1 :] for path in extract.list_images(folder)] == NAMES
    files = [folder / NAMES[3], str(folder / NAMES[0])]
    for batch_size, num_workers in ((1, 0), (8, 2)):
        found = extract(files, batch_size, show_progress=False, num_workers=num_workers)
        for i, row in enumerate((3, 0)):
            torch.testing.assert_close(found[i]['cnn'], features['cnn'][row], rtol=1e-4, atol=1e-5)
    (alone,) = extract(str(folder / NAMES[2]), show_progress=False)
    torch.testing.assert_close(alone['vit'], features['vit'][2], rtol=1e-4, atol=1e-5)
    assert extract([]) == []


def test_arrays_in_both_orders(extract, folder, features):
    rgb = np.asarray(Image.open(folder / NAMES[4]))
    for array, order in ((rgb[..., ::-1], 'bgr'), (rgb, 'rgb')):
        (found,) = extract(array, show_progress=False, channel_order=order)
        torch.testing.assert_close(found['cnn'], features['cnn'][4], rtol=1e-4, atol=1e-5)
    gray = np.asarray(Image.open(folder / NAMES[1]))
    found = extract([gray, np.stack([gray] * 3, axis=2)], show_progress=False)
    for each in found:
        torch.testing.assert_close(each['vit'], features['vit'][1], rtol=1e-4, atol=1e-5)
    assert len(extract(np.zeros((3, 64, 64, 3), np.uint8), show_progress=False)) == 3


@pytest.mark.parametrize(('branch', 'shape'), [('cnn', (16, 8, 8)), ('vit', (24, 4, 4))])
def test_maps_of_one_branch(tiny_mokd, cfg, folder, features, branch, shape):
    extract = FeatureExtractor(cfg, tiny_mokd[0], branch=branch)
    pooled = extract(folder, batch_size=2, show_progress=False)
    assert torch.equal(torch.stack(pooled), features[branch])
    (found,) = extract(folder / NAMES[1], show_progress=False, feature='map')
    assert found.shape == shape
    if branch == 'cnn':
        torch.testing.assert_close(found.mean(dim=(1, 2)), features['cnn'][1], rtol=1e-4, atol=1e-5)


def test_student_differs(tiny_mokd, cfg, folder, features):
    extract = FeatureExtractor(init_model(cfg, tiny_mokd[0]), network='student', branch='vit')
    (found,) = extract(folder / NAMES[0], show_progress=False)
    assert not torch.allclose(found, features['vit'][0], atol=0.1)


def test_progress_bar(extract, folder, capsys):
    extract([folder / NAMES[0]], show_progress=False)
    assert not capsys.readouterr().out
    extract([folder / NAMES[0]])
    assert 'Features' in capsys.readouterr().out


def test_model_without_branches(folder):
    head = dict(type='LinearClsHead', num_classes=2, in_channels=64)
    neck = dict(type='GlobalAveragePooling')
    crop = dict(type='CenterCrop', crop_size=64)
    test = [dict(type='LoadImageFromFile'), crop, dict(type='PackInputs')]
    cfg = Config(
        dict(
            model=dict(
                type='ImageClassifier',
                backbone=dict(type='ResNet', depth=18, stem_channels=8, base_channels=8),
                neck=neck,
                head=head,
            ),
            data_preprocessor=dict(mean=[0.0] * 3, std=[1.0] * 3),
            test_dataloader=dict(dataset=dict(pipeline=test)),
        )
    )  # fmt: skip
    extract = FeatureExtractor(cfg)
    (found,) = extract(folder / NAMES[0], show_progress=False)
    assert found.shape == (64,)
    with pytest.raises(ConfigError, match='ImageClassifier has none'):
        extract(folder / NAMES[0], feature='map')
    with pytest.raises(BadImageError, match='notes.txt'):
        extract(folder / 'notes.txt', show_progress=False)


def test_broken_and_missing_images_are_named(extract, folder):
    for name in ('notes.txt', 'gone.png'):
        with pytest.raises(BadImageError, match=f'{folder}/{name}'):
            extract([folder / NAMES[0], folder / name], show_progress=False)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(feature='logits'), "feature must be pooled or map, but is 'logits'"),
        (dict(channel_order='xyz'), "channel_order must be 'bgr' or 'rgb'"),
    ],
)
def test_wrong_options(extract, folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        extract(folder, **arguments)


def test_wrong_models(tiny_mokd, cfg, tiny_cfg):
    with pytest.raises(ConfigError, match="no branch 'resnet': its branches are cnn, vit"):
        FeatureExtractor(cfg, tiny_mokd[0], branch='resnet')
    with pytest.raises(ConfigError, match='ResNet_CIFAR does not define how its images are read'):
        FeatureExtractor(init_model(cfg, tiny_mokd[0], branch='cnn'))
    with pytest.raises(ConfigError, match='pretrained is for a config'):
        FeatureExtractor(init_model(cfg, tiny_mokd[0]), tiny_mokd[0])
    with pytest.raises(ConfigError, match='does not define how images are read'):
        FeatureExtractor(tiny_cfg, tiny_mokd[0])
