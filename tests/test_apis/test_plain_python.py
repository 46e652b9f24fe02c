# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Without this package's tools: mmengine's Runner and ``mmmokd.apis`` alone, as in a notebook."""

import importlib
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
from image_testing import rgb_noise, save
from mmengine.config import Config
from mmengine.runner import Runner
from mokd_testing import short_log

import mmmokd.apis

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'mokd'
FOLDER = CONFIGS / 'mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder.py'
VIT = dict(embed_dims=192, num_layers=1, num_heads=3, feedforward_channels=192)
GRAY = dict(mean=[120.0], std=[60.0], to_rgb=False)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    for i in range(4):
        save(folder / f'{i}.png', rgb_noise(40, 50 + i), 'L' if i % 2 else None)
    return folder


def run(work_dir, images, **changes):
    """Train as the page on training shows it, for one epoch of small views."""
    cfg = Config.fromfile(FOLDER)
    cfg.work_dir = str(work_dir)
    cfg.train_dataloader.num_workers = 0
    cfg.train_dataloader.batch_size = 2
    cfg.train_dataloader.dataset.data_root = str(images)
    for group in cfg.train_dataloader.dataset.pipeline[1].groups:
        group.update(size=32, num=1)
    cfg.model.neck_defaults = dict(out_channels=16, hid_channels=32, embed_dims=24, num_layers=1)
    cfg.model.global_size = 32
    cfg.model.branches.vit.backbone.arch = VIT
    cfg.train_cfg.max_epochs = 1
    cfg.default_hooks.checkpoint = None
    cfg.log_level = 'ERROR'
    cfg.merge_from_dict(changes)
    with short_log():
        runner = Runner.from_cfg(cfg)
        runner.train()
    return runner


@pytest.fixture
def notebook(monkeypatch):
    """A main module that no file has, as Jupyter's."""
    monkeypatch.setitem(sys.modules, '__main__', types.ModuleType('__main__'))


def test_two_runs_of_the_folder_config_in_one_process(notebook, tmp_path, images):
    """The second one of gray images, with backbones of one channel; neither needs a worker."""
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='.*pin_memory.*')
        first = run(tmp_path / 'first', images)
        gray = {f'model.branches.{name}.backbone.in_channels': 1 for name in ('cnn', 'vit')}
        second = run(tmp_path / 'second', images, data_preprocessor=GRAY, **gray)
    assert first.iter == second.iter == 2
    for runner, name in ((first, 'first'), (second, 'second')):
        assert Path(runner.log_dir).parent == tmp_path / name
        assert runner.visualizer.get_backend('LocalVisBackend')._save_dir.startswith(runner.log_dir)
        logged = [handler.baseFilename for handler in runner.logger.handlers
                  if hasattr(handler, 'baseFilename')]  # fmt: skip
        assert all(file.startswith(runner.log_dir) for file in logged) and logged
    for name, channels in ((first, 3), (second, 1)):
        assert name.model.branches.cnn.student.backbone.conv1.in_channels == channels


def test_views_are_checked_before_the_first_step(tmp_path, images):
    beit = dict(_delete_=True, type='BEiTViT', img_size=64, patch_size=16, arch='deit-t')
    with pytest.raises(ValueError, match='branch vit: the backbone BEiTViT .* images of 32x32'):
        changes = {'model.branches.vit.backbone': beit, 'model.global_size': 64}
        run(tmp_path / 'run', images, **changes)


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('mokd_*.py')), ids=lambda path: path.stem)
def test_no_config_asks_for_what_a_machine_may_not_have(path):
    """The tools choose these by the machine; mmengine would hand them to PyTorch as they are."""
    loader = Config.fromfile(path).train_dataloader
    assert not {'persistent_workers', 'pin_memory', 'prefetch_factor'} & set(loader)


def test_modules_are_reloaded_in_a_notebook(notebook, tiny_mokd, tiny_cfg):
    importlib.reload(mmmokd)
    for module in ('model', 'feature_extractor'):
        importlib.reload(sys.modules[f'mmmokd.apis.{module}'])
    apis = importlib.reload(mmmokd.apis)
    model = apis.init_model(tiny_cfg, tiny_mokd[0])
    assert type(model) is type(tiny_mokd[1])
    assert torch.equal(*(next(each.parameters()) for each in (model, tiny_mokd[1])))


def test_apis_cost_no_more_than_the_package():
    """No further library is imported before it is used."""
    program = (
        'import sys, mmmokd\n'
        'before = {name.partition(".")[0] for name in sys.modules}\n'
        'import mmmokd.apis\n'
        'print({name.partition(".")[0] for name in sys.modules} - before)\n'
        'print({"mmpretrain", "timm"} & set(sys.modules))\n'
    )
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-2:] == ['set()', 'set()'], done.stdout + done.stderr
