# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmokd.registry import MODELS
from mmmokd.structures import NetworkOutput, Views

from ..losses import at_least_float32
from ..utils import check_counts
from .offline_head import OfflineHead


@MODELS.register_module()
class DisCoHead(OfflineHead):
    """DisCo's consistency: the squared distance of a student's embeddings from a teacher's.

    The distillation loss of `DisCo <https://arxiv.org/abs/2104.09124>`_: ``|s - t|^2`` of L2-normalized
    embeddings of the same view, added up over the global views, as the authors' code has it, with
    ``MSELoss(reduction='sum')``.

    That sum is over the images of one process as well, so that its weight beside other terms, which
    are means, would depend on how many images a process has. It is taken here over ``num_images``
    images, whatever the batch: the mean over images times their number. So two processes are one,
    and micro-batches are a batch.

    Args:
        num_images (int): Images of a sum. Defaults to 32, those of one of the authors' processes:
            256 images on 8 GPUs.
        reads (str): Embedding of the student. Defaults to ``'projector'``.
        target_reads (str, optional): Embedding of the teacher. Defaults to None, as ``reads``.
        loss_weight (float): Weight of the term. Defaults to 1.0.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: If ``num_images`` is not a whole number of at least 1.
    """

    capturable = True

    def __init__(
        self,
        num_images: int = 32,
        reads: str = 'projector',
        target_reads: str | None = None,
        loss_weight: float = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(reads, 'peers', target_reads, loss_weight, init_cfg)
        check_counts('DisCoHead', num_images=num_images)
        self.num_images = num_images

    def connect(self, student: nn.Module, teacher: nn.Module) -> None:
        """Compare the widths.

        Args:
            student (BranchNetwork): Of the branch.
            teacher (BranchNetwork): Of the branch that it learns from.

        Raises:
            ConfigError: If the widths of their embeddings differ.
        """
        self.same_width(student, teacher)

    def loss(self, student: NetworkOutput, teacher: NetworkOutput, views: Views) -> Tensor:
        """The weighted loss.

        Args:
            student (NetworkOutput): Of all views, the G global ones first.
            teacher (NetworkOutput): Of the global views.
            views (Views): The views.

        Returns:
            Tensor: Scalar.
        """
        own = student[self.reads][: len(views.globals)]
        return self(own, teacher[self.target_reads].detach())

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The weighted loss.

        Args:
            student (Tensor): Embeddings of G views, shape (G, B, C).
            teacher (Tensor): The teacher's, shape (G, B, C), without gradient.

        Returns:
            Tensor: Scalar.
        """
        with torch.autocast(student.device.type, enabled=False):
            own, target = (F.normalize(at_least_float32(x), dim=-1) for x in (student, teacher))
            distances = (own - target).square().sum(dim=(0, 2))  # (B, )
            return self.loss_weight * self.num_images * distances.mean()
