# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""What is said of an error, and which errors keep their traceback."""

import linecache
import sys
from copy import deepcopy
from traceback import format_exception

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, HOOKS, MODELS, VISBACKENDS, Registry
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.utils.data import DataLoader, Dataset

from mmmokd.cli.config import load_config
from mmmokd.cli.config_keys import known_keys
from mmmokd.cli.errors import PACKAGE, explain_error, is_user_error
from mmmokd.cli.run_tool import run_tool, tool_parser
from mmmokd.datasets import LoadImage
from mmmokd.engine.runners.build_runner import build_runner
from mmmokd.utils import CollapseError


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


def test_value_error_of_this_package_in_a_worker():
    def load(results):
        return LoadImage()(dict(img='no image'))

    error = raised(list, DataLoader(Broken(load), num_workers=1))
    assert is_user_error(error)
    assert explain_error(error).startswith("results['img'] must be an image")
    assert 'Traceback' not in explain_error(error)


@pytest.mark.parametrize('num_workers', [0, 1])
@pytest.mark.parametrize(
    ('code', 'message'),
    [
        ('list(zip((1,), (), strict=True))', None),
        ("int('fault')", None),
        ('(one, two) = (1,)', None),
        ("raise ValueError(\n        'wrong input'\n    )", 'wrong input'),
    ],
)
def test_value_error_that_no_line_raised_keeps_its_traceback(
    monkeypatch, code, message, num_workers
):
    # As if it stood in the package. What is built in leaves no frame of its own.
    file = str(PACKAGE / 'faulty.py')
    code = f'def load(results):\n    {code}\n'
    monkeypatch.setitem(linecache.cache, file, (len(code), None, code.splitlines(True), file))
    names = {}
    exec(compile(code, file, 'exec'), names)
    error = raised(list, DataLoader(Broken(names['load']), num_workers=num_workers))
    assert isinstance(error, ValueError) and 'faulty.py' in ''.join(format_exception(error))
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


def explained(build, **parts) -> str | None:
    cfg = Config(dict(default_scope='mmpretrain', **parts))

    def main() -> None:
        build(cfg)

    return explain_error(raised(main))


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
        (dict(depth=18), "a model of the config has no `type`: {'depth': 18}."),
        (dict(type='mmpretrain.ResNet', depth='18'), None),
    ],
)
def test_mistake_in_a_config_names_its_place(backbone, message):
    model = dict(backbone=backbone)
    assert explained(lambda cfg: MODELS.build(cfg.model.backbone), model=model) == message


def test_mistyped_key_of_what_the_runner_builds(tmp_path):
    message = 'log_processor of the config takes no windows_size. Did you mean window_size?'
    parts = dict(model=dict(type='BaseModel'), work_dir=str(tmp_path), experiment_name='mistyped')
    assert explained(build_runner, log_processor=dict(windows_size=3), **parts) == message


@pytest.mark.parametrize('key', ['other', 'interval'])
@pytest.mark.parametrize('in_config', [True, False])
def test_fault_in_a_constructor_keeps_its_traceback(key, in_config):
    class Faulty:
        def __init__(self, interval: int = 1) -> None:
            helper(**{key: interval})

    def helper() -> None:
        pass

    hook = dict(type=Faulty, interval=2)
    assert explained(lambda cfg: HOOKS.build(hook), hook=hook if in_config else {}) is None


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
    loader = dict(dataset=dict(dataset, data_root=str(gone)))
    text = explained(lambda cfg: DATASETS.build(cfg.loader.dataset), loader=loader)
    kind = dataset['type'].removeprefix('mmpretrain.')
    message = message.format(root=tmp_path)
    start = f'loader.dataset ({kind}) of the config cannot use its data: {message}'
    assert text.startswith(start) and f"data_root='{gone}'" in text


def test_fault_below_a_dataset_keeps_its_traceback():
    class Faulty:
        def __init__(self, data_root: str) -> None:
            raise RuntimeError('Connection closed by peer')

    build = dict(type=Faulty, data_root='/images')
    assert explained(lambda cfg: DATASETS.build(cfg.dataset), dataset=build) is None


def test_explanation_is_not_in_the_way_of_the_error():
    class Hook:
        def __init__(self, values) -> None:
            pass

    values = np.zeros(2)
    hooks = [dict(type=Hook, values=values.copy(), interval=1) for _ in range(2)]
    message = 'hooks.1 (Hook) of the config takes no interval.'
    assert explained(lambda cfg: HOOKS.build(cfg.hooks[1]), hooks=hooks) == message
    # A copy, which is found by its values only: these arrays cannot be compared.
    assert explained(lambda cfg: HOOKS.build(deepcopy(cfg.hooks[1])), hooks=hooks) is None


def test_library_that_cannot_be_imported_is_no_hindrance(monkeypatch):
    def fail(registry):
        raise RuntimeError('operators of another PyTorch')

    monkeypatch.setattr(Registry, 'import_from_location', fail)
    cfg = Config(dict(model=dict(backbone=dict(type='SomeNet', depth=18))))
    assert known_keys(cfg, ('model', 'backbone')) is None


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
    def write():
        with open(tmp_path / 'log', 'w') as file:
            raise OSError(28, 'No space left on device')
        file.close()

    assert explain_error(raised(write)) == f'cannot write {tmp_path}/log: No space left on device'
    error = OSError(30, 'Read-only file system', 'out.json')
    assert explain_error(error) == 'cannot write out.json: Read-only file system'
    assert explain_error(OSError(5, 'Input/output error')) is None
