# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import io
import os
import re
import sys
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import worker_init_fn
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mokd_testing import short_log
from PIL import Image, ImageOps
from quickstart_runs import RECORD
from torch.utils.data import DataLoader

from mmmokd.cli.config import load_config
from mmmokd.cli.run_tool import tool_parser
from mmmokd.datasets import BadImageError, ImageFolder, LoadImage
from mmmokd.datasets.folders import EVALUATION_FILES, QUICKSTART_RECORD
from mmmokd.evaluation.report import FILES
from mmmokd.registry import DATASETS
from mmmokd.utils.errors import ConfigError


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


FOLDER_CONFIG = (
    Path(__file__).parents[2] / 'configs/mokd/mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder.py'
)
NESTED = ('b.png', 'a.JPG', 'cats/1.webp', 'cats/old/2.TIFF', 'dogs/3.jpg', 'dogs/notes.txt')
SORTED = ['a.JPG', 'b.png', 'cats/1.webp', 'cats/old/2.TIFF', 'dogs/3.jpg']


# ----------------------------------------------------------------------------------- finding
def test_a_folder_is_enough(tmp_path):
    put(tmp_path, *NESTED, '.hidden.png', '.git/4.png', 'cats/._1.png')
    cfg = Config(
        dict(
            data=dict(
                type='mmmokd.ImageFolder',
                data_root=str(tmp_path),
                pipeline=[dict(type='mmmokd.LoadImage')],
            )
        )
    )
    dataset = DATASETS.build(cfg.data)
    assert paths_of(dataset, tmp_path) == SORTED
    assert all(sample['img'].shape == (6, 7, 3) for sample in dataset)
    assert 'gt_label' not in dataset.get_data_info(0)
    assert dataset.CLASSES is None


def test_home_prefix_and_relative_folder(tmp_path, monkeypatch):
    put(tmp_path, 'images/train/a.png', 'images/b.png')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert paths_of(ImageFolder('~/images'), tmp_path / 'images') == ['b.png', 'train/a.png']
    assert len(ImageFolder('~/images', data_prefix='train')) == 1
    assert len(ImageFolder(data_prefix='~/images/train')) == 1
    monkeypatch.chdir(tmp_path)
    assert len(ImageFolder('images')) == 2


def test_links_are_followed_and_rings_end(tmp_path):
    put(tmp_path, 'real/a.png', 'outside/b.png')
    (tmp_path / 'real/one').symlink_to(tmp_path / 'outside')
    (tmp_path / 'real/two').symlink_to(tmp_path / 'outside')
    (tmp_path / 'real/ring').symlink_to(tmp_path / 'real')
    found = paths_of(ImageFolder(str(tmp_path / 'real')), tmp_path / 'real')
    assert found == ['a.png', 'one/b.png', 'two/b.png']
    (tmp_path / 'link').symlink_to(tmp_path / 'real')
    assert len(ImageFolder(str(tmp_path / 'link'))) == 3


def test_extensions(tmp_path):
    put(tmp_path, *NESTED)
    assert paths_of(ImageFolder(str(tmp_path), extensions=['.PNG']), tmp_path) == ['b.png']
    for wrong in ('.png', []):
        with pytest.raises(ValueError, match='extensions'):
            ImageFolder(str(tmp_path), extensions=wrong)


def test_the_log_says_what_was_found_and_what_was_left_out(tmp_path, read_log):
    put(tmp_path, 'a.png', 'b/c.jpg', '.hidden.txt')
    ImageFolder(str(tmp_path))
    (line,) = read_log()
    assert line.endswith(f'INFO - 2 images in {tmp_path}')
    for name in ('1.XCF', 'b/2.xcf', '3.xcf', 'b/README'):
        (tmp_path / name).write_text('not for us')
    ImageFolder(str(tmp_path))
    line = read_log()[-1]
    found = f'2 images in {tmp_path}; other files are left out: 4 (3 x .xcf, 1 x no ending). '
    assert f'WARNING - {found}' in line


@pytest.mark.parametrize(
    ('ending', 'hint'),
    [
        ('HEIC', 'pip install pillow-heif'),
        ('hif', 'pip install pillow-heif'),
        ('avif', 'pip install -U pillow'),
        ('jxl', 'pip install pillow-jxl-plugin'),
        ('CR2', 'Raw images of cameras are not read'),
        ('dng', 'develop them, to jpg or tif'),
    ],
)
def test_kinds_that_need_a_plugin_are_named(tmp_path, monkeypatch, read_log, ending, hint):
    monkeypatch.setattr('mmmokd.datasets.transforms.files.find_spec', lambda name: None)
    monkeypatch.setattr('mmmokd.datasets.transforms.files.features.check', lambda name: False)
    (tmp_path / f'a.{ending}').write_text('an image')
    with pytest.raises(ValueError, match=f'No image in .*{hint}'):
        ImageFolder(str(tmp_path))
    put(tmp_path, 'b.png')
    assert len(ImageFolder(str(tmp_path))) == 1
    assert hint in read_log()[-1]


@pytest.mark.parametrize('orientation', range(1, 9))
def test_heic_of_a_phone(tmp_path, orientation):
    """It says twice how it is to be turned, of which once counts."""
    pillow_heif = pytest.importorskip('pillow_heif')
    rgb = np.kron(np.eye(3, 4)[..., None] * [200, 90, 30], np.ones((32, 32, 1))).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pillow_heif.register_heif_opener()
    Image.fromarray(rgb).save(tmp_path / 'IMG_1.HEIC', exif=exif.tobytes(), quality=95)
    dataset = ImageFolder(str(tmp_path), pipeline=[LoadImage(skip_bad=False)])
    img = dataset[0]['img'][..., ::-1]
    expected = np.asarray(ImageOps.exif_transpose(with_exif(Image.fromarray(rgb), exif)))
    assert img.shape == expected.shape and np.abs(img.astype(int) - expected).mean() < 5


def with_exif(img, exif):
    content = io.BytesIO()
    img.save(content, 'PNG', exif=exif)
    return Image.open(content)


# ----------------------------------------------------------------------------------- own outputs
def make_outputs(root):
    """Write what train.py, evaluate.py and quickstart.sh write, below a folder of images."""
    run = '20260102_030405'
    put(
        *(root, 'work_dirs/mokd_folder/evaluation/results.png'),
        *(f'my_run/{run}/vis_data/vis_image/1.png', 'my_run/best.png'),
        *(f'crashed/{run}/{run}.log.txt', 'crashed/curves.png'),
        *('figures/results.png', 'figures/results.md.txt', 'figures/results.json.txt'),
        *('tried/quickstart.png', 'tried/cnn/a.png', 'tried/quickstart.json.txt'),
        f'{run}/vis_data/1.png',
    )
    for path in list(root.rglob('*.txt')):
        path.rename(path.with_suffix(''))


def test_own_outputs_are_no_images(tmp_path, read_log):
    put(tmp_path, 'cats/1.png', 'dogs/2.png', '20250101_000000/3.png')
    make_outputs(tmp_path)
    dataset = ImageFolder(str(tmp_path), with_label=True)
    assert paths_of(dataset, tmp_path) == ['20250101_000000/3.png', 'cats/1.png', 'dogs/2.png']
    assert dataset.CLASSES == ('20250101_000000', 'cats', 'dogs')
    (line,) = [line for line in read_log() if 'wrote is left out' in line]
    assert 'INFO' in line and line.endswith('20260102_030405, crashed, figures and 3 more')
    # A folder that is named itself is taken as it is.
    assert len(ImageFolder(str(tmp_path / 'tried/cnn'))) == 1
    assert len(ImageFolder(str(tmp_path / 'work_dirs/mokd_folder/evaluation'))) == 1


def test_the_work_dir_of_a_run_of_this_version_is_known(tmp_path):
    put(tmp_path / 'images', *(f'{i}.png' for i in range(4)))
    with short_log():
        runner = Runner(
            model=torch.nn.Linear(1, 1),
            work_dir=str(tmp_path / 'images' / 'run'),
            experiment_name='own_outputs',
            default_scope='mmpretrain',
        )
    put(tmp_path / 'images', 'run/a.png')
    assert os.path.isdir(runner.log_dir)
    assert len(ImageFolder(str(tmp_path / 'images'))) == 4


def test_the_names_of_own_outputs_are_what_is_written():
    assert set(FILES) == EVALUATION_FILES and RECORD == QUICKSTART_RECORD


def test_classes_are_named(tmp_path, read_log):
    put(tmp_path, *(f'{name}/1.png' for name in 'abcdefg'))
    ImageFolder(str(tmp_path), with_label=True)
    assert read_log()[-1].endswith(f'7 classes in {tmp_path}: a, b, c, d, e and 2 more')


@pytest.mark.parametrize(
    'names',
    [
        ('train', 'val'),
        ('Training', 'TEST', 'extra'),
        ('val',),
        ('test', 'unlabelled'),  # check-words: off
    ],
)
def test_classes_that_are_parts_of_a_dataset(tmp_path, read_log, names):
    put(tmp_path, *(f'{name}/cats/1.png' for name in names))
    ImageFolder(str(tmp_path), with_label=True)
    splits = sorted(name for name in names if name != 'extra')
    line = read_log()[-1]
    assert 'WARNING' in line and f'The folders {", ".join(splits)} in' in line
    assert line.endswith(f'{tmp_path}/{splits[0]}')


def test_one_class_may_be_a_train(tmp_path, read_log):
    put(tmp_path, 'car/1.png', 'train/1.png')
    ImageFolder(str(tmp_path), with_label=True)
    assert not [line for line in read_log() if 'WARNING' in line]


# ----------------------------------------------------------------------------------- several folders
def test_several_folders(tmp_path, monkeypatch, read_log):
    put(tmp_path, 'one/train/2.png', 'one/train/1.png', 'two/train/cats/3.png', 'two/other.png')
    one, two = str(tmp_path / 'one'), str(tmp_path / 'two')
    expected = ['one/train/1.png', 'one/train/2.png', 'two/train/cats/3.png']
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('SECOND', two)
    for roots in ([one, two], (f'{one}/', '$SECOND'), f'{one},{two}', '~/one, ${SECOND}'):
        assert paths_of(ImageFolder(roots, data_prefix='train'), tmp_path) == expected
    assert len(ImageFolder([one, two])) == 4
    assert [line for line in read_log() if line.endswith(f'1 images in {two}/train')]
    (tmp_path / 'a, b').mkdir()
    put(tmp_path / 'a, b', 'c.png')
    assert len(ImageFolder(f'{tmp_path}/a, b')) == 1


@pytest.mark.parametrize('text', ['[{0}/a,{0}/b]', "['{0}/a', '{0}/b']", '{0}/a,{0}/b', '~/a,~/b'])
def test_several_folders_on_the_command_line(tmp_path, monkeypatch, text):
    put(tmp_path, 'a/1.png', 'b/2.png')
    monkeypatch.setenv('HOME', str(tmp_path))
    option = f'train_dataloader.dataset.data_root={text.format(tmp_path)}'
    args = tool_parser('').parse_args([str(FOLDER_CONFIG), '--cfg-options', option])
    dataset = load_config(args.config, args.cfg_options).train_dataloader.dataset
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        built = DATASETS.build(dataset)
    assert paths_of(built, tmp_path) == ['a/1.png', 'b/2.png']


def test_classes_of_several_folders(tmp_path):
    put(tmp_path, 'one/cats/1.png', 'one/dogs/2.png', 'two/birds/3.png', 'two/cats/1.png')
    dataset = ImageFolder([f'{tmp_path}/one', f'{tmp_path}/two'], with_label=True)
    assert dataset.CLASSES == ('birds', 'cats', 'dogs')
    assert dataset.get_gt_labels().tolist() == [1, 2, 0, 1]


@pytest.mark.parametrize(
    ('roots', 'error', 'message'),
    [
        (['{0}/a', '{0}/a/'], ValueError, 'names {0}/a twice: it is, or is in, {0}/a/'),
        (['{0}', '{0}/a'], ValueError, 'names {0}/a twice: it is, or is in, {0}'),
        (['{0}/a', '{0}/link'], ValueError, 'names {0}/a twice'),
        (['{0}/a', '{0}/gone'], FileNotFoundError, '{0}/gone, does not exist'),
        ('{0}/a,{0}/gone', FileNotFoundError, '{0}/gone, does not exist'),
        (['{0}/a', 3], ValueError, 'a folder or a list of folders, but got'),
        (7, ValueError, 'a folder or a list of folders, but got 7'),
        ([], ValueError, 'needs data_root'),
        ([''], ValueError, 'empty list'),
    ],
)
def test_several_folders_that_are_none(tmp_path, roots, error, message):
    put(tmp_path, 'a/1.png')
    (tmp_path / 'link').symlink_to(tmp_path / 'a')

    def fill(value):
        if isinstance(value, list):
            return [fill(each) for each in value]
        return value.format(tmp_path) if isinstance(value, str) else value

    with pytest.raises(error, match=re.escape(fill(message))):
        ImageFolder(fill(roots))


def test_a_list_of_several_folders_is_refused(tmp_path):
    put(tmp_path, 'a/1.png', 'b/2.png')
    with pytest.raises(ValueError, match='ann_file=.* names 2: .*ConcatDataset'):
        ImageFolder([f'{tmp_path}/a', f'{tmp_path}/b'], ann_file='list.txt')


# ----------------------------------------------------------------------------------- remote
@pytest.fixture
def remote(tmp_path):
    """A folder in fsspec's memory, with images and what else there is."""
    memory = fsspec.filesystem('memory')
    put(tmp_path, 'cats/1.png', 'dogs/2.JPG', 'dogs/3.png', '.hidden/4.png', 'notes.txt')
    memory.put(str(tmp_path), '/bucket/images', recursive=True)
    yield 'memory://bucket/images'
    memory.rm('/bucket', recursive=True)


@pytest.mark.parametrize('num_workers', [0, 1])
def test_a_remote_folder(remote, num_workers):
    dataset = ImageFolder(remote, pipeline=[LoadImage(skip_bad=False)], with_label=True)
    assert [dataset.get_data_info(i)['img_path'] for i in range(3)] == [
        f'{remote}/cats/1.png',
        f'{remote}/dogs/2.JPG',
        f'{remote}/dogs/3.png',
    ]
    assert dataset.CLASSES == ('cats', 'dogs')
    loader = DataLoader(dataset, num_workers=num_workers, collate_fn=list)
    assert [samples[0]['img'].shape for samples in loader] == 3 * [(6, 7, 3)]
    # Beside a local one, by its scheme or not, and with a folder inside.
    assert len(ImageFolder(remote, data_prefix='dogs')) == 2
    assert len(ImageFolder([f'{remote}/dogs/', f'{remote}/cats'])) == 3


def test_a_local_address(tmp_path):
    put(tmp_path, 'a.png')
    assert paths_of(ImageFolder(f'file://{tmp_path}'), tmp_path) == ['a.png']


@pytest.mark.parametrize(
    ('root', 'message'),
    [
        ('s3://bucket/images', r's3:// are read by a library .*Install s3fs'),
        ('gs://bucket/images', r'gs:// .*gcsfs'),
        ('https://example.com/images', r'no folder that could be listed.*ann_file='),
        ('nothing://bucket/images', r'no storage is known for nothing://'),
        ('memory://gone/images', 'memory://gone/images, does not exist'),
    ],
)
def test_remote_folders_that_cannot_be_read(monkeypatch, root, message):
    monkeypatch.setitem(sys.modules, 's3fs', None)
    monkeypatch.setitem(sys.modules, 'gcsfs', None)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ImageFolder(root)


# ----------------------------------------------------------------------------------- odd names
def test_odd_names(tmp_path, read_log, messages):
    names = [
        'Bär',
        'emoji 🐻',
        'two\nlines',
        'a,b',
        'per%cent',
        os.fsdecode(b'latin \xe4'),
        '{x}',
        '$X',
    ]
    put(tmp_path, *(f'{name}/{name}.png' for name in names), 'Bär/UPPER.PNG')
    (tmp_path / names[2] / 'empty.jpg').touch()
    (tmp_path / names[5] / 'empty.jpg').touch()
    dataset = ImageFolder(str(tmp_path), with_label=True, pipeline=[LoadImage()], lazy_init=True)
    dataset.full_init()
    assert dataset.CLASSES == tuple(sorted(names))
    samples = [dataset.prepare_data(i) for i in range(len(dataset))]
    assert [sample is None for sample in samples].count(True) == 2
    said = ' '.join(messages())
    assert 'two\\nlines/empty.jpg' in said and 'latin \\udce4/empty.jpg' in said
    for root in (tmp_path / names[5], tmp_path / names[2]):
        assert len(ImageFolder(str(root))) == 2


def test_lazy_subset_and_copy(tmp_path):
    put(tmp_path, *NESTED)
    dataset = ImageFolder(str(tmp_path), lazy_init=True)
    assert not dataset._fully_initialized
    dataset.full_init()
    assert paths_of(dataset.get_subset([0, 2]), tmp_path) == ['a.JPG', 'cats/1.webp']


def test_some_images_of_all_folders(tmp_path, read_log):
    put(tmp_path, *(f'{name}/{i}.png' for name in 'abc' for i in range(4)))
    dataset = ImageFolder(str(tmp_path), max_images=6, with_label=True)
    taken = ['a/0.png', 'a/2.png', 'b/0.png', 'b/2.png', 'c/0.png', 'c/2.png']
    assert paths_of(dataset, tmp_path) == taken
    assert dataset.get_gt_labels().tolist() == [0, 0, 1, 1, 2, 2]
    assert '6 of 12 images are taken' in '\n'.join(read_log())
    assert len(ImageFolder(str(tmp_path), max_images=13)) == 12
    for wrong in (0, 0.5):
        with pytest.raises(ConfigError, match=f'max_images must be .* not {wrong}'):
            ImageFolder(str(tmp_path), max_images=wrong)


# ----------------------------------------------------------------------------------- labels
def test_class_folders(tmp_path):
    put(tmp_path, *NESTED)
    (tmp_path / 'birds').mkdir()
    dataset = ImageFolder(str(tmp_path), with_label=True)
    assert paths_of(dataset, tmp_path) == SORTED[2:]
    assert dataset.CLASSES == ('birds', 'cats', 'dogs')
    assert dataset.get_gt_labels().tolist() == [1, 1, 2]
    with pytest.raises(ValueError, match='2 classes are given, but .* has 3 folders'):
        ImageFolder(str(tmp_path), with_label=True, classes=['a', 'b'])
    named = ImageFolder(str(tmp_path), with_label=True, classes=['a', 'b', 'c'])
    assert named.CLASSES == ('a', 'b', 'c')


def test_no_class_folders(tmp_path):
    put(tmp_path, 'a.png')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match=f'with_label.*{tmp_path}.* 1 images'):
        ImageFolder(str(tmp_path), with_label=True)


# ----------------------------------------------------------------------------------- list file
def test_list_file(tmp_path):
    put(tmp_path, *NESTED)
    (tmp_path / 'list.txt').write_bytes(
        '\ufeffdogs/3.jpg\r\n\r\n  a.JPG \r\n'.encode() + f'{tmp_path}/b.png\n\n'.encode()
    )
    for name in ('list.txt', str(tmp_path / 'list.txt')):
        dataset = ImageFolder(str(tmp_path), ann_file=name)
        assert paths_of(dataset, tmp_path) == ['dogs/3.jpg', 'a.JPG', 'b.png']
    (tmp_path / 'whole.txt').write_text(f'{tmp_path}/b.png')
    assert len(ImageFolder(ann_file=str(tmp_path / 'whole.txt'))) == 1


def test_list_file_with_labels(tmp_path):
    put(tmp_path, 'a b.png', 'c.png')
    (tmp_path / 'list.txt').write_text('a b.png 1\nc.png 0\n')
    dataset = ImageFolder(str(tmp_path), ann_file='list.txt', with_label=True)
    assert paths_of(dataset, tmp_path) == ['a b.png', 'c.png']
    assert dataset.get_gt_labels().tolist() == [1, 0]
    (tmp_path / 'list.txt').write_text('c.png\n')
    with pytest.raises(ValueError, match='class number .*list.txt, but one is: c.png'):
        ImageFolder(str(tmp_path), ann_file='list.txt', with_label=True)


def test_list_file_errors(tmp_path):
    put(tmp_path, 'a.png')
    with pytest.raises(FileNotFoundError, match=f'ann_file.*{tmp_path}/list.txt, does not exist'):
        ImageFolder(str(tmp_path), ann_file='list.txt')
    (tmp_path / 'list.txt').write_text('\n  \n')
    with pytest.raises(ValueError, match='list.txt names no image'):
        ImageFolder(str(tmp_path), ann_file='list.txt')
    (tmp_path / 'list.txt').write_text('\n'.join(f'x/{i}.png' for i in range(1000)))
    with pytest.raises(FileNotFoundError, match=f'None of 100 .* of the 1000 .*{tmp_path}/x/0.png'):
        ImageFolder(str(tmp_path), ann_file='list.txt')
    (tmp_path / 'list.txt').write_text('gone.png\na.png')  # found out in training
    assert len(ImageFolder(str(tmp_path), ann_file='list.txt')) == 2


# ----------------------------------------------------------------------------------- errors
def test_no_folder(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match='data_root'):
        ImageFolder()
    with pytest.raises(FileNotFoundError, match=f'{tmp_path}/gone, does not exist'):
        ImageFolder(str(tmp_path / 'gone'))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f'{tmp_path}/gone, does not exist'):
        ImageFolder('gone')
    put(tmp_path, 'a.png', 'b.txt')
    (tmp_path / 'b.txt').rename(tmp_path / 'c.zip')
    put(tmp_path, 'b.txt')
    for name, hint in (('a.png', 'folder of many'), ('b.txt', 'ann_file'), ('c.zip', 'Unpack it')):
        with pytest.raises(NotADirectoryError, match=f'{tmp_path}/{name}, is a file.*{hint}'):
            ImageFolder(str(tmp_path / name))
    (tmp_path / 'link').symlink_to(tmp_path / 'nothing')
    with pytest.raises(FileNotFoundError, match='does not exist. It is a link to what does not'):
        ImageFolder(str(tmp_path / 'link'))
    monkeypatch.delenv('IMAGES', raising=False)
    with pytest.raises(FileNotFoundError, match='The environment variable IMAGES is not set'):
        ImageFolder('$IMAGES/train')


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    put(tmp_path, 'a.png', 'locked/b.png')
    scandir = os.scandir

    def refuse(folder):  # root may read everything, and tests may be run by it
        if str(folder).endswith('locked'):
            raise PermissionError(13, 'Permission denied', str(folder))
        return scandir(folder)

    monkeypatch.setattr('mmmokd.datasets.folders.os.scandir', refuse)
    with pytest.raises(ValueError, match=f'{tmp_path}/locked cannot be read: Permission denied'):
        ImageFolder(str(tmp_path))


def test_no_image(tmp_path):
    with pytest.raises(ValueError, match=f'No image in the folder {tmp_path}: it is empty'):
        ImageFolder(str(tmp_path))
    put(tmp_path, 'a.txt', 'b/c.txt', 'd.csv', 'README')
    found = r'it holds 4 files \(2 x .txt, 1 x .csv, 1 x no ending\|.*\).*\.jpg'
    with pytest.raises(ValueError, match=found.replace(r'\|', '|2 x .txt')):
        ImageFolder(str(tmp_path))


def test_test_mode_names_an_unreadable_image(tmp_path):
    put(tmp_path, 'a.png')
    (tmp_path / 'b.png').write_bytes(b'broken')
    dataset = ImageFolder(str(tmp_path), pipeline=[LoadImage()], test_mode=True)
    assert dataset[0]['img'].shape == (6, 7, 3)
    with pytest.raises(BadImageError, match=f'{tmp_path}/b.png'):
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
        dataset = ImageFolder(str(tmp_path), pipeline=[Every10thIsBad()])
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
