# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Training steps as CUDA graphs.

A step of small models is thousands of kernels, each over before the host has launched the next. A
CUDA graph is launched as a whole: the device never waits for the host.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mmmokd.utils.errors import ConfigError

T = TypeVar('T', bound=Callable)
# Functions to call after each replay of the step that is being captured; None: no capture.
_after_replay: list[Callable[[], None]] | None = None


def capturable(hook: T) -> T:
    """Mark a forward hook as one that a CUDA graph can hold.

    Such a hook does nothing but compute tensors on the device; what else is to be done with them, in
    every step, it gives to :func:`when_computed`. Steps with other hooks are not captured.

    Args:
        hook (Callable): For ``register_forward_hook`` or ``register_forward_pre_hook``.

    Returns:
        Callable: The hook.
    """
    hook.capturable = True
    return hook


def when_computed(function: Callable[[], None]) -> None:
    """Call a function now, or, of a step that is captured, after each of its replays.

    Args:
        function (Callable[[], None]): It may keep tensors of the step, to which the next replay
            writes.
    """
    if _after_replay is None:
        function()
    else:
        _after_replay.append(function)


class StepGraph:
    """Captures training steps as CUDA graphs, and replays them.

    A step is captured once for each of: the shapes of the inputs; the numbers of the heads, such as
    temperatures, which become part of the graph; and the forward hooks that are registered. The
    first steps, and those with hooks that are not :func:`capturable`, run as usual. Graphs share
    their memory.

    Args:
        model (nn.Module): An algorithm with ``heads_by_name``.
        warm_up (int): Steps before the first capture, in which libraries choose their algorithms.
            Defaults to 3.
    """

    MAX_GRAPHS = 4

    def __init__(self, model: nn.Module, warm_up: int = 3) -> None:
        self.model = model
        self.warm_up = warm_up
        self._steps = 0
        self._numbers: Hashable = None
        self._graphs: dict[Hashable, _Captured] = {}
        self._pool = None
        self._modules = list(model.named_modules())

    def __call__(
        self, step: Callable[[list[Tensor]], dict[str, Tensor]], inputs: Sequence[Tensor]
    ) -> dict[str, Tensor] | None:
        """Run a step as a graph: forward and backward passes.

        Args:
            step (Callable[[list[Tensor]], dict[str, Tensor]]): Computes what is logged, and the
                gradients.
            inputs (Sequence[Tensor]): Its inputs, on the GPU.

        Returns:
            dict[str, Tensor] | None: What the step gave, as tensors that the next replay
            overwrites; gradients are in ``grad`` of the parameters. None if this step is to be run as
            usual.
        """
        self._steps += 1
        hooks = list(self._hooks())
        if self._steps <= self.warm_up or not all(
            getattr(hook, 'capturable', False) for _, hook in hooks
        ):
            return None
        numbers = tuple(self._head_numbers())
        if numbers != self._numbers:
            self._graphs.clear()
            self._pool = None  # is gone with its last graph
            self._numbers = numbers
        key = (
            tuple((tuple(each.shape), each.dtype, each.stride()) for each in inputs),
            tuple(name for name, _ in hooks),
        )
        captured = self._graphs.pop(key, None)
        if captured is None:
            while len(self._graphs) >= self.MAX_GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            captured = _Captured(step, inputs, self.model, self._pool)
        self._graphs[key] = captured  # the latest at the end
        return captured.replay(inputs)

    def _hooks(self) -> Iterator[tuple[str, Callable]]:
        """Forward hooks of all modules, each with its module's name."""
        for name, module in self._modules:
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for hook in hooks.values():
                    yield name, hook

    def _head_numbers(self) -> Iterator[tuple]:
        """Numbers that the heads compute with."""
        for _, _, _, head in self.model.heads_by_name():
            for module in head.modules():
                own = vars(module).items()
                yield tuple((k, v) for k, v in own if isinstance(v, int | float | str))


class _Captured:
    """One step as a graph, with all tensors that it reads and writes."""

    def __init__(
        self, step: Callable, inputs: Sequence[Tensor], model: nn.Module, pool: Any
    ) -> None:
        global _after_replay
        self.inputs = [torch.empty_like(each) for each in inputs]
        params = [param for param in model.parameters() if param.requires_grad]
        for param in params:
            param.grad = None  # or the graph would add to it
        self.graph = torch.cuda.CUDAGraph()
        self.after_replay: list[Callable[[], None]] = []
        _after_replay = self.after_replay
        try:
            # Of this thread alone: another one pins the memory of batches meanwhile.
            with torch.cuda.graph(self.graph, pool=pool, capture_error_mode='thread_local'):
                self.found = step(self.inputs)
        except RuntimeError as error:
            raise ConfigError(
                'a training step cannot be captured as a CUDA graph: set '
                f'default_hooks.acceleration.cuda_graphs=False ({error})'
            ) from error
        finally:
            _after_replay = None
        self.grads = [(param, param.grad) for param in params if param.grad is not None]

    def replay(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        torch._foreach_copy_(self.inputs, list(inputs))
        self.graph.replay()
        for param, grad in self.grads:
            param.grad = grad
        for function in self.after_replay:
            function()
        return dict(self.found)
