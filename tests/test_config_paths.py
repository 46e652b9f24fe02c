# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Configs of the package, by name, from a wheel, and in copies."""

import shutil
from pathlib import Path

import pytest
from mmengine.config import Config

from mmmokd import config_paths
from mmmokd.cli.config import load_config
from mmmokd.config_paths import configs_dir, find_config, named_config

NAME = 'mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder.py'
BENCHMARK = 'benchmarks/classification/resnet18_8xb128-linear-coslr-100e_in1k.py'


def test_base_by_short_name(tmp_path):
    (tmp_path / 'mine.py').write_text(
        f"_base_ = 'mmmokd::mokd/{NAME}'\ntrain_cfg = dict(max_epochs=3)\n"
    )
    cfg = Config.fromfile(tmp_path / 'mine.py')  # as the libraries' own tools read it
    whole = Config.fromfile(configs_dir() / 'mokd' / NAME)
    whole.train_cfg.max_epochs = 3
    assert cfg.to_dict() == whole.to_dict()


@pytest.mark.parametrize(
    'path', [f'mmmokd::mokd/{NAME}', f'configs/mokd/{NAME}', f'/gone/configs/mokd/{NAME}', NAME]
)
def test_config_away_from_the_checkout(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    assert load_config(path).filename == str(configs_dir() / 'mokd' / NAME)


@pytest.mark.parametrize('name', [NAME, NAME.replace('folder', 'folder-knn'), BENCHMARK])
def test_copy_of_a_config(tmp_path, name):
    file = Path(shutil.copy(configs_dir() / 'mokd' / name, tmp_path / 'mine.py'))
    assert load_config(file).to_dict() == load_config(configs_dir() / 'mokd' / name).to_dict()


def test_own_base_goes_first(tmp_path):
    (tmp_path / '_base_').mkdir()
    (tmp_path / '_base_' / 'default_runtime.py').write_text("log_level = 'ERROR'")
    (tmp_path / 'mine.py').write_text("_base_ = './_base_/default_runtime.py'")
    assert load_config(tmp_path / 'mine.py').to_dict() == dict(log_level='ERROR')


def test_nothing_of_that_name():
    assert find_config('configs/mokd/nothing.py') is None and find_config('..') is None
    with pytest.raises(FileNotFoundError, match=f'Did you mean mmmokd::mokd/{NAME}'):
        named_config(f'mmmokd::mokd/{NAME.replace("folder", "foldr")}')


def test_configs_of_a_wheel(tmp_path, monkeypatch):
    (tmp_path / 'mmmokd' / '.mim' / 'configs' / 'mokd').mkdir(parents=True)
    monkeypatch.setattr(config_paths, 'PACKAGE', tmp_path / 'mmmokd')
    assert configs_dir() == tmp_path / 'mmmokd' / '.mim' / 'configs'
    monkeypatch.setattr(config_paths, 'PACKAGE', tmp_path)
    with pytest.raises(FileNotFoundError, match='installed without its configs'):
        configs_dir()
