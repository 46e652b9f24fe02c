# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

from mmengine.optim import OptimWrapper
from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor
from torch import nn

from mmmokd.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmmokd.utils.errors import ConfigError

from .trained_parameters import check_trained_parameters

_PARAMWISE = (
    'layer_decay_rate',
    'norm_decay_mult',
    'bias_decay_mult',
    'flat_decay_mult',
    'custom_keys',
)
# Of a parameter's group; what is left are settings that the optimizer reads.
_DESCRIPTIONS = ('params', 'param_name', 'layer_id', 'lr_scale')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(LearningRateDecayOptimWrapperConstructor):
    """Lower learning rates for earlier layers of the backbone, in any model that has one.

    The rule is that of mmpretrain's ``LearningRateDecayOptimWrapperConstructor`` (introduced by
    `BEiT <https://arxiv.org/abs/2106.08254>`_): layer l learns with ``lr * layer_decay_rate^(n - l)``,
    where a ViT's embeddings are layer 0, its blocks 1 to n - 1, and what follows them is n.
    mmpretrain's asks the model for the layers, which only its classifiers can answer; this one asks
    the backbone, so that it serves mmdet's detectors and mmseg's segmentors alike. All that is
    outside of the backbone learns with ``lr``. Parameters with the same settings share a group.

    Args:
        optim_wrapper_cfg (dict): As mmengine's; its ``optimizer`` needs ``lr`` and
            ``weight_decay``.
        paramwise_cfg (dict): ``layer_decay_rate`` (float), and optionally ``norm_decay_mult``,
            ``bias_decay_mult``, ``flat_decay_mult`` (factors of the weight decay of norm layers,
            biases, 1-d parameters) and ``custom_keys``: from a part of a parameter's name to a
            dict with ``decay_mult``.

    Raises:
        ConfigError: If a setting is missing or not known or, when called, if the model has no
            backbone with a ``get_layer_depth``.

    Example:
        >>> optim_wrapper = dict(
        ...     constructor='mmmokd.LayerDecayOptimWrapperConstructor',
        ...     optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
        ...     paramwise_cfg=dict(
        ...         layer_decay_rate=0.75,
        ...         flat_decay_mult=0.0,
        ...         custom_keys={'.cls_token': dict(decay_mult=0.0)}))
    """

    def _validate_cfg(self) -> None:
        lacks = [key for key in ('lr', 'weight_decay') if key not in self.optimizer_cfg]
        if lacks:
            raise ConfigError(f'layer decay needs {" and ".join(lacks)} in optim_wrapper.optimizer')
        super()._validate_cfg()
        unknown = sorted(set(self.paramwise_cfg) - set(_PARAMWISE))
        if unknown or 'layer_decay_rate' not in self.paramwise_cfg:
            raise ConfigError(
                f'optim_wrapper.paramwise_cfg needs layer_decay_rate and may have '
                f'{", ".join(_PARAMWISE[1:])}, but has {sorted(self.paramwise_cfg)}'
            )
        for key, settings in self.paramwise_cfg.get('custom_keys', {}).items():
            if 'lr_mult' in settings:
                raise ConfigError(
                    f'custom_keys[{key!r}] has lr_mult, but layer_decay_rate sets the learning rates'
                )

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        get_layer_depth: Callable | None = None,
        **kwargs,
    ) -> None:
        """Add a model's parameters to a list of groups, one for each setting.

        Args:
            params (list[dict]): The groups; changed in place.
            module (nn.Module): The model or, in the recursion, a module of it.
            prefix (str): The module's name, with a dot. Defaults to '', the model.
            get_layer_depth (Callable, optional): Gives a parameter's layer and their number, by
                its name. Defaults to None: the backbone's.
        """
        if prefix:
            super().add_params(params, module, prefix, get_layer_depth, **kwargs)
            return
        single: list[dict] = []
        super().add_params(single, module, '', get_layer_depth or layer_depth_of(module), **kwargs)
        groups: dict[tuple, dict] = {}
        for group in single:
            settings = {key: group[key] for key in group if key not in _DESCRIPTIONS}
            merged = groups.setdefault(tuple(settings.items()), dict(settings, params=[]))
            merged['params'] += group['params']
        # Last to first: the log shows the first group's lr, which now is that of the head.
        params.extend(reversed(groups.values()))

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer and its wrapper.

        Args:
            model (nn.Module): The model, wrapped or not.

        Returns:
            OptimWrapper: The wrapper.

        Raises:
            ConfigError: If a parameter that requires a gradient would be in no group, or in two.
        """
        wrapper = super().__call__(model)
        check_trained_parameters(model, wrapper)
        # mmengine's extra group, which it logs as `base_lr`: scaling to the batch size leaves it out.
        wrapper.base_param_settings = None
        return wrapper


def layer_depth_of(model: nn.Module) -> Callable[[str], tuple[int, int]]:
    """The layers of a model's backbone.

    Args:
        model (nn.Module): With a ``backbone``, as OpenMMLab's models have it.

    Returns:
        Callable: From a parameter's name in the model to its layer, counted from 0, and the number
        of layers; what is outside of the backbone belongs to the last one.

    Raises:
        ConfigError: If the backbone does not tell its layers.
    """
    backbone = getattr(model, 'backbone', None)
    kind = f'{type(backbone).__module__}.{type(backbone).__name__}'
    if not hasattr(backbone, 'get_layer_depth'):
        raise ConfigError(
            'layer decay needs a backbone with get_layer_depth, as mmpretrain has them, but '
            f'{type(model).__name__} has {"none" if backbone is None else kind}'
        )

    def get_layer_depth(name: str) -> tuple[int, int]:
        try:
            return backbone.get_layer_depth(name, prefix='backbone.')
        except NotImplementedError as error:
            raise ConfigError(
                f'layer decay: {kind} does not define the layers of this depth or variant'
            ) from error

    return get_layer_depth
