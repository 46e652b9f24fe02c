# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from torch import Tensor, nn

from mmmokd.registry import MODELS
from mmmokd.structures import NetworkOutput, Views
from mmmokd.utils.errors import ConfigError

from ..losses import cosines, similarity_kl
from ..utils import EmbeddingQueue, check_counts, check_number
from .offline_head import OfflineHead


@MODELS.register_module()
class CompRessHead(OfflineHead):
    """CompRess: a student is as similar to a queue of other images as its teacher is.

    The loss of `CompRess <https://arxiv.org/abs/2010.14713>`_ (section 3): the KL divergence between
    the softmaxes of the teacher's and the student's cosines with the anchors in a queue,
    KL(softmax(t / T) || softmax(s / T)). Student and teacher see the same view; the loss is the mean
    over the global views, all of which become anchors after it.

    With one queue ("CompRess-1q") both are compared with the teacher's embeddings of the anchors, so
    the student's has to be as wide. With two ("CompRess-2q") the student is compared with its own EMA
    teacher's embeddings of the same anchors.

    Args:
        num_queues (int): 1 or 2. Defaults to 2.
        queue_length (int): Number of anchors. Defaults to 128000.
        temperature (float): Temperature T of both softmaxes. Defaults to 0.04.
        reads (str): Embedding of the student. Defaults to ``'pooled'``.
        target_reads (str, optional): Embedding of the teacher. Defaults to None, as ``reads``.
        loss_weight (float): Weight of the term. Defaults to 1.0.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Attributes:
        queue (EmbeddingQueue): The anchors: column ``teacher`` and, of two queues, ``student``.

    Raises:
        ConfigError: If ``num_queues`` is neither 1 nor 2, or another value is out of range.
    """

    capturable = True

    def __init__(
        self,
        num_queues: int = 2,
        queue_length: int = 128000,
        temperature: float = 0.04,
        reads: str = 'pooled',
        target_reads: str | None = None,
        loss_weight: float = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(reads, 'peers', target_reads, loss_weight, init_cfg)
        check_num_queues(num_queues)
        check_counts('CompRessHead', queue_length=queue_length)
        check_number('CompRessHead', 'temperature', temperature)
        self.needs_own_teacher = num_queues == 2
        self.queue_length = queue_length
        self.temperature = temperature

    def connect(self, student: nn.Module, teacher: nn.Module) -> None:
        """Make the queue.

        Args:
            student (BranchNetwork): Of the branch.
            teacher (BranchNetwork): Of the branch that it learns from.

        Raises:
            ConfigError: If, with one queue, the widths of their embeddings differ.
        """
        widths = dict(teacher=teacher.width(self.target_reads))
        if self.needs_own_teacher:
            widths['student'] = student.width(self.reads)
        else:
            self.same_width(student, teacher)
        self.queue = EmbeddingQueue(self.queue_length, widths)

    def loss(
        self,
        student: NetworkOutput,
        teacher: NetworkOutput,
        views: Views,
        own_teacher: NetworkOutput | None = None,
    ) -> Tensor:
        """The weighted loss.

        Args:
            student (NetworkOutput): Of all views, the G global ones first.
            teacher (NetworkOutput): Of the global views.
            views (Views): The views.
            own_teacher (NetworkOutput, optional): Of the student's EMA teacher, which two queues
                need. Defaults to None.

        Returns:
            Tensor: Scalar.
        """
        own = student[self.reads][: len(views.globals)]
        found = [own, teacher[self.target_reads].detach()]
        found += [own_teacher[self.reads].detach()] if self.needs_own_teacher else []
        return self(*(each.flatten(0, 1) for each in found))

    def forward(self, student: Tensor, teacher: Tensor, keys: Tensor | None = None) -> Tensor:
        """The weighted loss; in training mode the images become anchors after it.

        Args:
            student (Tensor): Embeddings of N views, shape (N, C).
            teacher (Tensor): The teacher's, shape (N, C_t), without gradient.
            keys (Tensor, optional): The student's EMA teacher's, shape (N, C), without gradient, which
                two queues need. Defaults to None.

        Returns:
            Tensor: Scalar.
        """
        anchors = self.queue['teacher']  # (K, C_t)
        own_anchors = self.queue['student'] if self.needs_own_teacher else anchors  # (K, C)
        loss = similarity_kl(
            cosines(student, own_anchors), cosines(teacher, anchors), self.temperature
        )
        if self.training:
            rows = dict(teacher=teacher)
            rows |= dict(student=keys) if self.needs_own_teacher else {}
            self.queue.push(**rows)
        return loss * self.loss_weight


def check_num_queues(num_queues: int) -> None:
    """Refuse another number of queues than CompRess has.

    Args:
        num_queues (int): 1 or 2.

    Raises:
        ConfigError: If it is another.
    """
    if num_queues not in (1, 2) or isinstance(num_queues, bool):
        raise ConfigError(f'num_queues of CompRess must be 1 or 2, but got {num_queues!r}')
