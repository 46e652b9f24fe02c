# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch.nn.functional as F
from torch import Tensor

from .soft_cross_entropy import at_least_float32


def similarity_kl(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], temperature: float = 0.1
) -> Tensor:
    """Divergence of a student's similarities between images from a teacher's, as in `DoGo
    <https://arxiv.org/abs/2104.09866>`_.

    Row i of a model's matrix says how similar one view of image i is to another view of each image,
    as probabilities: the softmax, over the row, of the cosines over the temperature. The loss is
    KL(teacher || student) averaged over the elements of the matrices, as the method's released code
    has it: the mean over rows is N times as large.

    Student and teacher may differ in width, and in the views that they saw.

    Args:
        student (tuple[Tensor, Tensor]): Features of one view, (B, D), and of another, (N, D), of which
            row i is image i.
        teacher (tuple[Tensor, Tensor]): The same of the teacher, (B, E) and (N, E), without gradient.
        temperature (float): Defaults to 0.1.

    Returns:
        Tensor: Scalar.
    """
    own, target = (
        F.log_softmax(cosines(*features) / temperature, dim=1) for features in (student, teacher)
    )  # (B, N)
    return F.kl_div(own, target, reduction='sum', log_target=True) / own.numel()


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosine between every two features.

    Args:
        first (Tensor): Shape (B, D).
        second (Tensor): Shape (N, D).

    Returns:
        Tensor: Shape (B, N), at least float32.
    """
    first, second = (F.normalize(at_least_float32(x), dim=1) for x in (first, second))
    return first @ second.T
