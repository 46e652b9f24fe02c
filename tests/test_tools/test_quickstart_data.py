# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import gzip
import shutil
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import quickstart_data
from mmengine.dataset import BaseDataset
from mmpretrain.datasets import FashionMNIST
from quickstart_data import (
    check_apart,
    find_images,
    raw_pixel_knn,
    shrink_folder,
    unpack_fashion_mnist,
)
from quickstart_runs import hash_files

RESOURCES = Path(__file__).parents[2] / 'resources' / 'fashion_mnist'
RNG = np.random.default_rng(0)


# ------------------------------------------------------------------------------ the repository's
def test_unpacks_the_subset_as_mmpretrain_reads_it(tmp_path):
    target = tmp_path / 'new' / 'fashion_mnist'
    for _ in range(2):
        unpack_fashion_mnist(RESOURCES, target)
    assert not list(target.glob('*.part'))
    for split, number, part in (('train', 10_000, 'train'), ('test', 2_000, 't10k')):
        dataset = FashionMNIST(
            data_root=str(target), split=split, test_mode=split == 'test', download=False
        )
        assert len(dataset) == number
        labels = dataset.get_gt_labels()
        assert np.bincount(labels).min() > 0.08 * number and labels.max() == 9
        packed = gzip.decompress((RESOURCES / f'{part}-images-idx3-ubyte.gz').read_bytes())
        assert struct.unpack('>4I', packed[:16]) == (2051, number, 28, 28)
        for index in (0, number - 1):
            pixels = np.frombuffer(packed, np.uint8, 784, 16 + 784 * index)
            assert (dataset.get_data_info(index)['img'].ravel() == pixels).all()


def test_subsets_share_no_image(tmp_path):
    unpack_fashion_mnist(RESOURCES, tmp_path)
    train, test = (
        np.fromfile(tmp_path / f'{part}-images-idx3-ubyte', np.uint8)[16:].reshape(-1, 784)
        for part in ('train', 't10k')
    )
    assert not {row.tobytes() for row in train} & {row.tobytes() for row in test}


def test_incomplete_repository(tmp_path):
    with pytest.raises(FileNotFoundError, match=f'no .*-ubyte.gz in {tmp_path}'):
        unpack_fashion_mnist(tmp_path, tmp_path / 'out')


# ------------------------------------------------------------------------------ a folder
def put(folder, count, height=90, width=120):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        coarse = RNG.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        assert cv2.imwrite(str(folder / f'{index}.png'), image)


def shrink(source, target, seed):
    return shrink_folder(find_images(source), source, target, seed)


def copies(target, part):
    return sorted(path.relative_to(target / part) for path in (target / part).rglob('*.png'))


def test_class_folders_become_a_training_and_a_test_set(tmp_path, monkeypatch, capsys):
    source, target = tmp_path / 'in', tmp_path / 'out'
    put(source / 'cats', 20)
    put(source / 'dogs' / 'old', 7)
    assert shrink(source, target, seed=0)
    parts = {part: copies(target, part) for part in ('train', 'test')}
    counts = {
        (part, name): sum(path.parts[0] == name for path in paths)
        for part, paths in parts.items()
        for name in ('cats', 'dogs')
    }
    assert counts == {
        ('train', 'cats'): 16, ('test', 'cats'): 4, ('train', 'dogs'): 5, ('test', 'dogs'): 2
    }  # fmt: skip
    originals = {
        name: [
            cv2.resize(cv2.imread(str(path)), (96, 72), interpolation=cv2.INTER_AREA)
            for path in sorted((source / name).rglob('*.png'))
        ]
        for name in ('cats', 'dogs')
    }
    found = dict(cats=[], dogs=[])
    for part, paths in parts.items():
        for path in paths:
            copy = cv2.imread(str(target / part / path))
            matches = [(copy == other).all() for other in originals[path.parts[0]]]
            assert sum(matches) == 1
            found[path.parts[0]].append(matches.index(True))
    # Each image is in one of the sets, once.
    assert sorted(found['cats']) == [*range(20)] and sorted(found['dogs']) == [*range(7)]

    capsys.readouterr()
    monkeypatch.setattr(quickstart_data, '_assign', None)
    assert shrink(source, target, seed=0) and 'copied' not in capsys.readouterr().out


def test_another_folder_is_not_taken_for_the_copied_one(tmp_path):
    put(tmp_path / 'a' / 'images', 3)
    put(tmp_path / 'b' / 'images', 2)
    for folder, number in (('a', 3), ('b', 2), ('a', 3)):
        assert not shrink(tmp_path / folder / 'images', tmp_path / 'out', seed=0)
        assert len(copies(tmp_path / 'out', 'train')) == number


def test_changed_images_are_copied_afresh(tmp_path, capsys):
    source, target = tmp_path / 'in', tmp_path / 'out'
    for name in 'ab':
        put(source / name, 20, 20, 20)
    assert shrink(source, target, seed=0)
    before = hash_files(target, '*.png')

    put(source / 'c', 6, 20, 20)  # a class more
    assert shrink(source, target, seed=0)
    assert 'holds other copies' in capsys.readouterr().out
    assert len(copies(target, 'train') + copies(target, 'test')) == 46

    shutil.rmtree(source / 'c')  # as at first: the same copies, made again
    assert shrink(source, target, seed=0)
    assert hash_files(target, '*.png') == before

    (source / 'a' / '3.png').write_bytes((source / 'b' / '3.png').read_bytes())
    assert shrink(source, target, seed=0)
    changed = hash_files(target, '*.png')
    assert changed != before

    copies_ = sorted(target.rglob('*.png'))  # a copy that was tampered with
    copies_[0].write_bytes(copies_[1].read_bytes())
    assert shrink(source, target, seed=0)
    assert hash_files(target, '*.png') == changed

    shutil.rmtree(source / 'b')
    assert not shrink(source, target, seed=0)
    assert not (target / 'test').exists() and len(copies(target, 'train')) == 20


def test_a_stopped_copy_is_made_anew(tmp_path, monkeypatch):
    put(tmp_path / 'in', 5, 20, 20)
    with monkeypatch.context() as patch, pytest.raises(TypeError):
        patch.setattr(quickstart_data, '_assign', None)
        shrink(tmp_path / 'in', tmp_path / 'out', seed=0)
    assert not shrink(tmp_path / 'in', tmp_path / 'out', seed=0)
    assert len(copies(tmp_path / 'out', '.')) == 5


def test_both_sets_have_all_classes_though_images_are_broken(tmp_path):
    """Which of a class is left out depends on none that cannot be read."""
    for name in 'abc':
        put(tmp_path / 'in' / name, 10, 20, 20)
        for index in range(5):
            (tmp_path / 'in' / name / f'{index}.png').write_bytes(b'no image')
    put(tmp_path / 'in' / 'd', 20, 20, 20)
    assert shrink(tmp_path / 'in', tmp_path / 'out', seed=0)
    for part, counts in dict(train=[4, 4, 4, 16], test=[1, 1, 1, 4]).items():
        folders = sorted((tmp_path / 'out' / part).iterdir())
        assert [folder.name for folder in folders] == [*'abcd']
        assert [len(list(folder.iterdir())) for folder in folders] == counts


def test_nothing_of_the_user_is_removed(tmp_path):
    put(tmp_path / 'images', 3, 20, 20)
    put(tmp_path / 'in', 3, 20, 20)
    with pytest.raises(ValueError, match=f'{tmp_path}/images holds files that no quick start'):
        shrink(tmp_path / 'in', tmp_path / 'images', seed=0)
    assert len(copies(tmp_path, 'images')) == 3
    for target in (tmp_path / 'in', tmp_path / 'in' / 'out' / 'images', tmp_path):
        with pytest.raises(ValueError, match='Name another folder by --out'):
            check_apart(tmp_path / 'in', target)
    check_apart(tmp_path / 'in', tmp_path / 'inner')


@pytest.mark.parametrize(
    'folders',
    [dict(a=30), dict(a=30, b=4), {'a': 20, 'b': 20, '.': 1}, {'.': 6}, dict(a=12, b=12)],
)
def test_no_class_folders(tmp_path, folders, capsys):
    """One folder, a class too small, an image beside the folders, no folder, a bank too small."""
    for name, count in folders.items():
        put(tmp_path / 'in' / name, count, 20, 20)
    assert not shrink(tmp_path / 'in', tmp_path / 'out', seed=0)
    assert len(copies(tmp_path / 'out', 'train')) == sum(folders.values())
    assert not (tmp_path / 'out' / 'test').exists()
    assert 'no class folders' in capsys.readouterr().out


def test_sizes(tmp_path):
    for name, shape in dict(wide=(90, 400), tall=(400, 90), small=(30, 40)).items():
        put(tmp_path / 'in' / name, 1, *shape)
    shrink(tmp_path / 'in', tmp_path / 'out', seed=0)
    shapes = {cv2.imread(str(tmp_path / 'out/train' / path)).shape[:2]
              for path in copies(tmp_path / 'out', 'train')}  # fmt: skip
    assert shapes == {(72, 320), (320, 72), (30, 40)}


def test_broken_image_and_too_many(tmp_path, monkeypatch, capfd):
    put(tmp_path / 'in', 12, 20, 20)
    (tmp_path / 'in' / '3.png').write_bytes(b'no image')
    assert not shrink(tmp_path / 'in', tmp_path / 'out', seed=0)
    assert len(copies(tmp_path / 'out', 'train')) == 11
    captured = capfd.readouterr()
    assert '11 of 12 images copied' in captured.out
    assert f'{tmp_path}/in/3.png' in captured.out + captured.err
    monkeypatch.setattr(quickstart_data, 'MAX_IMAGES', 6)
    drawn = []
    for seed in (1, 2, 1):
        shrink(tmp_path / 'in', tmp_path / 'few', seed=seed)
        paths = [tmp_path / 'few' / 'train' / path for path in copies(tmp_path / 'few', 'train')]
        assert 5 <= len(paths) <= 6  # the broken one may be among the drawn
        drawn.append([path.read_bytes() for path in paths])
    assert drawn[0] == drawn[2] != drawn[1]


def test_nothing_to_copy(tmp_path):
    with pytest.raises(FileNotFoundError, match=f'{tmp_path}/gone, does not exist'):
        shrink(tmp_path / 'gone', tmp_path / 'out', seed=0)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match=f'No image in the folder {tmp_path}/empty'):
        shrink(tmp_path / 'empty', tmp_path / 'out', seed=0)
    (tmp_path / 'broken').mkdir()
    (tmp_path / 'broken' / 'a.png').write_bytes(b'no image')
    for _ in range(2):
        with pytest.raises(ValueError, match=f'none of the 1 images in {tmp_path}/broken'):
            shrink(tmp_path / 'broken', tmp_path / 'out', seed=0)


# ------------------------------------------------------------------------------ raw pixels
class Images(BaseDataset):
    """Images around the color of their class."""

    def __init__(self, count, side, noise, seed):
        rng = np.random.default_rng(seed)
        self.labels = rng.integers(0, 3, count)
        colors = np.array([[150, 90, 90], [90, 150, 90], [90, 90, 150]])
        noise = rng.normal(0, noise, (count, side, side, 3))
        self.images = (colors[self.labels][:, None, None] + noise).clip(0, 255).astype(np.uint8)
        super().__init__(pipeline=[])

    def load_data_list(self):
        pairs = zip(self.images, self.labels, strict=True)
        return [dict(img=image, gt_label=int(label)) for image, label in pairs]


@pytest.mark.parametrize(('side', 'size', 'noise'), [(4, 4, 80), (6, 3, 140)])
def test_raw_pixel_knn_is_the_plain_formula(side, size, noise):
    bank, queries = Images(60, side, noise, seed=1), Images(40, side, noise, seed=2)

    def unit(dataset):
        images = dataset.images
        if side != size:  # area interpolation by a whole factor is the mean
            step = side // size
            images = images.reshape(-1, size, step, size, step, 3).mean(axis=(2, 4))
            images = np.rint(images)
        rows = images.reshape(len(images), -1).astype(np.float64)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    similarity = unit(queries) @ unit(bank).T
    hits = 0
    for row, label in zip(similarity, queries.labels, strict=True):
        votes = np.zeros(3)
        for index in np.argsort(-row)[:7]:
            votes[bank.labels[index]] += np.exp(row[index] / 0.07)
        hits += votes.argmax() == label
    accuracy = raw_pixel_knn(bank, queries, size, k=7)
    assert accuracy == pytest.approx(100 * hits / 40, abs=1e-6 if side == size else 2.6)
    assert 50 < accuracy < 100
