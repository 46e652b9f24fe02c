# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Multi-crop of a config, moved from its pipeline to the device."""

from typing import Any

from mmengine.config import Config, ConfigDict

from mmmokd.datasets.transforms.fit_canvas import canvas_size
from mmmokd.structures import ViewGroup
from mmmokd.utils.config_tree import iter_dicts, type_name
from mmmokd.utils.errors import ConfigError

PREPROCESSOR, CROP = 'MultiCropDataPreprocessor', 'MultiCrop'
BAGS = 'NeighborBags'  # asks for further images, by their numbers as well


def move_views_to_device(cfg: Config) -> list[str]:
    """Let the data preprocessor make the views, where its type says so.

    A ``MultiCropDataPreprocessor`` without ``groups`` takes those of the training pipeline's
    ``mmmokd.MultiCrop``, whose place :class:`~mmmokd.datasets.FitCanvas` takes; with ``keep_images``
    the pipeline ends there, and the dataset is wrapped in :class:`~mmmokd.datasets.IndexedImages`.

    Args:
        cfg (Config): A full config; changed in place.

    Returns:
        list[str]: What was changed, in sentences for the log.

    Raises:
        ConfigError: If images are to be kept by another preprocessor, or the pipeline has no
            ``MultiCrop``, several that differ, or other transforms after it than ``PackInputs``.
    """
    preprocessor = _preprocessor_of(cfg)
    if preprocessor is None or preprocessor.get('groups') is not None:
        return []
    loader = cfg.get('train_dataloader')
    if not loader:  # a config to test with
        return []
    found = [
        node
        for _, node in iter_dicts(loader['dataset'])
        if any(map(_is_crop, node.get('pipeline') or ()))
    ]
    crops = [step for node in found for step in node['pipeline'] if _is_crop(step)]
    if not crops or any(crop != crops[0] for crop in crops):
        raise ConfigError(
            f'data_preprocessor of type {PREPROCESSOR} takes the groups of views from the '
            f"mmmokd.MultiCrop of the train_dataloader's pipeline, which has "
            f'{"several that differ" if crops else "none"}: give data_preprocessor.groups'
        )
    groups = _groups_of(crops[0])
    preprocessor['groups'] = groups
    side = canvas_size(ViewGroup.from_configs(groups))
    keep = bool(preprocessor.get('keep_images'))
    for node in found:
        node['pipeline'] = _adapt(node['pipeline'], None if keep else side)
    if not keep:
        loader.setdefault('pin_memory', True)
        return [f'Views are made on the device; the loader sends images of {side}x{side}.']
    place = loader['dataset'] if type_name(loader['dataset'].get('type')) == BAGS else loader
    place['dataset'] = ConfigDict(type='mmmokd.IndexedImages', dataset=place['dataset'])
    loader['num_workers'] = 0
    for key in ('persistent_workers', 'prefetch_factor'):
        loader.pop(key, None)
    return ['Views are made on the device, which keeps the images; there are no data workers.']


def _preprocessor_of(cfg: Config) -> dict | None:
    """The config of the data preprocessor, if it is to make views: the model's own goes first."""
    model = cfg.get('model')
    own = model.get('data_preprocessor') if isinstance(model, dict) else None
    found = own or cfg.get('data_preprocessor')
    kind = type_name(found.get('type')) if isinstance(found, dict) else None
    if kind == PREPROCESSOR:
        return found
    if kind is not None and found.get('keep_images'):
        raise ConfigError(
            f'data_preprocessor.keep_images=True is for data_preprocessor.type=mmmokd.{PREPROCESSOR}, '
            f'but the type is {found.get("type")}: set it as well'
        )
    return None


def _is_crop(step: Any) -> bool:
    return isinstance(step, dict) and type_name(step.get('type')) == CROP


def _groups_of(crop: dict) -> list:
    if crop.get('groups') is not None:
        return crop['groups']
    from mmmokd.datasets.transforms.multi_crop import PAPER_GROUPS

    return [ConfigDict(vars(group)) for group in PAPER_GROUPS]


def _adapt(pipeline: list, side: int | None) -> list:
    """The pipeline without MultiCrop: with a canvas in its place, or cut off there."""
    place = next(index for index, step in enumerate(pipeline) if _is_crop(step))
    later = [type_name(step.get('type')) for step in pipeline[place + 1 :]]
    if later != ['PackInputs']:
        raise ConfigError(
            f'data_preprocessor of type {PREPROCESSOR} makes the views, so that mmmokd.MultiCrop is '
            f'to be followed by PackInputs alone, but {later} follow it'
        )
    if side is None:
        return pipeline[:place]
    canvas = ConfigDict(type='mmmokd.FitCanvas', size=side)
    return [*pipeline[:place], canvas, pipeline[place + 1]]
