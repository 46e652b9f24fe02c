# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .checks import check_counts, check_number
from .init import trunc_normal_linears_
from .lora import LoRALinear, add_lora
from .onednn import OneDNNLinear
from .prototypes import (
    build_prototype_layer,
    gain_and_direction,
    mean_logits,
)

__all__ = [
    'LoRALinear',
    'OneDNNLinear',
    'add_lora',
    'build_prototype_layer',
    'gain_and_direction',
    'mean_logits',
    'check_counts',
    'check_number',
    'trunc_normal_linears_',
]
