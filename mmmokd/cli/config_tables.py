# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Tables of the sections of a config that mmengine reads itself, and of values."""

import math
from collections.abc import Callable, Collection
from numbers import Real
from typing import Any, NamedTuple

from mmengine import registry as mm
from mmengine.dist import init_dist
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import LogProcessor, Runner
from mmengine.utils.dl_utils import set_multi_processing
from torch.distributed import init_process_group
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from mmmokd.engine.runners.build_runner import DATALOADERS

# What a Runner reads from its config besides its own arguments; then what FlexibleRunner, and the
# tools of mmpretrain, mmdet and mmseg, read.
RUNNER_KEYS = (
    *('activation_checkpointing', 'compile', 'custom_imports', 'default_scope'),
    *('efficient_conv_bn_eval', 'find_unused_parameters', 'model_wrapper_cfg', 'runner_type'),
    *('sync_bn', 'strategy', 'tta_cfg', 'tta_model', 'tta_pipeline'),
)
# What mmengine takes out of a dict before it builds from the rest: of any, and by role.
ANY_TYPE = frozenset({'type', '_scope_', '_delete_'})
EXTRA = dict(
    default_hooks={'priority'},
    custom_hooks={'priority'},
    param_scheduler={'convert_to_iter_based'},
    train_cfg={'by_epoch'},
)
# What a Runner, and not the config, gives to the classes that it builds; then a model to branches.
GIVEN = dict(
    optimizer={'params'},
    param_scheduler={'optimizer', 'epoch_length'},
    sampler={'dataset'},
    batch_sampler={'sampler', 'batch_size'},
    train_cfg={'runner', 'dataloader'},
    val_cfg={'runner', 'dataloader', 'evaluator'},
    test_cfg={'runner', 'dataloader', 'evaluator'},
    vis_backends={'save_dir'},
    model_wrapper_cfg={'module', 'model'},
)
FOR_BRANCHES = ('peers', 'global_size')
NOT_NECKS = ('backbone', 'adapter', 'init_cfg')  # what else of a branch is a dict with a type
# Of necks and heads, from what they read and from the backbone.
INFERRED = ('in_channels', 'out_channels', 'token_channels', 'grid_size')
# Where the type of a dict is looked up, by role.
REGISTRIES = dict(
    dataset=(mm.DATASETS,),
    pipeline=(mm.TRANSFORMS,),
    sampler=(mm.DATA_SAMPLERS,),
    batch_sampler=(mm.DATA_SAMPLERS,),
    optim_wrapper=(mm.OPTIM_WRAPPERS,),
    optimizer=(mm.OPTIMIZERS,),
    param_scheduler=(mm.PARAM_SCHEDULERS,),
    default_hooks=(mm.HOOKS,),
    custom_hooks=(mm.HOOKS,),
    train_cfg=(mm.LOOPS,),
    val_cfg=(mm.LOOPS,),
    test_cfg=(mm.LOOPS,),
    val_evaluator=(mm.METRICS, mm.EVALUATOR),
    test_evaluator=(mm.METRICS, mm.EVALUATOR),
    visualizer=(mm.VISUALIZERS,),
    vis_backends=(mm.VISBACKENDS,),
    data_preprocessor=(mm.MODELS,),
)
MODEL_PARTS = (
    *('model', 'backbone', 'neck', 'head', 'decode_head', 'auxiliary_head', 'rpn_head', 'roi_head'),
    *('bbox_head', 'mask_head', 'data_preprocessor'),
)
# A class that stands around these may add arguments to them.
COMPLETED = ('bbox_head', 'mask_head', 'rpn_head', 'roi_head', 'data_preprocessor', 'batch_sampler')
# These have a type, whatever is around them.
TYPED = ('model', 'backbone', 'dataset', 'pipeline', 'custom_hooks')
LOADERS = (*DATALOADERS, 'bank_dataloader')
LOADER_KEYS = frozenset({'num_batch_per_epoch', 'disable_subprocess_warning'})


class Section(NamedTuple):
    """A dict that a Runner reads itself, and what it takes: arguments of functions, other keys."""

    functions: tuple[Callable, ...] = ()
    keys: Collection[str] = ()
    required: frozenset[str] = frozenset()


# By place; '*' is any name.
SECTIONS = {
    'auto_scale_lr': Section(keys=('base_batch_size', 'enable')),
    'custom_imports': Section(keys=('imports', 'allow_failed_imports')),
    'env_cfg': Section(keys=('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit')),
    'env_cfg.mp_cfg': Section((set_multi_processing,)),
    'env_cfg.dist_cfg': Section((init_dist, init_process_group), ('port',)),  # of Slurm
    'log_processor': Section((LogProcessor,), ANY_TYPE),
    'optim_wrapper': Section((OptimWrapper, AmpOptimWrapper), ANY_TYPE | {'constructor'}),
    'optim_wrapper.branches.*': Section(keys=('optimizer', 'parts')),
    'optim_wrapper.branches.*.parts.*': Section(keys=('lr', 'weight_decay', 'decay_all')),
    'optim_wrapper.clip_grad': Section(
        (clip_grad_norm_, clip_grad_value_), ('type', 'per_parameter')
    ),
    'randomness': Section((Runner.set_randomness,), required=frozenset({'seed'})),
}
NOT_IN_SECTIONS = {'self', 'launcher', 'distributed', 'parameters'}
# Dicts whose entries have names of their own; what every entry has.
BY_NAME = {
    'default_hooks': 'type',
    'model.branches': 'backbone',
    'optim_wrapper.branches': 'optimizer',
}
HINTS = {
    'optim_wrapper.paramwise_cfg': ' Give a part of a branch its lr and weight_decay by '
    'optim_wrapper.branches.NAME.parts.',
}


class Rule(NamedTuple):
    """A condition on a number.

    Attributes:
        low (float): The least value.
        high (float): The greatest value. Defaults to infinity.
        whole (bool): Whether it must be an integer. Defaults to False.
        also (tuple): Values that are right besides. Defaults to (None,).
        each (bool): Whether a list, or a dict, may stand for the number, in which each is checked.
            Defaults to False.
        above (bool): Whether ``low`` itself is wrong. Defaults to False.
    """

    low: float
    high: float = math.inf
    whole: bool = False
    also: tuple = (None,)
    each: bool = False
    above: bool = False

    def fits(self, value: Any) -> bool:
        """Check a value.

        Args:
            value (Any): The value.

        Returns:
            bool: True if it is right.
        """
        if any(
            value is each or (type(value) is type(each) and value == each) for each in self.also
        ):
            return True
        if self.each and isinstance(value, list | tuple | dict):
            return all(map(self.fits, value.values() if isinstance(value, dict) else value))
        if not isinstance(value, Real) or isinstance(value, bool):
            return False
        if self.above and value == self.low:
            return False
        return self.low <= value <= self.high and (not self.whole or value == int(value))

    def __str__(self) -> str:
        limits = (
            f'of {self.low} or more' if self.high == math.inf else f'from {self.low} to {self.high}'
        )
        kind = 'an integer' if self.whole else 'a number'
        text = f'{kind} {f"above {self.low}" if self.above else limits}'
        return ' or '.join([text, *(repr(each) for each in self.also if each is not None)])


class Kind(NamedTuple):
    """A condition on a value: its type, or a list of values; ``filled``: and not an empty one."""

    text: str
    types: tuple[type, ...] = ()
    values: tuple = ()
    filled: bool = False

    def fits(self, value: Any) -> bool:
        """Check a value."""
        if self.filled and isinstance(value, str | list | tuple) and not value:
            return False
        return isinstance(value, self.types) or any(value == each for each in self.values)

    def __str__(self) -> str:
        return self.text or f'one of {", ".join(map(str, self.values))}'


COUNT = Rule(1, whole=True, also=())
ONE = Rule(1, whole=True)
SHARE = Rule(0, 1)
SIZE = Rule(1, whole=True, each=True)
NOT_NEGATIVE = Rule(0)
POSITIVE = Rule(0, above=True, each=True)
NEVER_OR_ONE = Rule(1, whole=True, also=(-1, None))
SWITCH = Kind('True or False', (bool, int, type(None)))
DICT = Kind('a dict', (dict, type(None)))
DICT_OR_LIST = Kind('a dict or a list', (dict, list, tuple, type(None)))
TEXT = Kind('a text', (str, type(None)), filled=True)
TRANSFORMS = Kind('a list of at least one transform', (list, tuple), filled=True)
HOOK = dict(
    interval=NEVER_OR_ONE,
    max_keep_ckpts=NEVER_OR_ONE,
    base_momentum=SHARE,
    freeze_epochs=NOT_NEGATIVE,
)
# By type, or by role, then by key. '' is the top of a config, '*' any dict.
RULES: dict[str, dict[str, Rule | Kind]] = {
    '': {
        **dict.fromkeys((*DATALOADERS, 'model', 'optim_wrapper', 'train_cfg', 'val_cfg'), DICT),
        **dict.fromkeys(('test_cfg', 'default_hooks', 'env_cfg', 'visualizer', 'randomness'), DICT),
        **dict.fromkeys(('log_processor', 'auto_scale_lr', 'data_preprocessor'), DICT),
        **dict.fromkeys(('param_scheduler', 'val_evaluator', 'test_evaluator'), DICT_OR_LIST),
        **dict.fromkeys(('load_from', 'work_dir', 'default_scope'), TEXT),
        'custom_hooks': Kind('a list', (list, tuple, type(None))),
        'log_level': Kind('', values=('DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL')),
        'launcher': Kind('', values=('none', 'pytorch', 'slurm', 'mpi')),
        'sync_bn': Kind('', values=('torch', 'mmcv', None)),
    },
    'mp_cfg': dict(mp_start_method=Kind('', values=('fork', 'spawn', 'forkserver'))),
    'dataloader': dict(
        batch_size=COUNT,
        num_workers=Rule(0, whole=True, also=()),
        prefetch_factor=ONE,
        num_batch_per_epoch=ONE,
        timeout=NOT_NEGATIVE,
    ),
    'train_cfg': dict(
        max_epochs=COUNT, max_iters=COUNT, val_interval=COUNT, val_begin=Rule(0, whole=True)
    ),
    'randomness': dict(seed=Rule(0, 2**32 - 1, whole=True)),
    'auto_scale_lr': dict(base_batch_size=COUNT),
    'log_processor': dict(window_size=ONE),
    'optim_wrapper': dict(accumulative_counts=ONE),
    'clip_grad': dict(max_norm=POSITIVE, clip_value=POSITIVE),
    'optimizer': dict(
        lr=NOT_NEGATIVE, weight_decay=NOT_NEGATIVE, momentum=SHARE, eps=Rule(0, each=True)
    ),
    'parts': dict(lr=NOT_NEGATIVE, weight_decay=NOT_NEGATIVE),
    'default_hooks': HOOK,
    'custom_hooks': HOOK,
    'LoggerHook': dict(interval=COUNT),
    'param_scheduler': dict.fromkeys(('begin', 'end', 'eta_min', 'warmup'), NOT_NEGATIVE),
    'model': dict(num_global_views=COUNT),
    'branches': dict(cross_weight=Rule(0, each=True)),  # None: of a frozen branch
    'heads': dict(
        center_momentum=SHARE,
        loss_weight=NOT_NEGATIVE,
        warmup_teacher_temp_epochs=NOT_NEGATIVE,
        warmup_weight_epochs=NOT_NEGATIVE,
    ),
    'dataset': dict(pipeline=TRANSFORMS),
    'pipeline': dict(crop_size=SIZE, size=SIZE, scale=POSITIVE),
    '*': {
        **dict.fromkeys(('img_size', 'patch_size', 'in_channels'), SIZE),
        **dict.fromkeys(('embed_dims', 'out_channels'), SIZE),
        **dict.fromkeys(('by_epoch', 'cudnn_benchmark', 'deterministic'), SWITCH),
        **dict.fromkeys(('diff_rank_seed', 'enable', 'resume'), SWITCH),
        'drop_path_rate': Rule(0, 1, each=True),
        'drop_rate': SHARE,
    },
}
# Classes whose constructors take more than their signatures tell, or add to their own tables: they
# pass `**kwargs` on past the next class of the MRO, or keep them.
NOT_JUDGED = ('MaskFormerHead', 'MoCoV3ViT', 'VFNetHead')
# Attributes of classes of mmpretrain, mmdet and mmseg that say what an argument may be.
ARCHITECTURES = dict(depth=('arch_settings',), arch=('arch_zoo', 'arch_settings'))
