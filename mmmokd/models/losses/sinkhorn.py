# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch
from mmengine.dist import all_reduce
from torch import Tensor

from .soft_cross_entropy import at_least_float32


@torch.no_grad()
def sinkhorn_knopp(scores: Tensor, epsilon: float = 0.05, num_iters: int = 3) -> Tensor:
    """Assign images to prototypes so that all prototypes get the same share of them.

    The codes of `SwAV <https://arxiv.org/abs/2006.09882>`_: exp(scores / epsilon), whose columns
    (prototypes) and rows (images) are scaled in turn to equal sums. The images are those of all
    processes. In plain PyTorch, for one view and one process::

        q = exp(scores / epsilon)  # (B, K)
        for _ in range(num_iters):
            q = q / q.sum(dim=0, keepdim=True)
            q = q / q.sum(dim=1, keepdim=True)

    Here logarithms are scaled, which neither overflow nor vanish, in at least float32.

    Args:
        scores (Tensor): Similarities of images and prototypes, shape (..., B, K): each (B, K) is
            divided by itself.
        epsilon (float): Weight of the entropy: small values give hard codes. Defaults to 0.05.
        num_iters (int): Number of iterations. Defaults to 3.

    Returns:
        Tensor: Codes, shape (..., B, K), each row a distribution.

    Example:
        >>> codes = sinkhorn_knopp(torch.rand(256, 100), num_iters=50)
        >>> codes.sum(dim=0)  # about 2.56 images for every prototype
    """
    log_codes = at_least_float32(scores) / epsilon
    for _ in range(num_iters):
        log_codes = log_codes - _log_sum_over_images(log_codes)
        log_codes = log_codes.log_softmax(dim=-1)
    return log_codes.exp()


def _log_sum_over_images(logs: Tensor) -> Tensor:
    """Log-sum-exp over the images of all processes, shape (..., 1, K)."""
    largest = logs.amax(dim=-2, keepdim=True)
    all_reduce(largest, op='max')
    total = (logs - largest).exp().sum(dim=-2, keepdim=True)
    all_reduce(total, op='sum')
    return largest + total.log()
