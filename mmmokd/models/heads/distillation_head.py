# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from torch import Tensor

from mmmokd.registry import MODELS
from mmmokd.structures import NetworkOutput, Views
from mmmokd.utils.errors import ConfigError
from mmmokd.utils.schedules import teacher_temp_at

from ..losses import (
    Target,
    at_least_float32,
    multi_view_cross_entropy,
    prototype_cross_entropies,
    soft_cross_entropy,
    teacher_probabilities,
)
from ..utils import check_counts, check_number, mean_logits
from .base import BranchHead


class BaseDistillationHead(BranchHead):
    """Temperatures of one distillation term.

    Args:
        reads (str): See :class:`BranchHead`.
        teacher (str): See :class:`BranchHead`. Defaults to ``'own'``.
        student_temp (float): Temperature T_s of the student. Defaults to 0.1.
        teacher_temp (float): Temperature T_t of the teacher after its warm-up. Defaults to 0.07.
        warmup_teacher_temp (float): T_t in epoch 0. Defaults to 0.04.
        warmup_teacher_temp_epochs (int): Epochs of the linear warm-up of T_t. Defaults to 30.
        loss_weight (float): Weight of the term. Defaults to 1.0.
        warmup_weight_epochs (int): Epochs over which the weight rises linearly from 0: a term that
            learns from a peer may wait until the peer has learned something. Defaults to 0.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: If a temperature is not positive or a count or weight is negative.
    """

    needs_teacher = True
    capturable = True

    def __init__(
        self,
        reads: str,
        teacher: str = 'own',
        student_temp: float = 0.1,
        teacher_temp: float = 0.07,
        warmup_teacher_temp: float = 0.04,
        warmup_teacher_temp_epochs: int = 30,
        loss_weight: float = 1.0,
        warmup_weight_epochs: int = 0,
        init_cfg: dict | None = None,
    ) -> None:
        check_number('a distillation head', 'loss_weight', loss_weight, zero=True)
        super().__init__(reads, teacher, loss_weight, init_cfg)
        for name, value in dict(
            student_temp=student_temp,
            teacher_temp=teacher_temp,
            warmup_teacher_temp=warmup_teacher_temp,
        ).items():
            check_number('a distillation head', name, value)
        for name, value in dict(
            warmup_teacher_temp_epochs=warmup_teacher_temp_epochs,
            warmup_weight_epochs=warmup_weight_epochs,
        ).items():
            check_number('a distillation head', name, value, zero=True)
        self.final_loss_weight = loss_weight
        self.warmup_weight_epochs = warmup_weight_epochs
        self.student_temp = student_temp
        self.final_teacher_temp = teacher_temp
        self.warmup_teacher_temp = warmup_teacher_temp
        self.warmup_teacher_temp_epochs = warmup_teacher_temp_epochs
        self.set_epoch(0)

    def set_epoch(self, epoch: float) -> dict[str, float]:
        """Set ``teacher_temp`` and ``loss_weight`` to those of an epoch.

        They are derived from the epoch and are not part of the state.

        Args:
            epoch (float): Counted from 0.

        Returns:
            dict[str, float]: ``teacher_temp``, and ``loss_weight`` if it has a warm-up.
        """
        self.teacher_temp = teacher_temp_at(
            epoch,
            self.warmup_teacher_temp,
            self.final_teacher_temp,
            self.warmup_teacher_temp_epochs,
        )
        if not self.warmup_weight_epochs:
            return dict(teacher_temp=self.teacher_temp)
        self.loss_weight = self.final_loss_weight * min(1.0, epoch / self.warmup_weight_epochs)
        return dict(teacher_temp=self.teacher_temp, loss_weight=self.loss_weight)

    def target(self, student: NetworkOutput, teacher: NetworkOutput, views: Views) -> Target | None:
        """Describe the loss as a cross-entropy over prototypes.

        Args:
            student (NetworkOutput): Of all views.
            teacher (NetworkOutput): Of the global views.
            views (Views): The views.

        Returns:
            Target, optional: None if a neck has no prototype layer, or a subclass computes the loss
            in another way.
        """
        ends = (student, teacher)
        if self._is_plain() and all(end.prototype_layer(self.reads) for end in ends):
            return self._target(student, teacher, views)
        return None

    def _is_plain(self) -> bool:
        """Check that no subclass changes the loss of logits, of which :meth:`target` would not know."""
        owner = next(cls for cls in type(self).__mro__ if '_target' in vars(cls))
        return all(
            getattr(type(self), name) is getattr(owner, name)
            for name in ('forward', 'loss', 'targets', 'update_center')
            if hasattr(owner, name)
        )

    def _target(self, student: NetworkOutput, teacher: NetworkOutput, views: Views) -> Target:
        raise NotImplementedError(f'{type(self).__name__} has a loss of its own')

    def loss(self, student: NetworkOutput, teacher: NetworkOutput, views: Views) -> Tensor:
        """Compute the weighted loss of this term alone.

        Args:
            student (NetworkOutput): Of all views.
            teacher (NetworkOutput): Of the global views.
            views (Views): The views.

        Returns:
            Tensor: Scalar.
        """
        target = self.target(student, teacher, views)
        if target is None:
            return self._loss_of_logits(student, teacher, views)
        features, layer = student.prototype_input(self.reads)
        (loss,) = prototype_cross_entropies(features, layer, self.student_temp, [target])
        return self.finish(loss, target)

    def _loss_of_logits(
        self, student: NetworkOutput, teacher: NetworkOutput, views: Views
    ) -> Tensor:
        raise NotImplementedError(f'{type(self).__name__} has no loss')


@MODELS.register_module()
class DistillationHead(BaseDistillationHead):
    """A centered distillation term over views: L_sm, L_st or L_cm of MOKD, and DINO's loss.

    CE(softmax((t - c) / T_t), log-softmax(s / T_s)), averaged over all pairs of a view that the
    teacher saw and another view of the student. After the loss the center moves:
    c <- m c + (1 - m) mean(t), the mean over the teacher's outputs of all processes and, under
    gradient accumulation, of all micro-batches of the optimizer step.

    Args:
        out_channels (int): Number K of prototypes. A branch gives its neck's where the config of the
            head has none.
        reads (str): See :class:`BranchHead`. Defaults to ``'projector'``.
        teacher (str): See :class:`BranchHead`. Defaults to ``'own'``.
        center_momentum (float): Momentum m of the center, in [0, 1]. Defaults to 0.9.
        student_temp (float): Temperature T_s of the student. Defaults to 0.1.
        teacher_temp (float): Temperature T_t of the teacher after its warm-up. Defaults to 0.07.
        warmup_teacher_temp (float): T_t in epoch 0. Defaults to 0.04.
        warmup_teacher_temp_epochs (int): Epochs of the linear warm-up of T_t. Defaults to 30.
        loss_weight (float): Weight of the term. Defaults to 1.0.
        warmup_weight_epochs (int): Epochs over which the weight rises linearly from 0: a term that
            learns from a peer may wait until the peer has learned something. Defaults to 0.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: If a temperature is not positive, a count or weight is negative, or
            ``center_momentum`` is not in [0, 1].

    Example:
        >>> head = DistillationHead(out_channels=1024)
        >>> student, teacher = torch.rand(10, 4, 1024), torch.rand(2, 4, 1024)
        >>> loss = head(student, teacher)
    """

    must_agree = ('out_channels',)

    def __init__(
        self,
        out_channels: int,
        reads: str = 'projector',
        teacher: str = 'own',
        center_momentum: float = 0.9,
        student_temp: float = 0.1,
        teacher_temp: float = 0.07,
        warmup_teacher_temp: float = 0.04,
        warmup_teacher_temp_epochs: int = 30,
        loss_weight: float = 1.0,
        warmup_weight_epochs: int = 0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            reads,
            teacher,
            student_temp,
            teacher_temp,
            warmup_teacher_temp,
            warmup_teacher_temp_epochs,
            loss_weight,
            warmup_weight_epochs,
            init_cfg,
        )
        check_counts('a distillation head', out_channels=out_channels)
        check_number('a distillation head', 'center_momentum', center_momentum, zero=True)
        if not 0 <= center_momentum <= 1:
            raise ConfigError(f'center_momentum must be in [0, 1], but got {center_momentum}')
        self.center_momentum = center_momentum
        self.register_buffer('center', torch.zeros(1, out_channels))
        # Set by HeadScheduleHook: whether further micro-batches belong to the optimizer step.
        self.accumulating = False
        # Of the micro-batches of a step that is not complete. Not in the state_dict, as gradients are
        # not: a run that is resumed within a step begins the step again (see AccumulatedLRHook).
        self._pending: list[Tensor] = []

    def targets(self, teacher: Tensor) -> Tensor:
        """Probabilities that the student is to match.

        Args:
            teacher (Tensor): Logits, shape (..., K).

        Returns:
            Tensor: Shape (..., K).
        """
        return teacher_probabilities(teacher, self.teacher_temp, self.center)

    @torch.no_grad()
    def update_center(self, teacher: Tensor) -> None:
        """Move the center towards the mean of the teacher's outputs.

        While ``accumulating`` the outputs are kept, until the last micro-batch moves the center.

        Args:
            teacher (Tensor): Logits, shape (G, B, K).
        """
        self._move_center(at_least_float32(teacher).mean(dim=(0, 1)))

    @torch.no_grad()
    def _move_center(self, mean: Tensor) -> None:
        self._pending.append(mean)
        if self.accumulating:
            return
        batch_center = torch.stack(self._pending).mean(dim=0, keepdim=True)  # (1, K)
        self._pending.clear()
        all_reduce(batch_center, op='mean')
        self.center.mul_(self.center_momentum).add_(batch_center, alpha=1 - self.center_momentum)

    def _loss_of_logits(
        self, student: NetworkOutput, teacher: NetworkOutput, views: Views
    ) -> Tensor:
        return self(student[self.reads], teacher[self.reads])

    def _target(self, student: NetworkOutput, teacher: NetworkOutput, views: Views) -> Target:
        features, layer = teacher.prototype_input(self.reads)
        num_globals, num_views = len(views.globals), len(views.globals) + len(views.locals)
        pairs = 1 - torch.eye(num_views, num_globals, device=features.device)
        pairs /= num_globals * (num_views - 1) * student.batch
        return Target(features, layer, self.teacher_temp, pairs, self.center)

    def finish(self, loss: Tensor, target: Target) -> Tensor:
        """Weigh the loss; in training mode the center moves after it.

        Args:
            loss (Tensor): Scalar.
            target (Target): Of :meth:`target`.

        Returns:
            Tensor: Scalar.
        """
        if self.training:
            self._move_center(mean_logits(target.features, target.layer))
        return super().finish(loss, target)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The weighted loss; in training mode the center moves after it.

        Args:
            student (Tensor): Logits of all views, shape (V, B, K), the teacher's views first.
            teacher (Tensor): Logits of the teacher's views, shape (G, B, K), without gradient.

        Returns:
            Tensor: Scalar.
        """
        with torch.autocast(student.device.type, enabled=False):
            logits = at_least_float32(student) / self.student_temp
            loss = multi_view_cross_entropy(logits, self.targets(teacher))
        if self.training:
            self.update_center(teacher)
        return loss * self.loss_weight


@MODELS.register_module()
class SearchDistillationHead(BaseDistillationHead):
    """The cross-search term L_ct of MOKD: each local view against its own searched target.

    The student's feature of a local view queries the teacher's search head, which looks for it in
    the map of the first global view. CE(softmax(t / T_t), log-softmax(s / T_s)), averaged over
    local views and images, without a center.

    Args:
        reads (str): Name of the search head, see :class:`BranchHead`. Defaults to
            ``'search_head'``.
        teacher (str): See :class:`BranchHead`. Defaults to ``'peers'``.
        **kwargs: Temperatures and weight: see :class:`BaseDistillationHead`.

    Raises:
        ConfigError: If a temperature is not positive or a count or weight is negative.
    """

    must_agree = ('out_channels', 'embed_dims')
    needs_local_views = True

    def __init__(self, reads: str = 'search_head', teacher: str = 'peers', **kwargs) -> None:
        super().__init__(reads, teacher, **kwargs)

    def _loss_of_logits(
        self, student: NetworkOutput, teacher: NetworkOutput, views: Views
    ) -> Tensor:
        searched = self._search(student, teacher, views, 'logits')
        return self(student[self.reads][len(views.globals) :], searched)

    @torch.no_grad()
    def _search(
        self, student: NetworkOutput, teacher: NetworkOutput, views: Views, mode: str
    ) -> Tensor:
        num_globals, batch = len(views.globals), student.batch
        query = student.once(
            f'{self.reads}.query',
            lambda: student.neck(self.reads)(
                student['pooled'][num_globals:].flatten(0, 1), mode='query'
            ),
        )  # (L * B, D)
        first_map = teacher.embedded(self.reads)[0][:batch]  # (B, N, D)
        found = teacher.neck(self.reads)(first_map, query, mode=mode)  # (L * B, K or D)
        return found.unflatten(0, (-1, batch))

    def _target(self, student: NetworkOutput, teacher: NetworkOutput, views: Views) -> Target:
        features = self._search(student, teacher, views, 'features')
        num_globals, num_locals = len(views.globals), len(views.locals)
        pairs = torch.eye(num_globals + num_locals, device=features.device)[:, num_globals:]
        pairs = pairs / (num_locals * student.batch)
        layer = teacher.prototype_layer(self.reads)
        return Target(features, layer, self.teacher_temp, pairs)

    def forward(self, student: Tensor, searched: Tensor) -> Tensor:
        """The weighted loss.

        Args:
            student (Tensor): Logits, shape (L, B, K).
            searched (Tensor): Logits of the teacher's search head, shape (L, B, K), without
                gradient.

        Returns:
            Tensor: Scalar.
        """
        with torch.autocast(student.device.type, enabled=False):
            log_probs = F.log_softmax(at_least_float32(student) / self.student_temp, dim=-1)
            targets = teacher_probabilities(searched, self.teacher_temp)
            loss = soft_cross_entropy(log_probs.flatten(0, 1), targets.flatten(0, 1))
        return loss * self.loss_weight
