# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Pipelines that turn images of any size into the single views that features are extracted from."""

from typing import Any

from mmengine.config import Config

from mmmokd.utils.config_tree import type_name
from mmmokd.utils.errors import ConfigError

# Transforms that make images of any size one size.
SIZING = ('CenterCrop', 'Resize')
MARGIN = 256 / 224  # of the shorter side to what is cut of it, as usual on ImageNet
SMALL = 64  # pixels up to which nothing is cut off


def evaluation_pipeline(cfg: Config) -> list[dict]:
    """The pipeline that makes one view of an image of any size.

    Args:
        cfg (Config): A config of a model and its data.

    Returns:
        list[dict]: Configs of transforms: those of ``test_dataloader`` or ``val_dataloader``, if they
        take images of any size; else the loading of the training images, and a center crop of the
        size of the first global view.

    Raises:
        ConfigError: If the config says neither.
    """
    pipelines = [
        list((cfg.get(f'{mode}_dataloader') or {}).get('dataset', {}).get('pipeline') or [])
        for mode in ('test', 'val', 'train')
    ]
    for pipeline in pipelines[:2]:
        names = [type_name(transform.get('type')) for transform in pipeline]
        if names and names[0].startswith('Load') and set(names) & set(SIZING):
            return pipeline
    loads = [pipeline[0] for pipeline in pipelines if pipeline]
    loads = [each for each in loads if type_name(each.get('type')).startswith('Load')]
    size = first_view_size(cfg, pipelines[2])
    if not loads or size is None:
        raise ConfigError(
            f'{cfg.filename or "the config"} does not define how images are read and resized: '
            'give it a test_dataloader whose pipeline begins with LoadImage and has a CenterCrop'
        )
    height, width = size
    edge = max(size) if max(size) <= SMALL else round(MARGIN * max(size))
    return [
        loads[0],
        dict(type='ResizeEdge', scale=edge, edge='short', backend='pillow',
             interpolation='bicubic'),
        dict(type='CenterCrop', crop_size=height if height == width else (width, height)),
        dict(type='PackInputs'),
    ]  # fmt: skip


def first_view_size(cfg: Config, pipeline: list[dict]) -> tuple[int, int] | None:
    """Size of the first view that a model is trained on.

    Args:
        cfg (Config): The config, whose data preprocessor may make the views.
        pipeline (list[dict]): Its training pipeline, which may as well.

    Returns:
        tuple[int, int], optional: (height, width), of the first of the ``groups`` of views; None if
        nothing has groups.
    """
    preprocessors = [
        cfg.get('data_preprocessor'),
        (cfg.get('model') or {}).get('data_preprocessor'),
    ]
    makers: list[Any] = [*pipeline, *(each or {} for each in preprocessors)]
    groups = next((maker['groups'] for maker in makers if maker.get('groups')), None)
    if groups is None:
        return None
    size = groups[0]['size']
    return (size, size) if isinstance(size, int) else tuple(size)
