# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .branch_optim_wrapper_constructor import (
    BranchOptimWrapperConstructor,
    branch_param_groups,
    with_default_optimizer,
)
from .branch_optim_wrapper_dict import BranchOptimWrapperDict
from .clip_grad import clip_grad_norm_per_parameter_
from .layer_decay_optim_wrapper_constructor import LayerDecayOptimWrapperConstructor

__all__ = [
    'BranchOptimWrapperConstructor',
    'BranchOptimWrapperDict',
    'LayerDecayOptimWrapperConstructor',
    'branch_param_groups',
    'clip_grad_norm_per_parameter_',
    'with_default_optimizer',
]
