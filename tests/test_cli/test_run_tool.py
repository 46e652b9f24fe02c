# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Messages of errors, and the errors that keep their traceback."""

import sys

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS, VISBACKENDS, Registry
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.utils.data import DataLoader, Dataset

from mmmokd.cli.config import load_config
from mmmokd.cli.config_schema import check_config
from mmmokd.cli.errors import explain_error
from mmmokd.cli.run_tool import run_tool, tool_parser
from mmmokd.datasets import LoadImage
from mmmokd.engine.runners.data_errors import data_errors
from mmmokd.engine.runners.run_folder import claim_run_folder
from mmmokd.utils import CollapseError
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


def test_collapse_is_one_message(capsys, monkeypatch):
    monkeypatch.delenv('MMMOKD_TRACEBACK', raising=False)
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '0')

    def collapse():
        raise CollapseError("Branch 'cnn' has collapsed")

    with pytest.raises(SystemExit) as exit_info:
        run_tool(collapse)
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.startswith("error: Branch 'cnn' has collapsed\n")


def test_torchrun_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv('MMMOKD_TRACEBACK', raising=False)
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '0')
    file = tmp_path / 'error.json'
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(file))
    monkeypatch.setenv('RANK', '1')
    for command, message in (
        (lambda: load_config('nowhere.py'), 'error: config nowhere.py does not exist.'),
        (lambda: tool_parser('').parse_args([]), 'error: the following arguments are required'),
    ):
        with pytest.raises(SystemExit) as exit_info:
            run_tool(command)
        assert exit_info.value.code == 2
        # As torchrun reads it.
        failure = ProcessFailure(local_rank=1, pid=1, exitcode=2, error_file=str(file))
        assert failure.message['message'].startswith(message)
        assert message.removeprefix('error') in capsys.readouterr().err


def refused(**parts) -> str | None:
    try:
        check_config(Config(dict(default_scope='mmpretrain', **parts)))
    except ConfigError as error:
        return str(error).removeprefix('config None: ')


@pytest.mark.parametrize(
    ('backbone', 'message'),
    [
        (
            dict(type='mmpretrain.ResNet', dept=18, depth=18),
            'model.backbone (ResNet) of the config takes no dept. Did you mean depth?',
        ),
        (
            dict(type='mmpretrain.ResNet'),
            "model.backbone (ResNet) of the config lacks what it needs: 'depth'.",
        ),
        (
            dict(type='mmpretrain.ResNett', depth=18),
            'model.backbone (ResNett) of the config: no model is registered as '
            "'mmpretrain.ResNett'. Did you mean ResNet?",
        ),
        (dict(depth=18), "model.backbone of the config lacks what it needs: 'type'."),
        (
            dict(type='mmpretrain.ResNet', depth='18'),
            'model.backbone.depth (ResNet) of the config should be one of 18, 34, 50, 101, 152, not '
            "'18'. Did you mean 18?",
        ),
        # Takes any argument, for timm.
        (dict(type='mmpretrain.TIMMBackbone', model_name='resnet18', in_chans=1), None),
    ],
)
def test_mistake_in_a_config_names_its_place(backbone, message):
    assert refused(model=dict(type='ImageClassifier', backbone=backbone)) == message


def test_mistyped_key_of_what_the_runner_builds():
    message = 'log_processor of the config takes no windows_size. Did you mean window_size?'
    assert refused(log_processor=dict(windows_size=3)) == message


def test_model_of_branches_is_known_by_its_signature():
    """A class of whatever name that takes ``branches`` and, for their heads, has ``terms``."""

    class Pair(BaseModel):
        terms = dict(mse=dict(type='mmmokd.DistillationHead'))

        def __init__(self, branches: dict[str, dict]) -> None:
            pass

    backbone = dict(type='mmpretrain.ResNet', depth=18)
    good = dict(type=Pair, branches=dict(a=dict(backbone=backbone, heads=dict(mse=dict()))))
    assert refused(model=good) is None
    for part, message in (
        (
            dict(branches=dict(a=dict(bakbone=backbone))),
            'model.branches.a of the config lacks what it',
        ),
        (
            dict(branches=dict(a=dict(backbone=dict(backbone, dept=1)))),
            'model.branches.a.backbone (ResNet) of the config takes no dept. Did you mean depth?',
        ),
        (
            dict(branches=dict(a=dict(backbone=backbone, heads=dict(mes={})))),
            'model.branches.a.heads of the config takes no mes. Did you mean mse?',
        ),
        (
            dict(branches=dict(a=dict(backbone=backbone, heads=dict(mse=dict(center_momentm=1))))),
            'model.branches.a.heads.mse of the config takes no center_momentm. Did you mean center_m',
        ),
    ):
        assert refused(model=dict(good, **part)).startswith(message)


def test_arrays_in_a_config_are_no_hindrance():
    class Arrays(Hook):
        def __init__(self, values) -> None:
            pass

    hooks = [dict(type=Arrays, values=np.zeros(2), interval=1) for _ in range(2)]
    message = 'custom_hooks.0 (Arrays) of the config takes no interval.'
    assert refused(custom_hooks=hooks) == message


@pytest.mark.parametrize(
    ('dataset', 'message'),
    [
        (dict(type='mmpretrain.CustomDataset'), "No such file or directory: '{root}/gone/'"),
        (
            dict(type='mmpretrain.ImageNet', data_prefix='empty'),
            "The number of subfolders (0) doesn't match the number of specified classes (1000)",
        ),
        (
            dict(type='mmpretrain.CustomDataset', ann_file='gone.txt'),
            "No such file or directory: '{root}/gone/gone.txt'",
        ),
        (dict(type='mmpretrain.CIFAR10', download=False), 'Cannot find CIFAR10 dataset in '),
    ],
)
def test_data_that_a_library_does_not_find(tmp_path, dataset, message):
    (tmp_path / 'empty').mkdir()
    gone = tmp_path if 'data_prefix' in dataset else tmp_path / 'gone'
    dataset = dict(dataset, data_root=str(gone))

    def build():
        with data_errors(dataset, 'loader.dataset'):
            DATASETS.build(dataset)

    text = explain_error(raised(build))
    kind = dataset['type'].removeprefix('mmpretrain.')
    message = message.format(root=tmp_path)
    start = f'loader.dataset ({kind}) of the config cannot use its data: {message}'
    assert text.startswith(start) and f"data_root='{gone}'" in text


def test_fault_below_a_dataset_keeps_its_traceback():
    class Faulty:
        def __init__(self, data_root: str) -> None:
            raise RuntimeError('Connection closed by peer')

    def build():
        with data_errors(dataset, 'loader.dataset'):
            DATASETS.build(dataset)

    dataset = dict(type=Faulty, data_root='/images')
    assert explain_error(raised(build)) is None


def test_library_that_cannot_be_imported_is_no_hindrance(monkeypatch):
    def fail(registry):
        raise RuntimeError('operators of another PyTorch')

    monkeypatch.setattr(Registry, 'import_from_location', fail)
    assert refused(model=dict(backbone=dict(type='SomeNet', depth=18), type='SomeModel')) is None


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
