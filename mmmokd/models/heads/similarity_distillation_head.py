# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from itertools import combinations

import torch
from torch import Tensor

from mmmokd.registry import MODELS
from mmmokd.structures import NetworkOutput, Views
from mmmokd.utils.errors import ConfigError

from ..losses import cosines, similarity_kl
from ..utils import check_number, gather_with_grad
from .base import BranchHead


@MODELS.register_module()
class SimilarityDistillationHead(BranchHead):
    """Match a teacher in how similar the images of a batch are to each other.

    The term between two models of `DoGo <https://arxiv.org/abs/2104.09866>`_: KL divergence between
    the models' matrices of cosines between one global view of each image and another one, softmaxed
    over rows and averaged over the elements. Student and teacher may differ in width, and in the views
    that they see. The images of all processes are compared with each other: two processes are one.
    (Under gradient accumulation each micro-batch is a batch of its own.) With more than two global
    views, the loss is the mean over the pairs of views.

    Args:
        reads (str): What the student is compared by: a neck or ``'pooled'``. Defaults to
            ``'projector'``.
        teacher (str): ``'peers'`` or ``'own'``. Defaults to ``'peers'``.
        temperature (float): Defaults to 0.1.
        loss_weight (float): Weight of the term. For peers, the branch gives its ``cross_weight`` where
            the head's config has none. Defaults to 1.0.
        init_cfg (dict, optional): Initialization config. Defaults to None.
        target_reads (str, optional): What the teacher is compared by. Defaults to None, the same.

    Raises:
        ConfigError: If the temperature is not a positive number, or there is no teacher.

    Example:
        >>> heads = dict(kl=dict(type='mmmokd.SimilarityDistillationHead', reads='pooled'))
    """

    needs_teacher = True
    capturable = True

    def __init__(
        self,
        reads: str = 'projector',
        teacher: str = 'peers',
        temperature: float = 0.1,
        loss_weight: float = 1.0,
        init_cfg: dict | None = None,
        target_reads: str | None = None,
    ) -> None:
        super().__init__(reads, teacher, loss_weight, init_cfg, target_reads)
        check_number('SimilarityDistillationHead', 'temperature', temperature)
        self.temperature = temperature

    def loss(self, student: NetworkOutput, teacher: NetworkOutput, views: Views) -> Tensor:
        """Compute the weighted loss.

        Args:
            student (NetworkOutput): Of all views, the G global ones first.
            teacher (NetworkOutput): Of G global views.
            views (Views): The views.

        Returns:
            Tensor: Scalar.

        Raises:
            ConfigError: If there are fewer than two global views.
        """
        return self(student[self.reads][: len(views.globals)], teacher[self.target_reads])

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the weighted loss of features.

        Args:
            student (Tensor): Shape (G, B, C).
            teacher (Tensor): Shape (G, B, D), without gradient.

        Returns:
            Tensor: Scalar.

        Raises:
            ConfigError: If G is below 2.
        """
        if len(student) < 2:
            raise ConfigError(
                'SimilarityDistillationHead compares images across two global views, but a branch '
                f'sees {len(student)}'
            )
        # All images are columns; a process has the rows of its own.
        all_students, all_teachers = (
            gather_with_grad(x.transpose(0, 1)).transpose(0, 1) for x in (student, teacher)
        )  # (G, N, C), (G, N, D)
        with torch.autocast(student.device.type, enabled=False):
            losses = [
                similarity_kl(
                    cosines(student[v], all_students[w]),
                    cosines(teacher[v], all_teachers[w]),
                    self.temperature,
                )
                for v, w in combinations(range(len(student)), 2)
            ]
        # Averaged over the elements of the matrices, as the method's released code has it.
        return self.loss_weight * sum(losses) / (len(losses) * all_students.shape[1])
