# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Time of a step: by its parts, and by kinds of operators."""

import functools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from mmengine.runner import Runner

from .result import Measured, Settings, Table
from .runs import training
from .step import step_case
from .timing import synchronize

# The first that matches counts. Names of PyTorch's operators and of CUDA kernels, in lower case.
GROUPS = {
    'optimizer, EMA (foreach, fused)': r'foreach|multi_tensor|fused_(adam|sgd)|lerp_',
    'batch norm': r'batch_?norm|bn_|bnfwd|bnbwd|batchnorm',
    'layer norm': r'layer_?norm|gammabeta|rmsnorm',
    'weight norm': r'weight_norm',
    'attention': r'attention|flash|fmha|sdpa',
    'layout': r'nchwto|nhwcto|(?<!conv_)transpose|contiguous|permute',
    'convolution': r'conv(?!ert)|fprop|dgrad|wgrad|implicit_gemm|winograd|cudnn.*nhwc',
    'softmax, cross-entropy': r'softmax|logsumexp|cross_entropy|prototype',
    'matrix products': r'gemm|addmm|::mm\b|bmm|matmul|linear|cutlass|nvjet|cublas|splitk',
    'casts and copies': r'copy|_to\b|clone|memcpy|cat(array)?|cast|memset|fill|zero|convert',
    'pooling, resizing': r'pool|upsample|interpolate',
    'reductions': r'reduce|\bsum|mean|norm|amax|argmax|dot',
    'element-wise': r'elementwise|vectorized|pointwise|triton_poi|gelu|relu|add|mul|div|sub|exp|neg',
    'fused by the compiler': r'triton|cpp_fused|inductor|compiled',
}


def group_of(name: str) -> str:
    """Name the kind of an operator or kernel.

    Args:
        name (str): As the profiler has it.

    Returns:
        str: One of ``GROUPS``, or ``'other'``.
    """
    name = name.lower()
    return next((group for group, pattern in GROUPS.items() if re.search(pattern, name)), 'other')


def profile_operators(
    step: Callable[[], Any], steps: int = 1, on_gpu: bool = False
) -> tuple[dict, dict, int]:
    """Measure the time that kinds of operators take themselves.

    Args:
        step (Callable): Trains on a batch.
        steps (int): How many times. Defaults to 1.
        on_gpu (bool): Whether kernels of the GPU are measured, not operators. Defaults to False.

    Returns:
        tuple[dict[str, float], dict[str, float], int]: Milliseconds a step by kind, by operator or
        kernel, and how many of them a step has.
    """
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            step()
        synchronize()
    kinds, names, count = Counter(), Counter(), 0
    for event in profiler.key_averages():
        if on_gpu != (event.device_type == DeviceType.CUDA):
            continue
        took = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if took:
            names[event.key] += took / 1000 / steps
            kinds[group_of(event.key)] += took / 1000 / steps
            count += event.count
    return dict(kinds.most_common()), dict(names.most_common()), count // steps


class PartsTimer:
    """Takes the time of a step's parts, each without those within it.

    Args:
        runner (Runner): Of a run that has begun; its modules and hooks are wrapped until
            :meth:`restore`.
    """

    def __init__(self, runner: Runner) -> None:
        self.seconds: Counter[str] = Counter()
        self._open: list[str] = []
        self._since = 0.0
        self._restore: list[Callable[[], None]] = []
        for owner, attribute, part in _parts(runner):
            self._wrap(owner, attribute, part)

    def _wrap(self, owner: Any, attribute: str, part: str) -> None:
        function = getattr(owner, attribute)

        @functools.wraps(function)
        def timed(*args, **kwargs):
            with self.part(part):
                return function(*args, **kwargs)

        own = vars(owner).get(attribute)
        setattr(owner, attribute, timed)

        def restore() -> None:
            if own is None:
                with suppress(AttributeError):
                    delattr(owner, attribute)
            else:
                setattr(owner, attribute, own)

        self._restore.append(restore)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time within for a part, and not for the one around it.

        Args:
            name (str): The part.
        """
        self._account()
        self._open.append(name)
        try:
            yield
        finally:
            self._account()
            self._open.pop()

    def _account(self) -> None:
        synchronize()
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def restore(self) -> None:
        """Put back what was wrapped."""
        for restore in reversed(self._restore):
            restore()


def _parts(runner: Runner) -> Iterator[tuple[Any, str, str]]:
    """Functions to wrap: owner, attribute, part."""
    model, wrappers = runner.model, dict(runner.optim_wrapper.items())
    yield model, 'forward', 'forward, rest'
    yield model, 'head_losses', 'prototypes and losses'
    yield model.data_preprocessor, 'forward', 'data preprocessor'
    for name, branch in model.branches.items():
        for which in ('student', 'teacher'):
            network = getattr(branch, which)
            if network is None:
                continue
            yield network.backbone, 'forward', f'{name} {which} backbone'
            for neck in network.neck_names:
                yield getattr(network, neck), 'forward', f'{name} {which} {neck}'
        for term, _, head in branch.terms():
            yield head, 'loss', f'{name} loss {term}'
    yield torch.Tensor, 'backward', 'backward'
    for name, wrapper in wrappers.items():
        yield wrapper, '_clip_grad', f'{name} clipping'
        yield wrapper.optimizer, 'step', f'{name} optimizer'
    for hook in runner.hooks:
        for moment in ('before_train_iter', 'after_train_iter'):
            if moment in vars(type(hook)) or hasattr(hook, f'_{moment[:-11]}_iter'):
                yield hook, moment, f'hook {type(hook).__name__}'


def profile_parts(runner: Runner, step: Callable[[], Any], steps: int = 1) -> dict[str, float]:
    """Measure the parts of a step on the clock.

    Args:
        runner (Runner): Of a run that has begun.
        step (Callable): Trains on a batch.
        steps (int): How many times. Defaults to 1.

    Returns:
        dict[str, float]: Milliseconds a step by part, the longest first.
    """
    timer = PartsTimer(runner)
    try:
        for _ in range(steps):
            with timer.part('rest'):
                step()
    finally:
        timer.restore()
    return {name: 1000 * took / steps for name, took in timer.seconds.most_common()}


def profile(settings: Settings) -> Measured:
    """Profile the whole step of the goals.

    Args:
        settings (Settings): What the user asked for.

    Returns:
        Measured: Tables of parts (on a GPU with waits between them), kinds of operators, operators.
    """
    with training(step_case(settings).synthetic()) as run:
        for _ in range(1 if settings.device == 'cpu' else 5):
            run.step()
        steps = 1 if settings.quick else 2
        # Compiled modules are not to be wrapped: they would be compiled again.
        compiled = any(
            getattr(each, '_compiled_call_impl', None) for each in run.runner.model.modules()
        )
        parts = {} if compiled else profile_parts(run.runner, run.step, steps)
        kinds, names, count = profile_operators(run.step, steps, settings.device == 'cuda')
    what = 'kernel' if settings.device == 'cuda' else 'operator'
    total = sum(kinds.values())
    tables = [
        Table('Parts of a step, without those within them', ['part', 'ms'], _lines(parts)),
        Table(f'{count} {what}s, {total:.1f} ms', [f'kind of {what}', 'ms'], _lines(kinds)),
        Table('The longest of them', [what, 'ms'], _lines(names, 25)),
    ]
    return Measured([], tables[compiled:])


def _lines(milliseconds: dict[str, float], most: int = 40) -> list[list[str]]:
    """The longest, of 0.1 ms at least, as lines of a table."""
    shown = [(name, ms) for name, ms in milliseconds.items() if ms >= 0.1][:most]
    return [[name[:90].replace('|', '/'), f'{ms:.1f}'] for name, ms in shown]
