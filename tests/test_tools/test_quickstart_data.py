# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import gzip
import struct

import cv2
import numpy as np
import pytest
import quickstart_data
from mmpretrain.datasets import FashionMNIST
from quickstart_data import FASHION_MNIST, check_apart, fashion_mnist, find_images, own_images
from quickstart_data import shrink_folder as shrink_paths

RNG = np.random.default_rng(0)
ASKED = dict(images=None, count=None, seed=3, epochs=2)


# ------------------------------------------------------------------------------ the repository's
def test_unpacks_the_subset_as_mmpretrain_reads_it(tmp_path):
    target = tmp_path / 'new' / 'fashion_mnist'
    task = fashion_mnist(target, ASKED)
    assert not list(target.glob('*.part'))
    for split, number, part in (('train', 10_000, 'train'), ('test', 2_000, 't10k')):
        dataset = FashionMNIST(
            data_root=str(target), split=split, test_mode=split == 'test', download=False
        )
        assert len(dataset) == number
        labels = dataset.get_gt_labels()
        assert np.bincount(labels).min() > 0.08 * number and labels.max() == 9
        packed = gzip.decompress((FASHION_MNIST / f'{part}-images-idx3-ubyte.gz').read_bytes())
        assert struct.unpack('>4I', packed[:16]) == (2051, number, 28, 28)
        for index in (0, number - 1):
            pixels = np.frombuffer(packed, np.uint8, 784, 16 + 784 * index)
            assert (dataset.get_data_info(index)['img'].ravel() == pixels).all()
    train, test = (
        np.fromfile(target / f'{part}-images-idx3-ubyte', np.uint8)[16:].reshape(-1, 784)
        for part in ('train', 't10k')
    )
    assert not {row.tobytes() for row in train} & {row.tobytes() for row in test}
    assert task.labeled
    for names in ('cnn', 'vit', 'cnn-vit'):
        cfg = task.load(names)
        trained = [name for name, branch in cfg.model.branches.items() if branch]
        assert trained == names.split('-')
        assert (cfg.randomness.seed, cfg.train_cfg.max_epochs) == (3, 2)
        loaders = (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)
        for loader in (*loaders, cfg.val_cfg.bank_dataloader, cfg.test_cfg.bank_dataloader):
            assert loader.dataset.data_root == str(target)


def test_incomplete_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart_data, 'FASHION_MNIST', tmp_path)
    with pytest.raises(FileNotFoundError, match=f'no .*-ubyte.gz in {tmp_path}'):
        fashion_mnist(tmp_path / 'out', ASKED)


# ------------------------------------------------------------------------------ a folder
def put(folder, count, height=90, width=120):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        coarse = RNG.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        assert cv2.imwrite(str(folder / f'{index}.png'), image)


def shrink(source, target, seed=0):
    shrink_paths(find_images(source), source, target, seed)
    return (target / 'test').is_dir()


def copies(target, part):
    return sorted(path.relative_to(target / part) for path in (target / part).rglob('*.png'))


def test_class_folders_become_a_training_and_a_test_set(tmp_path):
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


def test_copies_are_made_once(tmp_path, monkeypatch, capsys):
    source, copies = tmp_path / 'in', tmp_path / 'out' / 'images'
    put(source, 40, 20, 20)
    (tmp_path / 'out').mkdir()
    half = tmp_path / 'out' / '.images.0123abcd.part'  # of a call that was killed
    half.mkdir()
    asked = dict(ASKED, images=str(source), count=40, epochs=None)
    with monkeypatch.context() as patch, pytest.raises(TypeError):
        patch.setattr(quickstart_data, '_assign', None)
        own_images(copies, find_images(source), asked)
    assert not list((tmp_path / 'out').iterdir())
    first = own_images(copies, find_images(source), asked)
    assert '40 of 40 images copied' in capsys.readouterr().out
    (source / '0.png').unlink()
    assert own_images(copies, None, asked) == first and 'copied' not in capsys.readouterr().out
    assert not first.labeled and first.load('cnn').train_dataloader.batch_size == 20
    assert first.load('cnn').train_cfg.max_epochs == 200
    assert own_images(copies, None, dict(asked, epochs=7)).load('vit').train_cfg.max_epochs == 7


@pytest.mark.parametrize(
    ('classes', 'message'),
    [
        ({'.': 9}, 'has 9 readable images; at least 32 are needed'),
        (
            dict(left=18, right=18),
            'has 36 readable images, of which 8 are kept for testing: 28 are left to train on; '
            'at least 32 are needed',
        ),
    ],
)
def test_too_few_images(tmp_path, classes, message):
    for name, count in classes.items():
        put(tmp_path / 'in' / name, count, 20, 20)
    asked = dict(ASKED, images=str(tmp_path / 'in'))
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            own_images(tmp_path / 'out', None, asked)


def test_both_sets_have_all_classes_though_images_are_broken(tmp_path):
    """The choice of what is left out of a class does not depend on unreadable images."""
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


@pytest.mark.parametrize('out', ['.', 'images', 'images/out', 'images/a/out'])
def test_copies_and_images_are_apart(tmp_path, out):
    with pytest.raises(ValueError, match='Name another folder by --out'):
        check_apart(tmp_path / 'images', tmp_path / out)
    check_apart(tmp_path / 'images', tmp_path / 'images2')


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
        target = tmp_path / f'few{len(drawn)}'
        shrink(tmp_path / 'in', target, seed=seed)
        paths = [target / 'train' / path for path in copies(target, 'train')]
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
