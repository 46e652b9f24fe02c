# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Count the floating-point operations of matrix products, convolutions and attention."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)


def _attention(query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad, query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def _linear(x, weight, *args, out_shape=None, **kwargs) -> int:
    rows, width = x
    return 2 * rows * width * weight[0]


class _NoModules(nullcontext):
    """Takes the place of PyTorch's tracker, which cannot follow modules without gradients."""

    parents = ('Global',)


def count_flops(function: Callable[[], object]) -> int:
    """Count what a function computes, its backward passes included.

    Args:
        function (Callable): Without compiled parts.

    Returns:
        int: Operations; one multiplication and one addition are two.
    """
    aten = torch.ops.aten
    on_cpu = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    if hasattr(torch.ops.mkldnn, '_linear_pointwise'):
        on_cpu[torch.ops.mkldnn._linear_pointwise] = _linear
    counter = FlopCounterMode(display=False, custom_mapping=on_cpu)
    counter.mod_tracker = _NoModules()
    with counter:
        function()
    return counter.get_total_flops()
