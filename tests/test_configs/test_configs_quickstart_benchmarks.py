# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The benchmarks that follow the quick start: they take its branches, and train."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mokd_testing import train
from transfer_testing import draw_scene, make_coco, need, write, write_lines

import mmmokd.models  # noqa: F401
from mmmokd.registry import MODELS

MOKD = Path(__file__).parents[2] / 'configs' / 'mokd'
CONFIGS = sorted((MOKD / 'benchmarks' / 'quickstart').glob('*.py'))
CLASSIFIERS = [path for path in CONFIGS if 'fashion-mnist' in path.stem]
OTHERS = [path for path in CONFIGS if path not in CLASSIFIERS]


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    return save_pair(tmp_path_factory.mktemp('pair') / 'epoch_1.pth', 'fashion-mnist')


@pytest.fixture(scope='module')
def folder_pair(tmp_path_factory):
    return save_pair(tmp_path_factory.mktemp('pair') / 'epoch_1.pth', 'folder')


def save_pair(path, data):
    """Write a checkpoint of the quick start's pair with its first weights."""
    cfg = Config.fromfile(MOKD / 'quickstart' / f'mokd_cnn-vit_{data}.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model)
    torch.save({'state_dict': model.state_dict()}, path)
    return path, model


@pytest.mark.parametrize('path', CLASSIFIERS, ids=[path.stem for path in CLASSIFIERS])
def test_takes_its_branch_and_trains(path, pair, tmp_path, data_roots):
    cfg = Config.fromfile(path)
    cfg.work_dir, cfg.experiment_name = str(tmp_path), tmp_path.name
    cfg.model.backbone.init_cfg.checkpoint = str(pair[0])
    root = str(data_roots['FashionMNIST'])
    cfg.train_dataloader.dataset.dataset.data_root = cfg.val_dataloader.dataset.data_root = root
    cfg.train_dataloader.dataset.share = 0.5
    cfg.train_cfg.max_epochs = cfg.train_cfg.val_interval = 1
    cfg.optim_wrapper.optimizer.lr = 0.0
    cfg.default_hooks.pop('data_health')
    branch = path.stem.partition('_')[0]
    expected = pair[1].branches[branch].teacher.backbone.state_dict()
    runner = train(cfg)
    assert 'accuracy/top1' in {key.removeprefix('val/') for key in runner.message_hub.log_scalars}
    found = runner.model.backbone.state_dict()
    assert found.keys() == expected.keys()
    moved = {key for key, value in found.items() if not torch.equal(value, expected[key])}
    assert all('running_' in key or 'num_batches' in key for key in moved)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """Drawn scenes in COCO's layout, and their maps of classes in that of the converter."""
    root = tmp_path_factory.mktemp('scenes')
    rng = np.random.default_rng(0)
    for split in ('train2017', 'val2017'):
        drawn = [draw_scene(rng) for _ in range(4)]
        make_coco(root / 'coco_mini', drawn, split)
        for number, (_, labels, _) in enumerate(drawn, 1):
            write(root / 'coco_mini_labels' / split / f'{number:012}.png', labels)
    write_lines(root / 'coco_mini_labels' / 'classes.txt', [f'class{i}' for i in range(133)])
    return root


@pytest.mark.parametrize('path', OTHERS, ids=[path.stem for path in OTHERS])
def test_takes_the_cnn_of_a_folder_and_trains(path, folder_pair, scenes, tmp_path, monkeypatch):
    need(*(('mmdet', 'mmcv.ops') if path.stem.startswith('mask') else ('mmseg',)))
    cfg = Config.fromfile(path)
    assert len(path.read_text().splitlines()) <= 60
    cfg.work_dir, cfg.experiment_name = str(tmp_path), tmp_path.name
    cfg.model.backbone.init_cfg.checkpoint = str(folder_pair[0])
    (scenes / 'data').exists() or (scenes / 'data').symlink_to(scenes)
    monkeypatch.chdir(scenes)
    cfg.train_dataloader.batch_size = 2
    cfg.train_cfg.update({key: 1 for key in ('max_epochs', 'max_iters') if key in cfg.train_cfg})
    cfg.optim_wrapper.optimizer.lr = 0.0
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    runner = train(cfg)
    assert any(key.startswith('train/loss') for key in runner.message_hub.log_scalars)
    expected = folder_pair[1].branches['cnn'].teacher.backbone.state_dict()
    found = runner.model.backbone.state_dict()
    assert found.keys() == expected.keys()
    moved = {key for key, value in found.items() if not torch.equal(value, expected[key])}
    assert all('running_' in key or 'num_batches' in key for key in moved)
