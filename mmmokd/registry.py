# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Registries of mmmokd.

Each is a child of mmengine's root, so that ``mmmokd.X`` resolves from the scopes (and the tools) of
mmpretrain, mmdet and mmseg alike. Configs keep ``default_scope = 'mmpretrain'`` and write
``type='mmmokd.MOKD'`` for what is ours.
"""

from typing import Any

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import PARAM_SCHEDULERS as MMENGINE_PARAM_SCHEDULERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import VISBACKENDS as MMENGINE_VISBACKENDS
from mmengine.registry import Registry

from .config_paths import register_configs

SCOPE = 'mmmokd'


class ReloadableRegistry(Registry):
    """A registry that takes a class again when its module is loaded again, as notebooks do.

    ``importlib.reload`` and ``%autoreload`` run a module a second time, whose classes then take the
    place of those of the first. Another class of the same name is refused as ever.
    """

    def _register_module(self, module, module_name=None, force=False) -> None:
        names = [module_name] if isinstance(module_name, str) else module_name
        for name in names or [module.__name__]:
            known = self._module_dict.get(name)
            if known is not None and _origin(known) == _origin(module):
                del self._module_dict[name]
        super()._register_module(module, module_name, force)


def _origin(module: Any) -> tuple[str, str]:
    return module.__module__, module.__qualname__


def _child(name: str, parent: Registry, location: str) -> Registry:
    """Our registry below one of mmengine's: the existing one, if this module is reloaded."""
    if SCOPE in parent.children:
        return parent.children[SCOPE]
    return ReloadableRegistry(name, parent=parent, scope=SCOPE, locations=[location])


DATASETS = _child('dataset', MMENGINE_DATASETS, 'mmmokd.datasets')
TRANSFORMS = _child('transform', MMENGINE_TRANSFORMS, 'mmmokd.datasets.transforms')
MODELS = _child('model', MMENGINE_MODELS, 'mmmokd.models')
HOOKS = _child('hook', MMENGINE_HOOKS, 'mmmokd.engine')
OPTIM_WRAPPERS = _child('optimizer wrapper', MMENGINE_OPTIM_WRAPPERS, 'mmmokd.engine')
OPTIM_WRAPPER_CONSTRUCTORS = _child(
    'optimizer wrapper constructor', MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS, 'mmmokd.engine'
)
PARAM_SCHEDULERS = _child('parameter scheduler', MMENGINE_PARAM_SCHEDULERS, 'mmmokd.engine')
LOOPS = _child('loop', MMENGINE_LOOPS, 'mmmokd.evaluation')
METRICS = _child('metric', MMENGINE_METRICS, 'mmmokd.evaluation')
VISBACKENDS = _child('vis_backend', MMENGINE_VISBACKENDS, 'mmmokd.visualization')

# Whoever imports the package, or a type of it, can name its configs.
register_configs()

__all__ = [
    'DATASETS',
    'HOOKS',
    'LOOPS',
    'METRICS',
    'MODELS',
    'OPTIM_WRAPPERS',
    'OPTIM_WRAPPER_CONSTRUCTORS',
    'PARAM_SCHEDULERS',
    'TRANSFORMS',
    'VISBACKENDS',
]
