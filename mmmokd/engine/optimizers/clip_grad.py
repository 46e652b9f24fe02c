# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch
from torch import Tensor


@torch.no_grad()
def clip_grad_norm_per_parameter_(params: list[Tensor], max_norm: float) -> Tensor:
    """Clip every parameter's gradient by its own norm: g <- g min(1, max_norm / (``|g|`` + 1e-6)).

    DINO and the official MOKD clip so, unlike ``torch.nn.utils.clip_grad_norm_``, whose norm is
    that of all gradients together.

    Args:
        params (list[Tensor]): Parameters with a gradient.
        max_norm (float): Largest norm of one parameter's gradient.

    Returns:
        Tensor: Norm of all gradients together before clipping, scalar, for the log.
    """
    grads = [param.grad for param in params]
    norms = torch.stack(torch._foreach_norm(grads))
    scales = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(grads, list(scales.unbind()))
    return norms.norm()
