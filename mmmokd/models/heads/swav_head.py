# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch
import torch.nn.functional as F
from mmengine.dist import get_rank, get_world_size
from torch import Tensor, nn

from mmmokd.registry import MODELS
from mmmokd.structures import NetworkOutput, Views
from mmmokd.utils.errors import ConfigError

from ..losses import at_least_float32, multi_view_cross_entropy, sinkhorn_knopp
from ..utils import EmbeddingQueue, check_counts, check_number, gain_and_direction
from .base import BranchHead

QUEUED = ('first', 'second')  # global views


@MODELS.register_module()
class SwAVHead(BranchHead):
    """Swapped prediction of `SwAV <https://arxiv.org/abs/2006.09882>`_ over multi-crop views.

    Every global view has a code: the assignment of its images to prototypes by Sinkhorn-Knopp, which
    gives each prototype the same share of the images of all processes
    (:func:`~mmmokd.models.losses.sinkhorn_knopp`). Every other view, global or local, predicts it:
    CE(code, softmax(s / T_s)), averaged over these pairs. The code carries no gradient. Features and
    prototypes are L2-normalized, so scores s are cosines, computed in at least float32. They exist as
    a whole, (V, B, K): this head is for thousands of prototypes, as in the paper, not for MOKD's
    65,536.

    It reads a projector whose prototypes have a gain of 1 (:class:`DINOProjector` with
    ``train_gain=False``), which may be the one that L_cm reads. mmpretrain's ``SwAVLoss`` computes
    the same in one process; in several it adds up no images of the others.

    For batches that are small beside the number of prototypes the paper adds features of the last
    batches to those that are assigned: a queue for each of the two global views, in the state dict.
    Its rows only take part in the assignment. Before it has been filled once its rows are random, so
    it is used from a later epoch on.

    Args:
        reads (str): Name of the projector. Defaults to ``'projector'``.
        teacher (str): Whose scores make the codes: ``'none'`` for the student's own, as in the paper,
            ``'own'`` for the EMA teacher's, or ``'peers'``. Defaults to ``'none'``.
        student_temp (float): Temperature T_s. Defaults to 0.1.
        epsilon (float): Weight of the entropy of Sinkhorn-Knopp. Defaults to 0.05.
        num_iters (int): Its iterations. Defaults to 3.
        queue_length (int): Earlier features per global view, of all processes; SwAV has 3840 for
            batches of 256. Defaults to 0, no queue.
        queue_start_epoch (int): Epoch, counted from 0, from which on the queue is used. Defaults to
            15.
        loss_weight (float): Weight of the term. Defaults to 1.0.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: If a temperature, ``epsilon`` or the number of iterations is not positive, or a
            number of the queue is negative; in the first step, if the prototypes are not normalized,
            or there is a queue and not two global views.

    Example:
        >>> branch = dict(
        ...     projector=dict(num_layers=2, bottleneck_channels=128, train_gain=False),
        ...     heads=dict(sm=dict(_delete_=True, type='mmmokd.SwAVHead')))
    """

    must_agree = ('out_channels',)

    def __init__(
        self,
        reads: str = 'projector',
        teacher: str = 'none',
        student_temp: float = 0.1,
        epsilon: float = 0.05,
        num_iters: int = 3,
        queue_length: int = 0,
        queue_start_epoch: int = 15,
        loss_weight: float = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(reads, teacher, loss_weight, init_cfg)
        check_number('SwAVHead', 'student_temp', student_temp)
        check_number('SwAVHead', 'epsilon', epsilon)
        check_counts('SwAVHead', num_iters=num_iters)
        check_counts('SwAVHead', 0, queue_length=queue_length, queue_start_epoch=queue_start_epoch)
        self.student_temp = student_temp
        self.epsilon = epsilon
        self.num_iters = num_iters
        self.queue_length = queue_length
        self.queue_start_epoch = queue_start_epoch
        self.queue: EmbeddingQueue | None = None
        self.set_epoch(0)

    def connect(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Make the queue, as wide as what the prototypes take.

        Args:
            student (BranchNetwork): Of the branch.
            teacher (BranchNetwork, optional): Of the branch that it learns from.

        Raises:
            ConfigError: If the projector has no prototypes.
        """
        if self.queue_length:
            neck = getattr(student if teacher is None else teacher, self.reads)
            if not hasattr(neck, 'last_layer'):
                raise self._no_prototypes(neck)
            widths = dict.fromkeys(QUEUED, neck.last_layer.in_features)
            self.queue = EmbeddingQueue(self.queue_length, widths)

    def set_epoch(self, epoch: float) -> dict[str, float]:
        """Use the queue from its epoch on.

        Args:
            epoch (float): Counted from 0.

        Returns:
            dict[str, float]: Nothing to log.
        """
        self.uses_queue = epoch >= self.queue_start_epoch
        return {}

    def loss(self, student: NetworkOutput, teacher: NetworkOutput | None, views: Views) -> Tensor:
        """The weighted loss.

        Args:
            student (NetworkOutput): Of all views, the G global ones first.
            teacher (NetworkOutput, optional): Of the global views; None for ``teacher='none'``.
            views (Views): The views.

        Returns:
            Tensor: Scalar.

        Raises:
            ConfigError: If the projector has no prototypes, or these are not normalized, or there is a
                queue and not two global views.
        """
        num_globals = len(views.globals)
        features, prototypes = self._read(student)
        scores = _cosines(features, prototypes)
        with torch.no_grad():
            assigned, targets = features[:num_globals], scores[:num_globals]
            if teacher is not None:
                assigned, prototypes = self._read(teacher)
                targets = _cosines(assigned, prototypes)
            earlier = self._earlier(prototypes, num_globals)
        loss = self(scores, targets, earlier)
        if self.queue is not None and self.training:
            self.queue.push(**dict(zip(QUEUED, assigned.detach(), strict=True)))
        return loss

    def forward(self, scores: Tensor, targets: Tensor, earlier: Tensor | None = None) -> Tensor:
        """The weighted loss of scores.

        Args:
            scores (Tensor): The student's, shape (V, B, K), the G global views first.
            targets (Tensor): Scores of which the codes are made, shape (G, B, K).
            earlier (Tensor, optional): Scores of further images, which are assigned with them, shape
                (G, Q, K). Defaults to None.

        Returns:
            Tensor: Scalar.
        """
        with torch.autocast(scores.device.type, enabled=False):
            batch = targets.shape[1]
            if earlier is not None:
                targets = torch.cat([targets, earlier], dim=1)
            codes = sinkhorn_knopp(targets, self.epsilon, self.num_iters)[:, :batch]
            logits = at_least_float32(scores) / self.student_temp
            return self.loss_weight * multi_view_cross_entropy(logits, codes)

    def _earlier(self, prototypes: Tensor, num_globals: int) -> Tensor | None:
        """Scores of this process's share of the queues, of which all processes have the same rows."""
        if self.queue is None:
            return None
        if num_globals != len(QUEUED):
            raise ConfigError(
                f'the queue of SwAVHead is for {len(QUEUED)} global views, but num_global_views is '
                f'{num_globals}: set queue_length=0'
            )
        if not self.uses_queue:
            return None
        rows = torch.stack([self.queue[name] for name in QUEUED])  # (G, Q, D)
        return _cosines(rows[:, get_rank() :: get_world_size()], prototypes)

    def _no_prototypes(self, neck: nn.Module) -> ConfigError:
        return ConfigError(
            f'SwAVHead reads prototypes, but {type(neck).__name__} ({self.reads}) has none: let it '
            'read a DINOProjector'
        )

    def _read(self, output: NetworkOutput) -> tuple[Tensor, Tensor]:
        """Features of all views, (V, B, D), and normalized prototypes, (K, D)."""
        found = output.prototype_input(self.reads)
        if found is None:
            raise self._no_prototypes(output.neck(self.reads))
        gain, direction = gain_and_direction(found.layer)
        if gain.requires_grad:
            raise ConfigError(
                f'SwAVHead needs L2-normalized prototypes, but their gain is trained: set '
                f'{self.reads}=dict(train_gain=False) of the branch'
            )
        return found.features, F.normalize(direction, dim=1)


def _cosines(features: Tensor, prototypes: Tensor) -> Tensor:
    """Of normalized features and prototypes, (..., K), also in mixed precision not rounded."""
    with torch.autocast(features.device.type, enabled=False):
        return F.linear(at_least_float32(features).to(prototypes.dtype), prototypes)
