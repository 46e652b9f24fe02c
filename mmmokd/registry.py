# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Registries of mmmokd.

Each is a child of mmengine's root, so that ``mmmokd.X`` resolves from the scopes (and the tools) of
mmpretrain, mmdet and mmseg alike. Configs keep ``default_scope = 'mmpretrain'`` and write
``type='mmmokd.MOKD'`` for what is ours.
"""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import PARAM_SCHEDULERS as MMENGINE_PARAM_SCHEDULERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import VISBACKENDS as MMENGINE_VISBACKENDS
from mmengine.registry import Registry

from .config_paths import register_configs

DATASETS = Registry(
    'dataset', parent=MMENGINE_DATASETS, scope='mmmokd', locations=['mmmokd.datasets']
)
TRANSFORMS = Registry(
    'transform',
    parent=MMENGINE_TRANSFORMS,
    scope='mmmokd',
    locations=['mmmokd.datasets.transforms'],
)
MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmmokd', locations=['mmmokd.models'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmmokd', locations=['mmmokd.engine'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmmokd',
    locations=['mmmokd.engine'],
)
PARAM_SCHEDULERS = Registry(
    'parameter scheduler',
    parent=MMENGINE_PARAM_SCHEDULERS,
    scope='mmmokd',
    locations=['mmmokd.engine'],
)
LOOPS = Registry('loop', parent=MMENGINE_LOOPS, scope='mmmokd', locations=['mmmokd.evaluation'])
METRICS = Registry(
    'metric', parent=MMENGINE_METRICS, scope='mmmokd', locations=['mmmokd.evaluation']
)
VISBACKENDS = Registry(
    'vis_backend',
    parent=MMENGINE_VISBACKENDS,
    scope='mmmokd',
    locations=['mmmokd.visualization'],
)

# Whoever imports the package, or a type of it, can name its configs.
register_configs()

__all__ = [
    'DATASETS',
    'HOOKS',
    'LOOPS',
    'METRICS',
    'MODELS',
    'OPTIM_WRAPPER_CONSTRUCTORS',
    'PARAM_SCHEDULERS',
    'TRANSFORMS',
    'VISBACKENDS',
]
