# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Views of a config that are the same in every run, for features of them that are kept."""

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmpretrain.datasets.transforms import PackInputs

from mmmokd.datasets.transforms.multi_crop import DRAW
from mmmokd.models.branches.feature_cache import META, read_meta
from mmmokd.utils.config_tree import iter_dicts, type_name
from mmmokd.utils.errors import ConfigError

INDEX = 'sample_idx'


def fix_cached_views(cfg: Config) -> list[str]:
    """Let the training pipeline make the views of which a branch reads features (``cache``).

    Args:
        cfg (Config): A full config; changed in place.

    Returns:
        list[str]: What was changed, in sentences for the log.

    Raises:
        ConfigError: If branches read features of different draws, or the pipeline cannot make such
            views.
    """
    model, loader = cfg.get('model'), cfg.get('train_dataloader')
    branches = model.get('branches') if isinstance(model, dict) else None
    found = {
        name: Path(branch['cache']).expanduser()
        for name, branch in (branches or {}).items()
        if isinstance(branch, dict) and branch.get('cache')
    }
    # An evaluation needs none; training without them ends with a message before its first step.
    metas = {name: read_meta(path) for name, path in found.items() if (path / META).is_file()}
    if not metas or not loader:
        return []
    draws = {(meta['num_draws'], meta['seed']) for meta in metas.values()}
    if len(draws) > 1:
        listed = {name: (meta['num_draws'], meta['seed']) for name, meta in metas.items()}
        raise ConfigError(
            'branches that read features need those of the same draws of views, but got (num_draws, '
            f'seed) {listed}: write them with the same --draws and --seed'
        )
    [(num_draws, seed)] = draws
    fix_views(cfg, num_draws, seed)
    return [
        f'Branch {name} reads its features from {found[name]}: every image has the same {num_draws} '
        f'draws of views in every run (seed {seed}).'
        for name in metas
    ]


def fix_views(cfg: Config, num_draws: int, seed: int) -> None:
    """Let the training pipeline make fixed views, and say which ones.

    Args:
        cfg (Config): A full config; changed in place.
        num_draws (int): Number of draws of each image.
        seed (int): Seed of the draws.

    Raises:
        ConfigError: If no ``mmmokd.MultiCrop`` of the pipeline makes the views, or no ``PackInputs``
            follows.
    """
    preprocessor = (cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor')) or {}
    if type_name(preprocessor.get('type')) == 'MultiCropDataPreprocessor':
        raise ConfigError(
            'features are kept of views that the pipeline makes (mmmokd.MultiCrop), but '
            'data_preprocessor.type is mmmokd.MultiCropDataPreprocessor: set SelfSupDataPreprocessor'
        )
    crops = _steps(cfg, 'MultiCrop')
    packs = _steps(cfg, 'PackInputs')
    if len(crops) != 1 or len(packs) != 1:
        raise ConfigError(
            'features are kept of views of one pipeline with one mmmokd.MultiCrop and one PackInputs, '
            f'but train_dataloader has {len(crops)} and {len(packs)}'
        )
    crops[0].update(num_draws=num_draws, seed=seed)
    keys = packs[0].get('meta_keys', PackInputs.DEFAULT_META_KEYS)
    packs[0]['meta_keys'] = (*keys, *(key for key in (INDEX, DRAW) if key not in keys))


def _steps(cfg: Config, name: str) -> list[dict[str, Any]]:
    nodes = [node for _, node in iter_dicts(cfg.train_dataloader['dataset'])]
    return [node for node in nodes if type_name(node.get('type')) == name]
