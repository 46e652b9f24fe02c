# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

from mmmokd.utils.errors import ConfigError

from .wrappers import accumulative_counts, step_count


class BranchOptimWrapperDict(OptimWrapperDict):
    """One optimizer wrapper per branch, driven as one by mmengine's train step.

    Branches share no parameter, so one backward pass of the sum of their losses gives each its own
    gradients; then every wrapper unscales, clips and steps for itself. Gradient accumulation
    and the autocast context are common to all. Under mixed precision each branch's loss is scaled
    by its own gradient scaler, so an overflow in one skips only that one's step.

    Args:
        **optim_wrappers (OptimWrapper): Wrapper of each branch.

    Raises:
        ConfigError: If there is none, or they differ in type, autocast dtype or accumulation.
    """

    def __init__(self, **optim_wrappers: OptimWrapper) -> None:
        super().__init__(**optim_wrappers)
        common = {
            (type(w), getattr(w, 'cast_dtype', None), accumulative_counts(w)) for w in self.values()
        }
        if len(common) != 1:
            raise ConfigError(
                'the optimizer wrappers of all branches need the same type, autocast dtype and '
                f'accumulative_counts, but got {sorted(map(str, common))}'
            )

    @property
    def _first(self) -> OptimWrapper:
        return next(iter(self.values()))

    @property
    def inner_count(self) -> int:
        """int: Micro-batches seen."""
        return self._first.inner_count

    @property
    def accumulative_counts(self) -> int:
        """int: Micro-batches of an optimizer step."""
        return accumulative_counts(self)

    @property
    def step_count(self) -> int:
        """int: Optimizer steps, that of the last micro-batch included."""
        return step_count(self)

    @property
    def _accumulative_counts(self) -> int:  # mmengine's name, which its strategies read
        return accumulative_counts(self)

    def should_update(self) -> bool:
        """Check whether the last micro-batch completed an optimizer step."""
        return self._first.should_update()

    def should_sync(self) -> bool:
        """Check whether the next micro-batch's gradients are to be synchronized between processes."""
        return self._first.should_sync()

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Tell every wrapper where the run begins and ends, in micro-batches."""
        for wrapper in self.values():
            wrapper.initialize_count_status(model, init_counts, max_counts)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Context of the forward pass: autocast, and no synchronization while accumulating."""
        with self._first.optim_context(model):
            yield

    def update_params(
        self,
        loss: Tensor,
        step_kwargs: dict | None = None,
        zero_kwargs: dict | None = None,
    ) -> None:
        """One backward pass, and an optimizer step of every branch when one is due.

        Args:
            loss (Tensor): Sum of all losses. Under mixed precision with more than one branch it
                must carry ``branch_losses``, a dict of each branch's own sum, as
                :meth:`MOKD.parse_losses` gives it.
            step_kwargs (dict, optional): For the optimizers' step. Defaults to None.
            zero_kwargs (dict, optional): For ``zero_grad``. Defaults to None.

        Raises:
            ConfigError: If branches' losses are needed and missing, or are of other branches.
        """
        self._scale(loss).backward()
        self.step_after_backward(step_kwargs, zero_kwargs)

    def step_after_backward(
        self, step_kwargs: dict | None = None, zero_kwargs: dict | None = None
    ) -> None:
        """An optimizer step of every branch, when one is due, by the gradients of its parameters.

        Args:
            step_kwargs (dict, optional): For the optimizers' step. Defaults to None.
            zero_kwargs (dict, optional): For ``zero_grad``. Defaults to None.
        """
        for wrapper in self.values():
            wrapper._inner_count += 1
            if wrapper.should_update():
                wrapper.step(**(step_kwargs or {}))
                wrapper.zero_grad(**(zero_kwargs or {}))

    def _scale(self, loss: Tensor) -> Tensor:
        if not isinstance(self._first, AmpOptimWrapper):
            return self._first.scale_loss(loss)
        branch_losses = getattr(loss, 'branch_losses', None)
        if branch_losses is None and len(self) == 1:
            branch_losses = dict.fromkeys(self.keys(), loss)
        if branch_losses is None or set(branch_losses) != set(self.keys()):
            found = 'none' if branch_losses is None else f'those of {sorted(branch_losses)}'
            raise ConfigError(
                f'mixed precision scales the losses of {sorted(self.keys())} one by one and needs '
                f'them as `loss.branch_losses`, but got {found}'
            )
        return sum(
            wrapper.loss_scaler.scale(wrapper.scale_loss(branch_losses[name]))
            for name, wrapper in self.items()
        )
