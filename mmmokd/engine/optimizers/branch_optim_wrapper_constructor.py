# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import copy
import logging
from collections.abc import Collection, Iterable, Mapping

from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from mmmokd.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmmokd.utils import get_ori_model
from mmmokd.utils.config_tree import type_name
from mmmokd.utils.errors import ConfigError

from ..branches import get_branches
from .branch_optim_wrapper_dict import BranchOptimWrapperDict
from .clip_grad import LoggedClip, clip_grad_norm_per_parameter_
from .fused import keep_implementation, prefer_fused
from .precision import choose_precision
from .trained_parameters import check_trained_parameters

# What mmengine's optimizer wrapper takes; everything but `branches` is common to all of them.
_PER_BRANCH = {'optimizer', 'parts'}


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BranchOptimWrapperConstructor:
    """Builds one optimizer per branch, with MOKD's parameter groups.

    A branch's optimizer takes all of it that requires a gradient: the student and, where loss heads
    have parameters (predictors, classifiers), these. Biases and 1-d parameters are not decayed; class
    token, position embeddings and weight-norm gains are. A part (``backbone``, the name of a neck, or
    ``heads``) may have a learning rate and weight decay of its own within the branch's optimizer, as
    one neck of MOKD's CNN has. Every group carries its part's name under ``part`` (``'main'`` for the
    rest), by which schedulers choose it.

    Optimizers that PyTorch has fused are fused, unless their config sets ``fused`` or ``foreach``.

    A branch that does not learn, because it is frozen or left out of the model (``NAME=None``), has no
    optimizer: settings for it are not used, which the log says.

    Args:
        optim_wrapper_cfg (dict): Config of the wrappers: what mmengine's ``OptimWrapper`` or
            ``AmpOptimWrapper`` takes (``type``, ``accumulative_counts``, ``clip_grad``,
            ``loss_scale``, ``dtype``, for which see :func:`choose_precision`), common to all
            branches; ``optimizer``, the default of every branch (see
            :func:`with_default_optimizer`); and ``branches``, a dict with, for each branch,
            ``optimizer`` and optionally ``parts``: a dict from a part to ``lr``,
            ``weight_decay`` and ``decay_all`` (whether its biases and 1-d parameters are decayed
            too, default False). ``clip_grad=dict(max_norm=3.0, per_parameter=True)`` clips each
            parameter by its own norm.
        paramwise_cfg (dict, optional): Not supported, since the groups are given by ``parts``; here
            because mmengine passes it. Defaults to None.

    Raises:
        ConfigError: If a key, a branch or a part is not known; when called, if a branch that learns
            has no settings, no branch learns, or a parameter that requires a gradient would be in
            no optimizer or in two.

    Example:
        >>> optim_wrapper = dict(
        ...     type='OptimWrapper',
        ...     constructor='mmmokd.BranchOptimWrapperConstructor',
        ...     clip_grad=dict(max_norm=3.0, per_parameter=True),
        ...     branches=dict(
        ...         cnn=dict(
        ...             optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4),
        ...             parts=dict(backbone=dict(lr=0.01, decay_all=True))),
        ...         vit=dict(optimizer=dict(type='AdamW', lr=3e-4, weight_decay=0.04))))
    """

    per_branch = True  # `optim_wrapper.optimizer` is the default of `optim_wrapper.branches`

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        cfg = copy.deepcopy(dict(optim_wrapper_cfg))
        if paramwise_cfg:
            raise ConfigError(
                'BranchOptimWrapperConstructor takes no paramwise_cfg: give a part of a branch its '
                'lr and weight_decay by optim_wrapper.branches.NAME.parts'
            )
        self.default = cfg.pop('optimizer', None)
        self.branches = {name: dict(branch) for name, branch in cfg.pop('branches', {}).items()}
        for name, branch in self.branches.items():
            lacks = 'optimizer' not in branch and not self.default
            if lacks or set(branch) - _PER_BRANCH:
                raise ConfigError(
                    f'optim_wrapper.branches.{name} needs `optimizer` and may have `parts`, but has '
                    f'{sorted(branch)}; what is common to all branches stands beside `branches`'
                )
        _check_clip_grad(cfg.get('clip_grad') or {})
        self.wrapper_cfg = self._for_this_device(cfg)

    @staticmethod
    def _for_this_device(cfg: dict) -> dict:
        cfg.setdefault('type', 'OptimWrapper')
        cfg, notice = choose_precision(cfg)
        if notice:
            print_log(notice, logger='current', level=logging.WARNING)
        if type_name(cfg['type']) == 'BFloat16OptimWrapper':
            print_log('Mixed precision: bfloat16, without a gradient scaler.', logger='current')
        if cfg['type'] == 'OptimWrapper':
            # A config made for mixed precision also trains without.
            cfg.pop('loss_scale', None)
            cfg.pop('dtype', None)
        return cfg

    def __call__(self, model: nn.Module) -> BranchOptimWrapperDict:
        """Build the wrappers.

        Args:
            model (nn.Module): A model with branches, as MOKD, wrapped or not.

        Returns:
            BranchOptimWrapperDict: One optimizer wrapper for each branch that learns.

        Raises:
            ConfigError: See the class.
        """
        inner = get_ori_model(model)
        learning = {n: b for n, b in get_branches(inner, type(self).__name__).items() if learns(b)}
        if not learning:
            raise ConfigError(
                f'no branch of {list(inner.branches)} has a parameter that requires a gradient: '
                'there is nothing to train'
            )
        settings = self._settings(inner, learning)
        wrappers = BranchOptimWrapperDict(
            **{
                name: self._build(name, branch, **settings[name])
                for name, branch in learning.items()
            }
        )
        check_trained_parameters(model, wrappers)
        return wrappers

    def _settings(self, model: nn.Module, learning: Collection[str]) -> dict[str, dict]:
        """The settings of each branch that learns."""
        idle = {*model.branches, *getattr(model, 'left_out', ())} - {*learning}
        for name in sorted(idle & {*self.branches}):
            print_log(
                f'Branch {name} is {"frozen" if name in model.branches else "left out"}: '
                f'optim_wrapper.branches.{name} is not used.',
                logger='current',
            )
        used = {name: branch for name, branch in self.branches.items() if name not in idle}
        if unknown := sorted({*used} - {*learning}):
            raise ConfigError(
                f'optim_wrapper.branches has {" and ".join(unknown)}, but the model has the branches '
                f'{sorted(model.branches)}'
            )
        settings = with_default_optimizer(used, self.default, learning)
        if missing := sorted({*learning} - {*settings}):
            raise ConfigError(
                f'the branches {sorted(learning)} learn, but optim_wrapper.branches has only '
                f'{sorted(settings)}: {" and ".join(missing)} would have no optimizer'
            )
        return settings

    def _build(
        self, name: str, branch: nn.Module, optimizer: dict, parts: dict | None = None
    ) -> OptimWrapper:
        parts = {part: dict(cfg) for part, cfg in (parts or {}).items()}
        groups = branch_param_groups(branch, parts, optimizer.get('weight_decay', 0.0))
        params = [param for group in groups for param in group['params']]
        optimizer = OPTIMIZERS.build(dict(prefer_fused(optimizer, params), params=groups))
        optimizer.register_load_state_dict_pre_hook(keep_implementation)

        cfg = copy.deepcopy(self.wrapper_cfg)
        clip_grad = dict(cfg.pop('clip_grad', None) or {})
        per_parameter = clip_grad.pop('per_parameter', False)
        if clip_grad:
            cfg['clip_grad'] = clip_grad
        wrapper = OPTIM_WRAPPERS.build(dict(cfg, optimizer=optimizer))
        # mmengine's extra group, which it logs as `base_lr`: scaling to the batch size leaves it out.
        wrapper.base_param_settings = None
        if clip_grad:
            clip = clip_grad_norm_per_parameter_ if per_parameter else wrapper.clip_func
            key = f'train/{name}.{wrapper.grad_name}'
            wrapper.clip_func = LoggedClip(clip, wrapper.message_hub, key)
        return wrapper


def with_default_optimizer(
    branches: Mapping[str, Mapping], default: Mapping | None, names: Iterable[str]
) -> dict[str, dict]:
    """Complete each branch's optimizer by the default of all branches.

    Args:
        branches (Mapping[str, Mapping]): ``optim_wrapper.branches``: settings by branch.
        default (Mapping, optional): ``optim_wrapper.optimizer``. What a branch sets itself goes
            before it; None for no default.
        names (Iterable[str]): Names of all branches: one without settings has the default's.

    Returns:
        dict[str, dict]: Settings by branch, each with ``optimizer``.

    Raises:
        ConfigError: If every branch sets a key of the default itself: it would have no effect.
    """
    settings = {name: dict(branch) for name, branch in branches.items()}
    if not default:
        return settings
    for name in names:
        settings.setdefault(name, {})
    own = [{*(branch.get('optimizer') or {})} for branch in settings.values()]
    for key in default:
        if own and all(key in keys for keys in own):
            raise ConfigError(
                f'optim_wrapper.optimizer.{key} has no effect: every branch has its own. Set '
                + ' and '.join(
                    f'optim_wrapper.branches.{name}.optimizer.{key}' for name in settings
                )
            )
    for branch in settings.values():
        branch['optimizer'] = {**default, **(branch.get('optimizer') or {})}
    return settings


def _check_clip_grad(clip_grad: Mapping) -> None:
    """Refuse settings of clipping that would not clip, or not as they say."""
    if clip_grad.get('per_parameter') and 'max_norm' not in clip_grad:
        raise ConfigError(
            'optim_wrapper.clip_grad: per_parameter=True needs max_norm, the largest norm of a '
            f'parameter, but got {dict(clip_grad)}'
        )


def learns(branch: nn.Module) -> bool:
    """Check whether a branch has anything to train.

    Args:
        branch (nn.Module): The branch.

    Returns:
        bool: True if one of its parameters requires a gradient.
    """
    return any(param.requires_grad for param in branch.parameters())


def branch_param_groups(
    branch: nn.Module, parts: dict[str, dict], weight_decay: float
) -> list[dict]:
    """Make the parameter groups of a branch: of its student, and of loss heads with parameters.

    Args:
        branch (nn.Module): With the child ``student``, whose children are the backbone and the necks,
            and the child ``heads``.
        parts (dict[str, dict]): Settings of parts (children of the student, or ``'heads'``) that
            differ from the rest.
        weight_decay (float): Weight decay of the rest.

    Returns:
        list[dict]: Groups with ``params``, ``part``, ``weight_decay`` and, where a part sets it,
        ``lr``. What requires no gradient is in none, empty groups are left out.

    Raises:
        ConfigError: If a part or one of its keys is not known.
    """
    trained = [
        (name.removeprefix('student.'), param)
        for name, param in branch.named_parameters()
        if param.requires_grad
    ]
    children = {name.split('.', 1)[0] for name, _ in branch.student.named_parameters()}
    children |= {name.split('.', 1)[0] for name, _ in trained}
    for part, cfg in parts.items():
        unknown = set(cfg) - {'lr', 'weight_decay', 'decay_all'}
        if part not in children or unknown:
            raise ConfigError(
                f'unknown {f"keys {sorted(unknown)} in " if part in children else ""}part {part!r}: '
                f'parts are {sorted(children)}, with lr, weight_decay, decay_all'
            )
    settings = {'main': {}, **parts}
    groups = {
        (part, decayed): dict(
            cfg,
            params=[],
            part=part,
            weight_decay=cfg.get('weight_decay', weight_decay) if decayed else 0.0,
        )
        for part, cfg in settings.items()
        for decayed in (True, False)
    }
    for name, param in trained:
        child = name.split('.', 1)[0]
        part = child if child in parts else 'main'
        decayed = settings[part].get('decay_all', False) or not (
            param.dim() <= 1 or name.endswith('.bias')
        )
        groups[part, decayed]['params'].append(param)
    for group in groups.values():
        group.pop('decay_all', None)
    return [group for group in groups.values() if group['params']]
