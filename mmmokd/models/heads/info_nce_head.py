# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from torch import Tensor, nn

from mmmokd.registry import MODELS
from mmmokd.structures import NetworkOutput, Views

from ..losses import contrastive_cosines, info_nce
from ..utils import EmbeddingQueue, check_counts, check_number
from .offline_head import OfflineHead


@MODELS.register_module()
class QueueInfoNCEHead(OfflineHead):
    """InfoNCE of the first view with the teacher's second, against a queue: `MoCo v2
    <https://arxiv.org/abs/2003.04297>`_.

    Args:
        queue_length (int): Number of negatives. Defaults to 65536.
        temperature (float): T. Defaults to 0.2.
        reads (str): Embedding. Defaults to ``'projector'``.
        teacher (str): See :class:`BranchHead`. Defaults to ``'own'``.
        target_reads (str, optional): Embedding of the teacher. Defaults to None, as ``reads``.
        loss_weight (float): Weight of the term. Defaults to 1.0.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Attributes:
        queue (EmbeddingQueue): The negatives, column ``teacher``.

    Raises:
        ConfigError: If a value is out of range.
    """

    capturable = True

    def __init__(
        self,
        queue_length: int = 65536,
        temperature: float = 0.2,
        reads: str = 'projector',
        teacher: str = 'own',
        target_reads: str | None = None,
        loss_weight: float = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(reads, teacher, target_reads, loss_weight, init_cfg)
        check_counts(type(self).__name__, queue_length=queue_length)
        check_number(type(self).__name__, 'temperature', temperature)
        self.queue_length = queue_length
        self.temperature = temperature

    def connect(self, student: nn.Module, teacher: nn.Module) -> None:
        """Make the queue.

        Args:
            student (BranchNetwork): Of the branch.
            teacher (BranchNetwork): Of the branch that it learns from, or its own.

        Raises:
            ConfigError: If the widths of their embeddings differ.
        """
        width = self.same_width(student, teacher)
        self.queue = EmbeddingQueue(self.queue_length, dict(teacher=width))

    def loss(self, student: NetworkOutput, teacher: NetworkOutput, views: Views) -> Tensor:
        """The weighted loss.

        Args:
            student (NetworkOutput): Of all views.
            teacher (NetworkOutput): Of the second global view, or of both.
            views (Views): The views.

        Returns:
            Tensor: Scalar.
        """
        return self(student[self.reads][0], teacher[self.target_reads][-1].detach())

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """The weighted loss; in training mode the keys become negatives after it.

        Args:
            queries (Tensor): Embeddings by the student, shape (B, C).
            keys (Tensor): Of the same images by the teacher, shape (B, C), without gradient.

        Returns:
            Tensor: Scalar.
        """
        found = contrastive_cosines(queries, keys, self.queue['teacher'])
        if self.training:
            self.queue.push(teacher=keys)
        return info_nce(found, self.temperature) * self.loss_weight
