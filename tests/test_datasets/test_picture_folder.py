# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import os
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import worker_init_fn
from mmengine.logging import MMLogger
from PIL import Image
from torch.utils.data import DataLoader

from mmmokd.datasets import BadPictureError, LoadPicture, PictureFolder
from mmmokd.registry import DATASETS


def put(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in ('.txt', '.csv', ''):
            path.write_text('text')
        else:
            ending = {'.JPG': 'JPEG', '.jpg': 'JPEG', '.TIFF': 'TIFF'}.get(path.suffix)
            Image.fromarray(np.full((6, 7, 3), 50, np.uint8)).save(path, format=ending)
    return root


def paths_of(dataset, root):
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    return [os.path.relpath(info['img_path'], root) for info in infos]


NESTED = ('b.png', 'a.JPG', 'cats/1.webp', 'cats/old/2.TIFF', 'dogs/3.jpg', 'dogs/notes.txt')
SORTED = ['a.JPG', 'b.png', 'cats/1.webp', 'cats/old/2.TIFF', 'dogs/3.jpg']


# ----------------------------------------------------------------------------------- finding
def test_a_folder_is_enough(tmp_path):
    put(tmp_path, *NESTED, '.hidden.png', '.git/4.png', 'cats/._1.png')
    cfg = Config(
        dict(
            data=dict(
                type='mmmokd.PictureFolder',
                data_root=str(tmp_path),
                pipeline=[dict(type='mmmokd.LoadPicture')],
            )
        )
    )
    dataset = DATASETS.build(cfg.data)
    assert paths_of(dataset, tmp_path) == SORTED
    assert all(sample['img'].shape == (6, 7, 3) for sample in dataset)
    assert 'gt_label' not in dataset.get_data_info(0)
    assert dataset.CLASSES is None


def test_home_prefix_and_relative_folder(tmp_path, monkeypatch):
    put(tmp_path, 'pictures/train/a.png', 'pictures/b.png')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert paths_of(PictureFolder('~/pictures'), tmp_path / 'pictures') == ['b.png', 'train/a.png']
    assert len(PictureFolder('~/pictures', data_prefix='train')) == 1
    assert len(PictureFolder(data_prefix='~/pictures/train')) == 1
    monkeypatch.chdir(tmp_path)
    assert len(PictureFolder('pictures')) == 2


def test_links_are_followed_and_rings_end(tmp_path):
    put(tmp_path, 'real/a.png', 'outside/b.png')
    (tmp_path / 'real/one').symlink_to(tmp_path / 'outside')
    (tmp_path / 'real/two').symlink_to(tmp_path / 'outside')
    (tmp_path / 'real/ring').symlink_to(tmp_path / 'real')
    found = paths_of(PictureFolder(str(tmp_path / 'real')), tmp_path / 'real')
    assert found == ['a.png', 'one/b.png', 'two/b.png']
    (tmp_path / 'link').symlink_to(tmp_path / 'real')
    assert len(PictureFolder(str(tmp_path / 'link'))) == 3


def test_extensions(tmp_path):
    put(tmp_path, *NESTED)
    assert paths_of(PictureFolder(str(tmp_path), extensions=['.PNG']), tmp_path) == ['b.png']
    for wrong in ('.png', []):
        with pytest.raises(ValueError, match='extensions'):
            PictureFolder(str(tmp_path), extensions=wrong)


def test_the_log_says_what_was_found_and_what_was_left_out(tmp_path, read_log):
    put(tmp_path, 'a.png', 'b/c.jpg', '.hidden.txt')
    PictureFolder(str(tmp_path))
    (line,) = read_log()
    assert line.endswith(f'INFO - 2 pictures in {tmp_path}')
    for name in ('1.HEIC', 'b/2.heic', '3.heic', 'b/README'):
        (tmp_path / name).write_text('not for us')
    PictureFolder(str(tmp_path))
    line = read_log()[-1]
    found = f'2 pictures in {tmp_path}; other files are left out: 4 (3 x .heic, 1 x no ending). '
    assert f'WARNING - {found}' in line


def test_lazy_subset_and_copy(tmp_path):
    put(tmp_path, *NESTED)
    dataset = PictureFolder(str(tmp_path), lazy_init=True)
    assert not dataset._fully_initialized
    dataset.full_init()
    assert paths_of(dataset.get_subset([0, 2]), tmp_path) == ['a.JPG', 'cats/1.webp']


# ----------------------------------------------------------------------------------- labels
def test_class_folders(tmp_path):
    put(tmp_path, *NESTED)
    (tmp_path / 'birds').mkdir()
    dataset = PictureFolder(str(tmp_path), with_label=True)
    assert paths_of(dataset, tmp_path) == SORTED[2:]
    assert dataset.CLASSES == ('birds', 'cats', 'dogs')
    assert dataset.get_gt_labels().tolist() == [1, 1, 2]
    with pytest.raises(ValueError, match='2 classes are given, but .* has 3 folders'):
        PictureFolder(str(tmp_path), with_label=True, classes=['a', 'b'])
    named = PictureFolder(str(tmp_path), with_label=True, classes=['a', 'b', 'c'])
    assert named.CLASSES == ('a', 'b', 'c')


def test_no_class_folders(tmp_path):
    put(tmp_path, 'a.png')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match=f'with_label.*{tmp_path}.* 1 pictures'):
        PictureFolder(str(tmp_path), with_label=True)


# ----------------------------------------------------------------------------------- list file
def test_list_file(tmp_path):
    put(tmp_path, *NESTED)
    (tmp_path / 'list.txt').write_bytes(
        '\ufeffdogs/3.jpg\r\n\r\n  a.JPG \r\n'.encode() + f'{tmp_path}/b.png\n\n'.encode()
    )
    for name in ('list.txt', str(tmp_path / 'list.txt')):
        dataset = PictureFolder(str(tmp_path), ann_file=name)
        assert paths_of(dataset, tmp_path) == ['dogs/3.jpg', 'a.JPG', 'b.png']
    (tmp_path / 'whole.txt').write_text(f'{tmp_path}/b.png')
    assert len(PictureFolder(ann_file=str(tmp_path / 'whole.txt'))) == 1


def test_list_file_with_labels(tmp_path):
    put(tmp_path, 'a b.png', 'c.png')
    (tmp_path / 'list.txt').write_text('a b.png 1\nc.png 0\n')
    dataset = PictureFolder(str(tmp_path), ann_file='list.txt', with_label=True)
    assert paths_of(dataset, tmp_path) == ['a b.png', 'c.png']
    assert dataset.get_gt_labels().tolist() == [1, 0]
    (tmp_path / 'list.txt').write_text('c.png\n')
    with pytest.raises(ValueError, match='class number .*list.txt, but one is: c.png'):
        PictureFolder(str(tmp_path), ann_file='list.txt', with_label=True)


def test_list_file_errors(tmp_path):
    put(tmp_path, 'a.png')
    with pytest.raises(FileNotFoundError, match=f'ann_file.*{tmp_path}/list.txt, is not there'):
        PictureFolder(str(tmp_path), ann_file='list.txt')
    (tmp_path / 'list.txt').write_text('\n  \n')
    with pytest.raises(ValueError, match='list.txt names no picture'):
        PictureFolder(str(tmp_path), ann_file='list.txt')
    (tmp_path / 'list.txt').write_text('\n'.join(f'x/{i}.png' for i in range(1000)))
    with pytest.raises(FileNotFoundError, match=f'None of 100 .* of the 1000 .*{tmp_path}/x/0.png'):
        PictureFolder(str(tmp_path), ann_file='list.txt')
    (tmp_path / 'list.txt').write_text('gone.png\na.png')  # found out in training
    assert len(PictureFolder(str(tmp_path), ann_file='list.txt')) == 2


# ----------------------------------------------------------------------------------- errors
def test_no_folder(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match='data_root'):
        PictureFolder()
    with pytest.raises(FileNotFoundError, match=f'{tmp_path}/gone, is not there'):
        PictureFolder(str(tmp_path / 'gone'))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f'{tmp_path}/gone, is not there'):
        PictureFolder('gone')
    put(tmp_path, 'a.png')
    with pytest.raises(NotADirectoryError, match=f'{tmp_path}/a.png, is a file'):
        PictureFolder(str(tmp_path / 'a.png'))


def test_no_picture(tmp_path):
    with pytest.raises(ValueError, match=f'No picture in the folder {tmp_path}: it is empty'):
        PictureFolder(str(tmp_path))
    put(tmp_path, 'a.txt', 'b/c.txt', 'd.csv', 'README')
    found = r'it holds 4 files \(2 x .txt, 1 x .csv, 1 x no ending\|.*\).*\.jpg'
    with pytest.raises(ValueError, match=found.replace(r'\|', '|2 x .txt')):
        PictureFolder(str(tmp_path))


def test_test_mode_names_an_unreadable_picture(tmp_path):
    put(tmp_path, 'a.png')
    (tmp_path / 'b.png').write_bytes(b'broken')
    dataset = PictureFolder(str(tmp_path), pipeline=[LoadPicture()], test_mode=True)
    assert dataset[0]['img'].shape == (6, 7, 3)
    with pytest.raises(BadPictureError, match=f'{tmp_path}/b.png'):
        dataset[1]


# ----------------------------------------------------------------------------------- replacement
@pytest.mark.parametrize('num_workers', [0, 2])
def test_replacements_differ_by_epoch_and_follow_the_seed(tmp_path, num_workers):
    put(tmp_path, *[f'{index:03}.png' for index in range(200)])
    MMLogger.get_current_instance().setLevel('ERROR')

    def draw():
        torch.manual_seed(0)
        np.random.seed(0)
        state = np.random.get_state()[1].copy()
        dataset = PictureFolder(str(tmp_path), pipeline=[Every10thIsBad()])
        loader = DataLoader(
            dataset,
            batch_size=10,
            num_workers=num_workers,
            collate_fn=list,
            worker_init_fn=partial(worker_init_fn, num_workers=num_workers, rank=0, seed=0),
        )
        drawn = []
        for epoch in range(2):
            dataset.set_epoch(epoch)
            drawn.append([batch[0] for batch in loader])
        assert (np.random.get_state()[1] == state).all()
        return drawn

    first, second = draw()
    assert first != second
    assert [first, second] == draw()
    assert len(set(first + second)) > 30  # of 40 draws out of 180: 36 expected


class Every10thIsBad:
    def __call__(self, results):
        index = results['sample_idx']
        return None if index % 10 == 0 else index
