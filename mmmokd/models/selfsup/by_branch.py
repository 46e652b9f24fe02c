# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Iterator
from functools import partial

from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor

from mmmokd.structures import Views

from ..utils import StepGraph
from .base import BaseMultiBranch


class BaseByBranch(BaseMultiBranch):
    """Base class of algorithms that can train one branch after the other.

    A branch's feature maps are freed before the next branch's are made. For this no branch's losses
    may depend on the student of another. A subclass may implement :meth:`losses_by_branch`; by
    default all teachers run, then each student, whose heads compare both.

    Attributes:
        step_graph (StepGraph, optional): Runs training steps as CUDA graphs; set by
            :class:`AccelerationHook`.

    The arguments are those of :class:`BaseMultiBranch`.
    """

    step_graph: StepGraph | None = None

    def loss(self, inputs: list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """Compute the losses of all branches: those of :meth:`losses_by_branch`, together.

        Args:
            inputs (list[Tensor]): V views, each (B, 3, H, W), the global ones first.
            data_samples (list, optional): One data sample per image. Defaults to None.

        Returns:
            dict[str, Tensor]: By ``'{branch}.loss_{term}'`` or ``'{branch}.loss_{term}.{peer}'``.
        """
        found = self.losses_by_branch(inputs, data_samples)
        return {key: loss for _, losses in found for key, loss in losses.items()}

    def losses_by_branch(
        self, inputs: list[Tensor], data_samples: list | None = None
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Compute the losses of one branch after the other, for :meth:`train_step`.

        A branch may be trained before the next one's are computed, so they must not depend on its
        student.

        Args:
            inputs (list[Tensor]): V views, each (B, 3, H, W), the global ones first.
            data_samples (list, optional): One data sample per image. Defaults to None.

        Yields:
            tuple[str, dict[str, Tensor]]: Name of a branch that learns, and its losses as in
            :meth:`loss`: of its own terms and, for each of its peers, of the terms between them with
            their weight applied.
        """
        return self.losses_of_views(self.split_views(inputs, data_samples))

    def losses_of_views(self, views: Views) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Compute the losses of one branch after the other for views.

        All teachers come first: a student depends on them, and on no other student.

        Args:
            views (Views): What students and teachers see.

        Yields:
            tuple[str, dict[str, Tensor]]: Name of a branch that learns, and its losses.
        """
        students = {
            name: branch.forward_student(views)
            for name, branch in self.branches.items()
            if branch.student_first
        }
        teachers = self.forward_teachers(views, students)
        for name, branch in self.branches.items():
            if branch.student is not None:
                # Nothing here keeps a student's output longer than its losses do.
                one = {name: students.pop(name, None) or branch.forward_student(views)}
                losses = self.head_losses(one, teachers, views)
                del one
                yield name, losses
                del losses

    def train_step(
        self, data: dict | tuple | list, optim_wrapper: OptimWrapper | OptimWrapperDict
    ) -> dict[str, Tensor]:
        """Train on a batch, one branch after the other where that is possible.

        It is possible if each branch has an optimizer of its own. A model that is wrapped, as for
        several processes, trains all branches at once.

        Args:
            data (dict | tuple | list): A batch of the data loader.
            optim_wrapper (OptimWrapper | OptimWrapperDict): Of the model, or of each branch.

        Returns:
            dict[str, Tensor]: What is logged.
        """
        if not self.trains_by_branch(optim_wrapper):
            return super().train_step(data, optim_wrapper)
        self._check_initialized()
        with optim_wrapper.optim_context(self):
            data = self.data_preprocessor(data, True)
        inputs, data_samples = data['inputs'], data.get('data_samples')
        if self.step_graph is not None:
            graph = partial(self._run_branches, optim_wrapper, learn=_backward)
            log_vars = self.step_graph(graph, inputs)
            if log_vars is not None:
                optim_wrapper.step_after_backward()  # with gradients of all branches
                return log_vars
        return self._run_branches(optim_wrapper, inputs, data_samples, learn=_update)

    def _run_branches(
        self,
        optim_wrapper: OptimWrapperDict,
        inputs: list[Tensor],
        data_samples: list | None = None,
        *,
        learn: Callable[[OptimWrapper, Tensor], None],
    ) -> dict[str, Tensor]:
        """Compute the losses of one branch after the other, and let it learn."""
        with optim_wrapper.optim_context(self):
            steps = self.losses_by_branch(inputs, data_samples)
        found: dict[str, Tensor] = {}
        while True:
            with optim_wrapper.optim_context(self):
                name, losses = next(steps, (None, None))
            if name is None:
                break
            total, _ = self.parse_losses(losses)
            found.update((key, loss.detach()) for key, loss in losses.items())
            del losses
            learn(optim_wrapper[name], total)
            del total
        return self.parse_losses(found)[1]

    def trains_by_branch(self, optim_wrapper: OptimWrapper | OptimWrapperDict) -> bool:
        """Check whether :meth:`train_step` trains one branch after the other.

        Args:
            optim_wrapper (OptimWrapper | OptimWrapperDict): See :meth:`train_step`.

        Returns:
            bool: If each branch has an optimizer of its own and :meth:`losses_by_branch` gives the
            losses of :meth:`loss`.
        """
        learning = {name for name, branch in self.branches.items() if not branch.frozen}
        if not isinstance(optim_wrapper, OptimWrapperDict) or {*optim_wrapper.keys()} != learning:
            return False

        def depth(name: str) -> int:
            return next(i for i, cls in enumerate(type(self).__mro__) if name in vars(cls))

        own = depth('losses_by_branch')
        return all(own <= depth(name) for name in ('loss', 'forward'))


def _update(wrapper: OptimWrapper, loss: Tensor) -> None:
    wrapper.update_params(loss)


def _backward(wrapper: OptimWrapper, loss: Tensor) -> None:
    """Compute gradients alone, to be captured: a replay calls nothing that counts."""
    count = wrapper._inner_count
    wrapper.backward(wrapper.scale_loss(loss))
    wrapper._inner_count = count
