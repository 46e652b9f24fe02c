# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Messages of errors, and the errors that keep their traceback."""

import sys

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, VISBACKENDS
from torch.utils.data import DataLoader, Dataset

from mmmokd.cli.errors import explain_error
from mmmokd.datasets import LoadImage
from mmmokd.engine.runners.run_folder import claim_run_folder
from mmmokd.utils.errors import CannotWriteError, ConfigError, MissingFileError


class Broken(Dataset):
    """Two images that cannot be read; or, without a loader, a fault in its code."""

    def __init__(self, load=None) -> None:
        self.load = load

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index):
        return self.load(dict(img_path=f'gone/{index}.png')) if self.load else int('fault')


def raised(function, *args) -> Exception:
    try:
        function(*args)
    except Exception as error:
        return error


@pytest.mark.parametrize('num_workers', [0, 1])
def test_unreadable_image_is_one_line_wherever_it_was_read(num_workers):
    load = LoadImage(skip_bad=False)
    error = raised(list, DataLoader(Broken(load), num_workers=num_workers))
    assert explain_error(error).startswith('Cannot read the image gone/0.png: FileNotFoundError')
    assert '\n' not in explain_error(error)
    assert explain_error(raised(list, DataLoader(Broken(), num_workers=num_workers))) is None


@pytest.mark.parametrize('num_workers', [0, 1])
@pytest.mark.parametrize(
    ('kind', 'message'),
    [(ConfigError, 'wrong\ninput'), (MissingFileError, 'wrong\ninput'), (ValueError, None)],
)
def test_type_of_an_error_tells_whose_it_is(kind, message, num_workers):
    def load(results):
        raise kind('wrong\ninput')

    error = raised(list, DataLoader(Broken(load), num_workers=num_workers))
    assert isinstance(error, kind)
    assert explain_error(error) == message


@pytest.mark.parametrize(
    'package, module, registry, cfg',
    [
        (
            'tensorboard',
            'torch.utils.tensorboard',
            VISBACKENDS,
            dict(type='TensorboardVisBackend', save_dir='x'),
        ),
        ('wandb', 'wandb', VISBACKENDS, dict(type='WandbVisBackend', save_dir='x')),
        ('wandb', 'wandb', VISBACKENDS, dict(type='mmmokd.WandbVisBackend', save_dir='x')),
        ('mlflow', 'mlflow', VISBACKENDS, dict(type='MLflowVisBackend', save_dir='x')),
        ('timm', 'timm', MODELS, dict(type='mmpretrain.TIMMBackbone', model_name='resnet18')),
    ],
)
def test_package_that_is_not_installed_is_one_sentence(
    monkeypatch, tmp_path, package, module, registry, cfg
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)

    def use():
        built = registry.build(cfg)
        return getattr(built, 'experiment', None)

    said = explain_error(raised(use))
    assert f'needs {package}, which cannot be' in said or f'logs to {package}, which' in said
    assert f'pip install {package}' in said and '\n' not in said and 'Please run' not in said


def test_import_error_of_anything_else_keeps_its_traceback():
    assert explain_error(ImportError("cannot import name 'x' from 'y'", name='y')) is None


def test_full_disk_is_one_message_whoever_writes(tmp_path):
    error = OSError(28, 'No space left on device')  # of a write, which does not say to what
    assert explain_error(error) == 'cannot write: No space left on device'
    cfg = Config(dict(work_dir=str(tmp_path)))
    with pytest.raises(CannotWriteError) as error_info, claim_run_folder(cfg):
        raise error
    message = f'cannot write to {tmp_path}: No space left on device'
    assert explain_error(error_info.value) == message
    error = OSError(30, 'Read-only file system', 'out.json')
    assert explain_error(error) == 'cannot write out.json: Read-only file system'
    assert explain_error(OSError(5, 'Input/output error')) is None


def test_file_that_cannot_be_opened_is_one_message(tmp_path):
    error = raised(open, tmp_path / 'gone')
    assert explain_error(error) == f'{tmp_path}/gone: No such file or directory'
