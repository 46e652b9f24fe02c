# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .batch_norm import BatchNormXd
from .checks import check_counts, check_number
from .gather import first_row, gather_with_grad
from .init import trunc_normal_linears_
from .lora import LoRALinear, add_lora
from .onednn import OneDNNLinear
from .patch_masks import draw_patch_masks
from .prototypes import (
    build_prototype_layer,
    gain_and_direction,
    mean_logits,
)
from .queue import EmbeddingQueue
from .step_graph import StepGraph, capturable, when_computed

__all__ = [
    'BatchNormXd',
    'EmbeddingQueue',
    'OneDNNLinear',
    'StepGraph',
    'LoRALinear',
    'OneDNNLinear',
    'add_lora',
    'build_prototype_layer',
    'gain_and_direction',
    'capturable',
    'mean_logits',
    'check_counts',
    'check_number',
    'first_row',
    'gather_with_grad',
    'draw_patch_masks',
    'trunc_normal_linears_',
    'when_computed',
]
