# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""k-NN on class folders of one's own, by the options that its config names."""

from pathlib import Path

import numpy as np
import pytest
from config_testing import draw_picture, shrink_sizes
from mokd_testing import short_log

from mmmokd.apis import build_runner, load_config
from mmmokd.apis.config import set_dataloader_defaults

CONFIG = (
    Path(__file__).parents[2]
    / 'configs/mokd/mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder-knn.py'
)
TRAIN, QUERIES, BANK = (
    f'{loader}.dataset.data_root'
    for loader in ('train_dataloader', 'val_dataloader', 'val_cfg.bank_dataloader')
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Two folders of the same three classes, of 8 and of 3 noisy pictures each."""
    root, rng = tmp_path_factory.mktemp('labelled'), np.random.default_rng(0)
    for part, count in (('train', 8), ('test', 3)):
        for i in range(3 * count):
            draw_picture(root / part / 'abc'[i % 3] / f'{i}.png', rng)
    return root


def runner_of(tmp_path, options):
    cfg = load_config(CONFIG, {'train_dataloader.num_workers': 0, **options})
    cfg.val_dataloader.num_workers = 0
    set_dataloader_defaults(cfg)
    shrink_sizes(cfg)
    cfg.work_dir, cfg.experiment_name = str(tmp_path), tmp_path.name
    with short_log():
        return build_runner(cfg)


@pytest.mark.parametrize(
    ('options', 'sizes'),
    [
        ({QUERIES: 'train', 'val_evaluator.k': 5}, (18, 6)),  # 0.8 of 8 are 6 of each class
        ({QUERIES: 'test', BANK: 'train'}, (24, 9)),
    ],
)
def test_one_option_names_the_labelled_folder(tmp_path, folder, options, sizes):
    options = {
        key: str(folder / value) if key.endswith('data_root') else value
        for key, value in options.items()
    }
    runner = runner_of(tmp_path, {TRAIN: str(folder), **options})
    metrics = runner.val()
    loop = runner.val_loop
    assert (len(loop.bank_dataloader.dataset), len(loop.dataloader.dataset)) == sizes
    assert set(metrics) == {
        f'{name}.teacher/knn_{top}' for name in ('cnn', 'vit') for top in ('top1', 'top5')
    }


def test_too_few_pictures_are_told_before_training(tmp_path, folder):
    runner = runner_of(tmp_path, {TRAIN: str(folder), QUERIES: str(folder / 'test')})
    with pytest.raises(ValueError, match='k=20 .* the bank has 6'):
        runner.train()
    assert runner.iter == 0
