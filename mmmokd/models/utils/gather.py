# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch
from mmengine.dist import all_gather, all_reduce, get_rank, get_world_size
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Gather(torch.autograd.Function):
    # torch.distributed.nn.functional.all_gather, with gloo, mixes up gradients that are not contiguous.
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.num_rows = len(x)
        return torch.cat(all_gather(x.contiguous()))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        all_reduce(grad)
        return grad.narrow(0, first_row(ctx.num_rows), ctx.num_rows)


def gather_with_grad(x: Tensor) -> Tensor:
    """Gather features of all processes; gradients go back to the process that they belong to.

    A loss of a process's own rows against the gathered ones has, averaged over the processes, the
    value and the gradients of the loss of all rows in one process.

    Args:
        x (Tensor): Shape (B, ...), of one shape in all processes.

    Returns:
        Tensor: Shape (B * processes, ...), in the order of the processes.
    """
    return x if get_world_size() == 1 else _Gather.apply(x)


def first_row(num_rows: int) -> int:
    """Find where a process's own rows begin among the gathered ones.

    Args:
        num_rows (int): Rows of one process.

    Returns:
        int: Counted from 0.
    """
    return get_rank() * num_rows
