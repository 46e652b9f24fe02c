# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .branch_optim_wrapper_constructor import (
    BranchOptimWrapperConstructor,
    branch_param_groups,
    with_default_optimizer,
)
from .branch_optim_wrapper_dict import BranchOptimWrapperDict
from .clip_grad import LoggedClip, clip_grad_norm_per_parameter_
from .layer_decay_optim_wrapper_constructor import LayerDecayOptimWrapperConstructor
from .precision import BFloat16OptimWrapper, choose_precision
from .trained_parameters import check_trained_parameters
from .wrappers import accumulative_counts, iter_wrappers, step_count

__all__ = [
    'BFloat16OptimWrapper',
    'BranchOptimWrapperConstructor',
    'BranchOptimWrapperDict',
    'LayerDecayOptimWrapperConstructor',
    'LoggedClip',
    'accumulative_counts',
    'branch_param_groups',
    'check_trained_parameters',
    'choose_precision',
    'clip_grad_norm_per_parameter_',
    'iter_wrappers',
    'step_count',
    'with_default_optimizer',
]
