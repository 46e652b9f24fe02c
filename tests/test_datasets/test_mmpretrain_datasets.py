# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Datasets of mmpretrain under this package's transforms: what they hold comes out as views."""

import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.datasets import CIFAR10, CIFAR100
from PIL import Image

import mmmokd.datasets  # noqa: F401
from mmmokd.registry import DATASETS

RNG = np.random.default_rng(0)
# The whole image, not resized: what comes out are the pixels that went in.
WHOLE = dict(scale=(1, 1), ratio=(1, 1), flip=0, color_jitter_prob=0, grayscale=0, blur=0)


def pipeline(size, **load):
    groups = [dict(WHOLE, size=size), dict(num=2, size=8, scale=(0.1, 0.5))]
    return [
        dict(type='mmmokd.LoadImage', **load),
        dict(type='mmmokd.MultiCrop', groups=groups),
        dict(type='PackInputs'),
    ]


def build(cfg):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return DATASETS.build(cfg)


def check(dataset, images, labels, size):
    """Every sample has the image, in BGR, as its first view, and small ones beside it."""
    assert len(dataset) == len(images)
    for index, rgb in enumerate(images):
        sample = dataset[index]
        assert [tuple(view.shape) for view in sample['inputs']] == [
            (3, size, size), (3, 8, 8), (3, 8, 8),
        ]  # fmt: skip
        expected = torch.from_numpy(np.ascontiguousarray(rgb[..., ::-1])).permute(2, 0, 1)
        assert torch.equal(sample['inputs'][0], expected)
        assert sample['data_samples'].gt_label.tolist() == [labels[index]]


@pytest.mark.parametrize(
    ('cls', 'folder', 'train', 'test', 'meta', 'key', 'names'),
    [
        (CIFAR10, 'cifar-10-batches-py', [f'data_batch_{i}' for i in range(1, 6)], 'test_batch',
         'batches.meta', 'labels', 'label_names'),
        (CIFAR100, 'cifar-100-python', ['train'], 'test', 'meta', 'fine_labels',
         'fine_label_names'),
    ],
)  # fmt: skip
def test_cifar(tmp_path, monkeypatch, cls, folder, train, test, meta, key, names):
    root = tmp_path / folder
    root.mkdir()

    def write(name, content):
        data = pickle.dumps(content)
        (root / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    splits = {'train': ([], []), 'test': ([], [])}
    lists = {'train': [], 'test': []}
    for split, files in (('train', train), ('test', [test])):
        for name in files:
            images = RNG.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
            labels = RNG.integers(0, 10, 2).tolist()
            rows = images.transpose(0, 3, 1, 2).reshape(2, -1)  # red, green, blue planes
            lists[split].append([name, write(name, {'data': rows, key: labels})])
            splits[split][0].extend(images)
            splits[split][1].extend(labels)
    md5 = write(meta, {names: [str(i) for i in range(10)]})
    monkeypatch.setattr(cls, 'train_list', lists['train'])
    monkeypatch.setattr(cls, 'test_list', lists['test'])
    monkeypatch.setattr(cls, 'meta', dict(filename=meta, key=names, md5=md5))
    for split, (images, labels) in splits.items():
        dataset = build(
            dict(
                type=cls.__name__,
                data_root=str(tmp_path),
                split=split,
                download=False,
                pipeline=pipeline(32, channel_order='rgb'),
            )
        )
        check(dataset, images, labels, 32)


def write_idx(path, array):
    header = struct.pack(f'>HBB{array.ndim}I', 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.mark.parametrize('name', ['MNIST', 'FashionMNIST'])
def test_mnist(tmp_path, name):
    data = {}
    for part, number in (('train', 5), ('t10k', 3)):
        images = RNG.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        labels = RNG.integers(0, 10, number, dtype=np.uint8)
        write_idx(tmp_path / f'{part}-images-idx3-ubyte', images)
        write_idx(tmp_path / f'{part}-labels-idx1-ubyte', labels)
        data[part] = (np.repeat(images[..., None], 3, axis=3), labels.tolist())
    for split, part in (('train', 'train'), ('test', 't10k')):
        # mmpretrain reads the training files for any split unless told by test_mode.
        dataset = build(
            dict(
                type=name,
                data_root=str(tmp_path),
                split=split,
                test_mode=split == 'test',
                download=False,
                pipeline=pipeline(28),
            )
        )
        check(dataset, *data[part], 28)


def put(folder, count, ending='png'):
    folder.mkdir(parents=True)
    images = RNG.integers(0, 256, (count, 20, 20, 3), dtype=np.uint8)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f'{index}.{ending}')
    return list(images)


@pytest.mark.parametrize('lists', [False, True])
def test_imagenet(tmp_path, lists):
    """Class folders, with and without mmpretrain's list files."""
    images, labels = [], []
    lines = []
    for label, name in enumerate(('n01440764', 'n01443537')):
        images += put(tmp_path / 'train' / name, 2)
        labels += [label] * 2
        lines += [f'{name}/{index}.png {label}' for index in range(2)]
    if lists:
        (tmp_path / 'meta').mkdir()
        (tmp_path / 'meta' / 'train.txt').write_text('\n'.join(lines))
    cfg = dict(type='ImageNet', data_root=str(tmp_path), split='train', pipeline=pipeline(20))
    dataset = build(cfg if lists else dict(cfg, classes=('tench', 'goldfish')))
    check(dataset, images, labels, 20)


def test_custom_dataset_and_unreadable_image(tmp_path):
    images = put(tmp_path / 'a', 3)
    cfg = dict(type='CustomDataset', data_root=str(tmp_path), pipeline=pipeline(20))
    check(build(cfg), images, [0, 0, 0], 20)
    (tmp_path / 'a' / '1.png').write_bytes(gzip.compress(b'no image'))
    sample = build(cfg)[1]
    assert sample['data_samples'].img_path != str(tmp_path / 'a' / '1.png')
    assert sample['inputs'][0].shape == (3, 20, 20)
