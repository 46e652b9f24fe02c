# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import json

import pytest
from mmengine.config import Config

from mmmokd.engine.runners.fixed_views import fix_cached_views
from mmmokd.models.branches.feature_cache import META


def config(**caches):
    pipeline = [
        dict(type='mmmokd.LoadImage'),
        dict(type='mmmokd.MultiCrop'),
        dict(type='PackInputs'),
    ]
    branches = {name: dict(frozen=True, cache=cache) for name, cache in caches.items()}
    return Config(
        dict(
            model=dict(branches=dict(branches, cnn=dict(), left_out=None)),
            train_dataloader=dict(dataset=dict(type='CIFAR10', pipeline=pipeline)),
        )
    )


@pytest.fixture
def folders(tmp_path):
    for name, seed in (('a', 0), ('b', 0), ('c', 7)):
        (tmp_path / name).mkdir()
        meta = dict(format=1, num_draws=4, seed=seed)
        (tmp_path / name / META).write_text(json.dumps(meta))
    return {name: str(tmp_path / name) for name in 'abc'}


def test_pipeline_makes_the_views_of_the_features(folders):
    cfg = config(x=folders['a'], y=folders['b'])
    notices = fix_cached_views(cfg)
    _, crop, pack = cfg.train_dataloader.dataset.pipeline
    assert (crop.num_draws, crop.seed) == (4, 0)
    assert {'sample_idx', 'view_draw', 'img_path'} <= set(pack.meta_keys)
    assert len(notices) == 2 and f'Branch x reads its features from {folders["a"]}' in notices[0]
    before = cfg.to_dict()
    assert fix_cached_views(cfg) and cfg.to_dict() == before  # a dumped config stays as it is


def test_others_stay_as_they_are(folders):
    """An evaluation needs no features; nor does a model without branches, or one to test."""
    for cfg in (config(), config(x='nowhere'), Config(dict(model=dict(type='A')))):
        before = cfg.to_dict()
        assert fix_cached_views(cfg) == [] and cfg.to_dict() == before
    cfg = config(x=folders['a'])
    cfg.train_dataloader = None
    assert fix_cached_views(cfg) == []


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda cfg, folders: cfg.model.branches.update(y=dict(cache=folders['c'])),
         r"same draws .* got \(num_draws, seed\) {'x': \(4, 0\), 'y': \(4, 7\)}"),
        (lambda cfg, folders: cfg.train_dataloader.dataset.pipeline.pop(1), 'has 0 and 1'),
        (lambda cfg, folders: cfg.model.update(
            data_preprocessor=dict(type='mmmokd.MultiCropDataPreprocessor')), 'set SelfSupData'),
    ],
)  # fmt: skip
def test_pipelines_that_cannot(folders, change, message):
    cfg = config(x=folders['a'])
    change(cfg, folders)
    with pytest.raises(ValueError, match=message):
        fix_cached_views(cfg)
