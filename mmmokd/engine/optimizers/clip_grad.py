# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

import torch
from mmengine.logging import MessageHub
from torch import Tensor

from mmmokd.utils.devices import is_asynchronous

from ..history import update_scalars_later

# A smaller gradient is scaled together with others: on a GPU each that is scaled alone is a launch.
SMALL = 2**18


@torch.no_grad()
def clip_grad_norm_per_parameter_(params: list[Tensor], max_norm: float) -> Tensor:
    """Clip every parameter's gradient by its own norm: g <- g min(1, max_norm / (``|g|`` + 1e-6)).

    DINO and the official MOKD clip so, unlike ``torch.nn.utils.clip_grad_norm_``, whose norm is
    that of all gradients together. On the CPU, where the norms can be read at once, only the
    gradients that are too long are written.

    Args:
        params (list[Tensor]): Parameters with a gradient.
        max_norm (float): Largest norm of one parameter's gradient.

    Returns:
        Tensor: Norm of all gradients together before clipping, scalar, for the log.
    """
    grads = [param.grad for param in params]
    norms = torch.stack(torch._foreach_norm(grads))
    scales = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    if not is_asynchronous(norms):
        for grad, scale in zip(grads, scales.tolist(), strict=True):
            if not scale == 1.0:  # NaN included
                grad.mul_(scale)
    else:
        _scale(grads, scales)
    return norms.norm()


def _scale(grads: list[Tensor], scales: Tensor) -> None:
    """Scale each gradient by its own factor, without a wait for the device and in few launches."""
    # PyTorch has no fast `_foreach_mul_` by factors on the device, one for each tensor.
    lines, factors = [], []
    for grad, factor in zip(grads, scales.unbind(), strict=True):
        if grad.numel() < SMALL and _is_dense(grad):
            lines.append(grad.as_strided((grad.numel(),), (1,)))
            factors.append(factor.expand(grad.numel()))
        else:
            grad.mul_(factor)
    if lines:
        scaled = torch.cat(lines) * torch.cat(factors)
        torch._foreach_copy_(lines, scaled.split([len(line) for line in lines]))


def _is_dense(tensor: Tensor) -> bool:
    """Check whether a tensor is one block of memory, in the usual order or with channels last."""
    return tensor.is_contiguous() or (
        tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    )


class LoggedClip:
    """Clips gradients and logs their norm, which is read from the device when the log is.

    mmengine's optimizer wrapper logs the norm that a clipping function gives, and waits for it. This
    one gives none.

    Args:
        clip (Callable[..., Tensor | None]): Clips the gradients of a list of parameters, and gives
            their norm, or None.
        message_hub (MessageHub): Where the norm is logged.
        key (str): Its key.
    """

    def __init__(
        self, clip: Callable[..., Tensor | None], message_hub: MessageHub, key: str
    ) -> None:
        self.clip = clip
        self.message_hub = message_hub
        self.key = key

    def __call__(self, params: list[Tensor], **kwargs) -> None:
        """Clip.

        Args:
            params (list[Tensor]): Parameters with a gradient.
            **kwargs: For ``clip``.
        """
        norm = self.clip(params, **kwargs)
        if norm is not None:
            update_scalars_later(self.message_hub, {self.key: norm})
