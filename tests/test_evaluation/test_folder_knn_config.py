# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""k-NN on your own class folders, by the options that its config names."""

from pathlib import Path

import numpy as np
import pytest
from config_testing import draw_image, shrink_sizes
from mokd_testing import short_log

from mmmokd.cli.config import load_config, set_dataloader_defaults
from mmmokd.engine.runners.build_runner import build_runner

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
    """Two folders of the same three classes, of 8 and of 3 noisy images each."""
    root, rng = tmp_path_factory.mktemp('labeled'), np.random.default_rng(0)
    for part, count in (('train', 8), ('test', 3)):
        for i in range(3 * count):
            draw_image(root / part / 'abc'[i % 3] / f'{i}.png', rng)
    return root


def runner_of(tmp_path, options):
    no_workers = {f'{mode}_dataloader.num_workers': 0 for mode in ('train', 'val', 'test')}
    cfg = load_config(CONFIG, {**no_workers, **options})
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
def test_one_option_names_the_labeled_folder(tmp_path, folder, options, sizes):
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


def test_too_few_images_are_told_before_training(tmp_path, folder):
    runner = runner_of(tmp_path, {TRAIN: str(folder), QUERIES: str(folder / 'test')})
    with pytest.raises(ValueError, match='k=20 .* the bank has 6'):
        runner.train()
    assert runner.iter == 0


def test_a_checkpoint_is_tested_as_it_is_validated(tmp_path, folder):
    labeled = {
        f'{mode}_dataloader.dataset.data_root': str(folder / 'train') for mode in ('val', 'test')
    }
    settings = {f'{mode}_evaluator.k': 5 for mode in ('val', 'test')}
    runner = runner_of(tmp_path, {TRAIN: str(folder), **labeled, **settings})
    metrics = runner.val()
    assert runner.test() == metrics and 'cnn.teacher/knn_top1' in metrics


def test_a_value_range_reaches_images_that_are_measured(tmp_path, folder):
    options = {
        f'{mode}_dataloader.dataset.{key}': value
        for mode in ('train', 'val', 'test')
        for key, value in (('data_root', str(folder / 'train')), ('pipeline.0.value_range', [0, 9]))
    }
    loop = runner_of(tmp_path, {**options, 'val_evaluator.k': 5}).val_loop
    for loader in (loop.bank_dataloader, loop.dataloader):
        assert loader.dataset.dataset.pipeline.transforms[0].value_range == (0, 9)


def test_the_folder_config_may_have_more_transforms(tmp_path):
    user = tmp_path / 'user.py'
    user.write_text(
        f'_base_ = {str(CONFIG).replace("-knn", "")!r}\n'
        'load, crop, pack = _base_.train_dataloader.dataset.pipeline\n'
        "more = dict(type='CenterCrop', crop_size=400)\n"
        'train_dataloader = dict(dataset=dict(pipeline=[load, more, crop, pack]))\n'
        'del load, crop, pack, more\n'
    )
    knn = tmp_path / 'knn.py'
    knn.write_text(CONFIG.read_text().replace(f'./{CONFIG.name}'.replace('-knn', ''), str(user)))
    cfg, plain = load_config(knn), load_config(CONFIG)
    assert len(cfg.train_dataloader.dataset.pipeline) == 4
    assert cfg.val_dataloader.dataset.pipeline == plain.val_dataloader.dataset.pipeline
