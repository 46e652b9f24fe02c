# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch
import torch.nn.functional as F
from torch import Tensor

from mmmokd.registry import MODELS
from mmmokd.structures import NetworkOutput, Views
from mmmokd.utils.errors import ConfigError

from ..losses import at_least_float32, multi_view_cross_entropy, sinkhorn_knopp
from ..utils import check_counts, check_number, gain_and_direction
from .base import BranchHead


@MODELS.register_module()
class SwAVHead(BranchHead):
    """Swapped prediction of `SwAV <https://arxiv.org/abs/2006.09882>`_ over multi-crop views.

    Every global view has a code: the assignment of its images to prototypes by Sinkhorn-Knopp, which
    gives each prototype the same share of the images of all processes
    (:func:`~mmmokd.models.losses.sinkhorn_knopp`). Every other view, global or local, predicts it:
    CE(code, softmax(s / T_s)), averaged over these pairs. The code carries no gradient. Features and
    prototypes are L2-normalized, so scores s are cosines, computed in at least float32.

    It reads a projector whose prototypes have a gain of 1 (:class:`DINOProjector` with
    ``train_gain=False``), which may be the one that L_cm reads. mmpretrain's ``SwAVLoss`` computes
    the same in one process; in several it adds up no images of the others. There is no queue of
    earlier images, which the paper uses for batches below its number of prototypes.

    Args:
        reads (str): Name of the projector. Defaults to ``'projector'``.
        teacher (str): Whose scores make the codes: ``'none'`` for the student's own, as in the paper,
            ``'own'`` for the EMA teacher's, or ``'peers'``. Defaults to ``'none'``.
        student_temp (float): Temperature T_s. Defaults to 0.1.
        epsilon (float): Weight of the entropy of Sinkhorn-Knopp. Defaults to 0.05.
        num_iters (int): Its iterations. Defaults to 3.
        loss_weight (float): Weight of the term. Defaults to 1.0.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: If a temperature, ``epsilon`` or the number of iterations is not positive; in the
            first step, if the prototypes are not normalized.

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
        loss_weight: float = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(reads, teacher, loss_weight, init_cfg)
        check_number('SwAVHead', 'student_temp', student_temp)
        check_number('SwAVHead', 'epsilon', epsilon)
        check_counts('SwAVHead', num_iters=num_iters)
        self.student_temp = student_temp
        self.epsilon = epsilon
        self.num_iters = num_iters

    def loss(self, student: NetworkOutput, teacher: NetworkOutput | None, views: Views) -> Tensor:
        """The weighted loss.

        Args:
            student (NetworkOutput): Of all views, the G global ones first.
            teacher (NetworkOutput, optional): Of the global views; None for ``teacher='none'``.
            views (Views): The views.

        Returns:
            Tensor: Scalar.

        Raises:
            ConfigError: If the projector has no prototypes, or these are not normalized.
        """
        scores = self._scores(student)
        with torch.no_grad():
            targets = scores[: len(views.globals)] if teacher is None else self._scores(teacher)
        return self(scores, targets)

    def forward(self, scores: Tensor, targets: Tensor) -> Tensor:
        """The weighted loss of scores.

        Args:
            scores (Tensor): The student's, shape (V, B, K), the G global views first.
            targets (Tensor): Scores of which the codes are made, shape (G, B, K).

        Returns:
            Tensor: Scalar.
        """
        with torch.autocast(scores.device.type, enabled=False):
            codes = sinkhorn_knopp(targets, self.epsilon, self.num_iters)
            logits = at_least_float32(scores) / self.student_temp
            return self.loss_weight * multi_view_cross_entropy(logits, codes)

    def _scores(self, output: NetworkOutput) -> Tensor:
        """Cosines of all views with the prototypes, (V, B, K)."""
        found = output.prototype_input(self.reads)
        if found is None:
            raise ConfigError(
                f'SwAVHead reads prototypes, but {type(output.neck(self.reads)).__name__} '
                f'({self.reads}) has none: let it read a DINOProjector'
            )
        features, layer = found
        gain, direction = gain_and_direction(layer)
        if gain.requires_grad:
            raise ConfigError(
                f'SwAVHead needs L2-normalized prototypes, but their gain is trained: set '
                f'{self.reads}=dict(train_gain=False) of the branch'
            )
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(at_least_float32(features), F.normalize(direction, dim=1))
