# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
from mmengine.config import Config

from mmmokd.evaluation.pipeline import evaluation_pipeline
from mmmokd.utils.errors import ConfigError

LOAD, PACK = dict(type='mmmokd.LoadImage', bands=(0, 1, 2)), dict(type='PackInputs')


def config(train, **kwargs):
    return Config(dict(train_dataloader=dict(dataset=dict(pipeline=train)), **kwargs))


def views(*sizes):
    return dict(groups=[dict(size=size, num=2) for size in sizes])


@pytest.mark.parametrize(
    ('size', 'edge', 'crop'),
    [(224, 256, 224), (64, 64, 64), ((96, 96), 110, 96), ((64, 160), 183, (160, 64))],
)
def test_crop_has_the_size_of_the_first_view(size, edge, crop):
    """Whatever makes the views: a transform of any name, or the data preprocessor."""
    by_transform = config([LOAD, dict(views(size, 32), type='AnyViews'), PACK])
    by_preprocessor = config([LOAD, PACK], data_preprocessor=dict(views(size, 32), type='Any'))
    in_model = config([LOAD, PACK], model=dict(data_preprocessor=views(size, 32)))
    for cfg in (by_transform, by_preprocessor, in_model):
        load, resize, center, pack = evaluation_pipeline(cfg)
        assert load == LOAD and pack == PACK
        assert (resize['scale'], center['crop_size']) == (edge, crop)


def test_pipeline_of_the_test_is_taken_if_it_takes_any_size():
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(8, 8)), PACK]
    val = dict(dataset=dict(pipeline=pipeline))
    train = [LOAD, dict(views(224), type='AnyViews'), PACK]
    assert evaluation_pipeline(config(train, val_dataloader=val)) == pipeline
    val = dict(dataset=dict(pipeline=[LOAD, PACK]))
    assert len(evaluation_pipeline(config(train, val_dataloader=val))) == 4


@pytest.mark.parametrize('train', [[], [LOAD, PACK], [dict(views(224), type='AnyViews'), PACK]])
def test_config_that_does_not_say(train):
    with pytest.raises(ConfigError, match='does not define how images are read and resized'):
        evaluation_pipeline(config(train))
