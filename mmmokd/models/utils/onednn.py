# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Matrix products in float32 by oneDNN, on CPUs for which PyTorch's own are slow.

PyTorch multiplies matrices of float32 by MKL, which on CPUs of AMD leaves half of the width of their
AVX-512 registers unused; oneDNN, with which PyTorch computes its convolutions, does not. On a Zen 5,
products of a ViT are 2.0 to 2.3 times as fast.
"""

import functools
import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Rows beyond which MKL's product of two transposed matrices is the faster one.
MANY_ROWS = 8192


@functools.cache
def is_faster() -> bool:
    """Check whether oneDNN's products are the faster ones on this machine.

    Returns:
        bool: On a CPU of AMD with AVX-512, if this PyTorch has them.
    """
    if platform.system() != 'Linux' or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, '_linear_pointwise'):
        return False
    info = Path('/proc/cpuinfo').read_text()
    return 'AuthenticAMD' in info and 'avx512f' in info


def product(a: Tensor, b: Tensor) -> Tensor:
    """The product of two matrices, which is not differentiated.

    Args:
        a (Tensor): Shape (N, D), of any strides.
        b (Tensor): Shape (D, C), of any strides.

    Returns:
        Tensor: Shape (N, C).
    """
    if a.dtype == torch.float32 and a.device.type == 'cpu' and is_faster():
        return _linear(a, b.t())
    return a @ b


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [], '')


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        grad_x = _linear(grad, weight.t()) if to_x else None
        grad_weight = None
        if to_weight:
            multiply = torch.mm if len(x) > MANY_ROWS else product
            grad_weight = multiply(grad.t(), x)
        return grad_x, grad_weight, grad.sum(dim=0) if to_bias else None


class OneDNNLinear(nn.Linear):
    """A linear layer whose products in float32 on the CPU are oneDNN's; else PyTorch's own.

    A layer becomes one by its ``__class__``; parameters and ``state_dict`` stay as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            x (Tensor): Shape (..., C).

        Returns:
            Tensor: Shape (..., D).
        """
        if (
            x.dtype != torch.float32
            or x.device.type != 'cpu'
            or self.weight.dtype != torch.float32
            or torch.is_autocast_enabled('cpu')
            or not x.numel()
            or torch.compiler.is_compiling()
        ):
            return F.linear(x, self.weight, self.bias)
        rows = x.reshape(-1, x.shape[-1])
        return _Linear.apply(rows, self.weight, self.bias).view(*x.shape[:-1], -1)
