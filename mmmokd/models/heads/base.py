# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from abc import ABCMeta, abstractmethod

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmmokd.structures import NetworkOutput, Views
from mmmokd.utils.errors import ConfigError

from ..losses import Target
from ..utils import check_number

TEACHERS = ('own', 'peers', 'none')


class BranchHead(BaseModule, metaclass=ABCMeta):
    """A loss term of a branch: a head on an edge of the graph of branches.

    A subclass implements :meth:`loss`. Its parameters, if it has any, are trained by the branch's
    optimizer.

    Args:
        reads (str): What it reads of the networks: ``'pooled'``, ``'tokens'`` or the name of a neck.
        teacher (str): Whose teacher it learns from: ``'own'`` (self-distillation), ``'peers'`` (one
            copy of the head for each branch that this one learns from) or ``'none'``. Defaults to
            ``'own'``.
        loss_weight (float): Weight of the term. For ``teacher='peers'`` the branch gives its
            ``cross_weight`` where the head's config has none. Defaults to 1.0.
        init_cfg (dict, optional): Initialization config. Defaults to None.
        target_reads (str, optional): What it reads of the networks that give the targets. Defaults to
            None, the same as ``reads``.

    Attributes:
        must_agree (tuple[str]): Attributes of the neck that must be equal in the student and a
            peer's teacher.
        needs_teacher (bool): Whether ``teacher`` must not be ``'none'``.
        needs_local_views (bool): Whether there must be a local view.
        needs_own_teacher (bool): Whether :meth:`loss` also takes the output of the branch's own
            teacher, as ``own_teacher``, beside that of a peer's.
        capturable (bool): Whether a CUDA graph can hold the loss: it reads no data samples, never
            waits for the device, and changes tensors in place only.
        metrics (dict[str, Tensor]): Scalars of the last loss, such as an accuracy, to be logged as
            ``'{branch}.{term}.{name}'`` in the step.

    Raises:
        ConfigError: If ``teacher`` is something else, or ``'none'`` for a head that needs one, or the
            weight is negative.
    """

    must_agree: tuple[str, ...] = ()
    needs_teacher = False
    needs_local_views = False
    needs_own_teacher = False
    capturable = False

    def __init__(
        self,
        reads: str,
        teacher: str = 'own',
        loss_weight: float = 1.0,
        init_cfg: dict | None = None,
        target_reads: str | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if teacher not in TEACHERS:
            raise ConfigError(
                f'teacher of {type(self).__name__} must be one of {", ".join(map(repr, TEACHERS))}, '
                f'but got {teacher!r}'
            )
        if teacher == 'none' and self.needs_teacher:
            raise ConfigError(
                f"{type(self).__name__} learns from a teacher: set teacher to 'own' or 'peers'"
            )
        check_number(type(self).__name__, 'loss_weight', loss_weight, zero=True)
        self.reads = reads
        self.target_reads = target_reads or reads
        self.teacher = teacher
        self.loss_weight = loss_weight
        self.metrics: dict[str, Tensor] = {}

    def connect(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Make what depends on both ends of the edge, such as a queue of the teacher's embeddings.

        Called once, when all branches are built and no weight is initialized.

        Args:
            student (BranchNetwork): Of the branch; ``student.width(reads)`` is the channels of what
                the head reads.
            teacher (BranchNetwork, optional): Of the branch it learns from; None for
                ``teacher='none'``.

        Raises:
            ConfigError: If the ends do not fit each other.
        """

    @abstractmethod
    def loss(self, student: NetworkOutput, teacher: NetworkOutput | None, views: Views) -> Tensor:
        """Compute the weighted loss.

        Args:
            student (NetworkOutput): Of all views, the global ones first.
            teacher (NetworkOutput, optional): Of the global views, without gradient; None for
                ``teacher='none'``.
            views (Views): The views that the branch sees, and the data samples.

        Returns:
            Tensor: Scalar.
        """

    def target(
        self, student: NetworkOutput, teacher: NetworkOutput | None, views: Views
    ) -> Target | None:
        """Describe the loss as a cross-entropy over prototypes, if it is one.

        An algorithm computes all terms of one student's output that are in one pass, without the
        logits; see :meth:`BaseMultiBranch.head_losses`. Such a head has a ``student_temp`` and
        :meth:`finish`.

        Args:
            student (NetworkOutput): See :meth:`loss`.
            teacher (NetworkOutput, optional): See :meth:`loss`.
            views (Views): See :meth:`loss`.

        Returns:
            Target, optional: None, the default, if :meth:`loss` is to be called.
        """
        return None

    def finish(self, loss: Tensor, target: Target) -> Tensor:
        """Turn the cross-entropy with :meth:`target` into the weighted loss.

        Args:
            loss (Tensor): Scalar.
            target (Target): What :meth:`target` gave.

        Returns:
            Tensor: Scalar.
        """
        return loss * self.loss_weight

    def set_epoch(self, epoch: float) -> dict[str, float]:
        """Follow the run's schedules.

        Args:
            epoch (float): Counted from 0.

        Returns:
            dict[str, float]: Values to log by name. Defaults to none.
        """
        return {}
