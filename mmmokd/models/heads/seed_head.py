# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmokd.registry import MODELS
from mmmokd.structures import NetworkOutput, Views
from mmmokd.utils.errors import ConfigError

from ..losses import contrastive_cosines, soft_cross_entropy, teacher_probabilities
from ..utils import EmbeddingQueue, check_number
from .base import BranchHead


@MODELS.register_module()
class SEEDHead(BranchHead):
    """A student's similarities to a queue of a teacher's embeddings follow the teacher's.

    The loss of `SEED <https://arxiv.org/abs/2101.04731>`_: CE(softmax(z_T D / T_t), log-softmax(z_S D
    / T_s)) over the rows D of the queue and the teacher's own embedding of the view, all L2-normalized.
    A global view is compared with the same view, a local view with each global view of the image. The
    teacher's embeddings of the global views go into the queue once per optimizer step, of all
    processes; see :class:`~mmmokd.models.utils.EmbeddingQueue`.

    The cosine of an embedding with itself is 1, so with the paper's T_t the target is all but the
    teacher's own embedding, and other rows count where they are nearly equal to it.

    Args:
        queue_length (int): Number of embeddings in the queue. Defaults to 65536.
        reads (str): The student's neck, as wide as what it reads of the teacher. Defaults to
            ``'projector'``.
        target_reads (str, optional): What it reads of the teacher: ``'pooled'``, the features of a
            backbone without a projector, or a neck. Defaults to None, ``reads``.
        teacher (str): ``'peers'``, one head and queue for each, or ``'own'``. Defaults to
            ``'peers'``.
        student_temp (float): T_s. Defaults to 0.2.
        teacher_temp (float): T_t. Defaults to 1e-4.
        loss_weight (float): Weight of the term. Defaults to 1.0.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: If a temperature is not positive, ``teacher`` is ``'none'``, or student and
            teacher differ in width.
    """

    needs_teacher = True
    capturable = True

    def __init__(
        self,
        queue_length: int = 65536,
        reads: str = 'projector',
        target_reads: str | None = None,
        teacher: str = 'peers',
        student_temp: float = 0.2,
        teacher_temp: float = 1e-4,
        loss_weight: float = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(reads, teacher, loss_weight, init_cfg, target_reads)
        check_number('SEEDHead', 'student_temp', student_temp)
        check_number('SEEDHead', 'teacher_temp', teacher_temp)
        self.queue_length = queue_length
        self.student_temp = student_temp
        self.teacher_temp = teacher_temp

    def connect(self, student: nn.Module, teacher: nn.Module) -> None:
        """Make the queue, as wide as the teacher's embeddings; see :class:`BranchHead`."""
        own, width = student.width(self.reads), teacher.width(self.target_reads)
        if own != width or width is None:
            raise ConfigError(
                f"the student's {self.reads} must be as wide as the teacher's {self.target_reads}, "
                f'but has {own} channels for {width}: set out_channels of the neck (or of '
                f'neck_defaults) to {width}'
            )
        self.queue = EmbeddingQueue(self.queue_length, dict(teacher=width))

    def loss(self, student: NetworkOutput, teacher: NetworkOutput, views: Views) -> Tensor:
        """The weighted loss.

        Args:
            student (NetworkOutput): Of all views, the G global ones first.
            teacher (NetworkOutput): Of the global views, without gradient.
            views (Views): Not used.

        Returns:
            Tensor: Scalar.
        """
        return self(student[self.reads], teacher[self.target_reads])

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The weighted loss; in training mode the teacher's embeddings go into the queue after it.

        Args:
            student (Tensor): Embeddings of all views, shape (V, B, C), the teacher's views first.
            teacher (Tensor): Embeddings, shape (G, B, C), without gradient.

        Returns:
            Tensor: Scalar.
        """
        queue = self.queue['teacher']  # (K, C)
        with torch.no_grad():
            own = contrastive_cosines(teacher, teacher, queue)  # (G, B, 1 + K)
            targets = teacher_probabilities(own, self.teacher_temp)
        num_views, num_globals = len(student), len(teacher)
        pairs = [(g, g) for g in range(num_globals)]
        pairs += [(v, g) for v in range(num_globals, num_views) for g in range(num_globals)]
        cosines = contrastive_cosines(
            torch.stack([student[v] for v, _ in pairs]),
            torch.stack([teacher[g] for _, g in pairs]),
            queue,
        )  # (P, B, 1 + K)
        log_probs = F.log_softmax(cosines / self.student_temp, dim=-1)
        wanted = torch.stack([targets[g] for _, g in pairs])
        loss = soft_cross_entropy(log_probs.flatten(0, 1), wanted.flatten(0, 1))
        if self.training:
            self.queue.push(teacher=teacher.flatten(0, 1))
        return loss * self.loss_weight
