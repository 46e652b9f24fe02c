# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Whole steps: against the bare backbones, in bfloat16, and their memory."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from mmengine.config import Config

from .bare import BareBackbones
from .children import run_child
from .memory import PeakMemory, peak_rss
from .result import Measured, NotMeasuredError, Result, Settings, Table, number
from .runs import Case, Training, training
from .timing import alternate

PAPER = 'mokd/mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'
ACCELERATION = 'default_hooks.acceleration'
AUTHORS_GB = 6.2  # resident memory of the authors' code, the case of the CPU
FLOAT32 = {'optim_wrapper.type': 'OptimWrapper'}
BFLOAT16 = {'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.dtype': 'bfloat16'}
SMALL = {
    'model.branches.cnn.backbone.depth': 18,
    'model.branches.vit.backbone.arch': 'deit-tiny',
    'model.neck_defaults.embed_dims': 192,
}
NO_BENCHMARK = {'env_cfg.cudnn_benchmark': False}  # which tries algorithms for half a minute
QUICK = {
    'model.global_size': 64,
    'model.neck_defaults': dict(
        out_channels=16, embed_dims=24, hid_channels=32, bottleneck_channels=16
    ),
    'model.branches.cnn.backbone.depth': 18,
    'model.branches.cnn.backbone.stem_channels': 8,
    'model.branches.cnn.backbone.base_channels': 8,
    'model.branches.vit.backbone.img_size': 64,
    'model.branches.vit.backbone.arch._delete_': True,
    'model.branches.vit.backbone.arch': dict(
        embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48
    ),
}


def step_case(settings: Settings) -> Case:
    """The case of the goals, on the CPU or on a GPU.

    Args:
        settings (Settings): What the user asked for.

    Returns:
        Case: ResNet-18 and ViT-Ti in float32 with 8 images, or ResNet-50 and ViT-S in bfloat16 with
        64.
    """
    on_gpu = settings.device == 'cuda'
    options = {**(BFLOAT16 if on_gpu else {**FLOAT32, **SMALL}), **NO_BENCHMARK}
    if settings.quick:
        options = {**options, **QUICK}
        return Case(PAPER, {**options, **settings.options}, 2, (64, 32), 2)
    return Case(PAPER, {**options, **settings.options}, 64 if on_gpu else 8)


def bare_backbones(case: Case, cfg: Config, device: str) -> BareBackbones:
    """The baseline of a step: in bfloat16 and channels_last on a GPU, plain on the CPU.

    Args:
        case (Case): For the sizes of the views.
        cfg (Config): Config of the training.
        device (str): ``'cpu'`` or ``'cuda'``.

    Returns:
        BareBackbones: To be called once a step.
    """
    views = [torch.randn(case.batch, 3, size, size, device=device) for size in case.sizes]
    on_gpu = device == 'cuda'
    return BareBackbones(cfg, views, torch.bfloat16 if on_gpu else None, channels_last=on_gpu)


def step(settings: Settings) -> Measured:
    """Whole steps against the bare backbones' passes in the same run.

    Args:
        settings (Settings): What the user asked for.

    Returns:
        Measured: Seconds on the CPU; milliseconds, images per second and GiB on a GPU.
    """
    case = step_case(settings)
    if settings.device == 'cuda':
        return step_variants(case, settings)
    cfg = case.synthetic()
    with training(cfg) as run:
        sides = dict(ours=run.step, bare=bare_backbones(case, cfg, 'cpu'))
        seconds = alternate(sides, settings.rounds)
    what = f'whole step, {describe(case)}, float32'
    result = Result('step', what, 's', seconds['ours'], seconds['bare'], 'bare backbones', 1.25)
    return Measured([result])


def describe(case: Case) -> str:
    """Name a case's models and sizes.

    Args:
        case (Case): The case.

    Returns:
        str: Backbones, batch, crops.
    """
    names = []
    for branch in case.load().model.branches.values():
        backbone = branch.backbone
        size = backbone.get('depth', backbone.get('arch', ''))
        names.append(
            f'{backbone.type.split(".")[-1]} {size if isinstance(size, int | str) else ""}'
        )
    globals_, local = case.sizes[:2], case.sizes[2:]
    crops = f'{len(globals_)} x {globals_[0]}' + (f' + {len(local)} x {local[0]}' if local else '')
    return f'{" + ".join(map(str.strip, names))}, batch {case.batch}, {crops}'


def step_variants(case: Case, settings: Settings) -> Measured:
    """Ours as configured, and without each switch of acceleration, in turn with the baseline.

    Args:
        case (Case): The case of the goals.
        settings (Settings): What the user asked for.

    Returns:
        Measured: Time and memory as configured, and a table of all variants.
    """
    switches = [
        key for key in ('channels_last', 'cuda_graphs', 'compile') if acceleration_of(case).get(key)
    ]
    variants = {f'without {key}': {f'{ACCELERATION}.{key}': False} for key in switches}
    found = {'as configured': _measure_variant(case, settings)}
    for name, options in variants.items():
        found[name] = _measure_variant(case, settings, options)
    with PeakMemory(settings.device, total=True) as memory:
        bare_backbones(case, case.synthetic(), settings.device)()
    first = found['as configured']
    bare = Variant(first.bare, first.bare, memory.bytes)
    rows = [
        [name, number(1000 * each.seconds), number(case.batch / each.seconds), each.gib]
        for name, each in {**found, 'bare backbones, eager': bare}.items()
    ]
    table = Table('Whole step', ['variant', 'ms', 'images/s', 'peak GiB'], rows)
    return Measured(_gpu_results('step', case, first, bare.peak), [table])


class Variant(NamedTuple):
    """A measured variant of the step on a GPU.

    Attributes:
        seconds (float): Of a step.
        bare (float): Of the bare backbones' passes beside it.
        peak (int): Peak memory in bytes.
    """

    seconds: float
    bare: float
    peak: int

    @property
    def gib(self) -> str:
        """str: Peak memory in GiB."""
        return number(self.peak / 2**30)


def _measure_variant(
    case: Case, settings: Settings, options: Mapping[str, Any] | None = None
) -> Variant:
    """Measure memory alone, then time in turn with the baseline."""
    cfg = case.synthetic(options)
    with training(cfg) as run:
        with PeakMemory(settings.device, total=True) as memory:
            _warm_up(run)
        sides = dict(ours=run.step, bare=bare_backbones(case, cfg, settings.device))
        seconds = alternate(sides, settings.rounds, calls=1 if settings.quick else 3)
    return Variant(seconds['ours'], seconds['bare'], memory.bytes)


def _gpu_results(row: str, case: Case, ours: Variant, bare_peak: int | None) -> list[Result]:
    """Time and memory of a variant, with the goals."""
    what = f'whole step, {describe(case)}, bfloat16'
    peaks = [peak / 2**30 if peak else None for peak in (ours.peak, bare_peak)]
    against = 'bare backbones'
    seconds = 1000 * ours.seconds, 1000 * ours.bare
    return [
        Result(row, what, 'ms', *seconds, against, 120, absolute=True),
        Result(row, 'its peak memory', 'GiB', *peaks, against, 14, absolute=True),
    ]


def compiled(settings: Settings) -> Measured:
    """The whole step with compiled backbones and necks, which takes a while to begin.

    Args:
        settings (Settings): What the user asked for.

    Returns:
        Measured: As :func:`step` on a GPU.
    """
    case = step_case(settings)
    options = {} if acceleration_of(case).get('compile') else {f'{ACCELERATION}.compile': True}
    variant = _measure_variant(case, settings, options)
    return Measured(_gpu_results('compiled', case, variant, None))


def acceleration_of(case: Case) -> Mapping[str, Any]:
    """Look up the switches of acceleration.

    Args:
        case (Case): A case.

    Returns:
        dict[str, Any]: Config of the hook; empty without it.
    """
    return case.load().default_hooks.get('acceleration') or {}


def _warm_up(run: Training, steps: int = 5) -> None:
    for _ in range(steps):
        run.step()


def step_memory(settings: Settings) -> Measured:
    """Peak resident memory of our step, in a process of its own.

    Args:
        settings (Settings): What the user asked for.

    Returns:
        Measured: GB (of 1e9 bytes, as the authors' were measured).
    """
    peak = run_child('speed.step', 'measure_memory', settings)
    what = f'peak resident memory of a step, {describe(step_case(settings))}'
    return Measured(
        [Result('step_memory', what, 'GB', peak / 1e9, AUTHORS_GB, "authors', quoted", 0.45)]
    )


def measure_memory(settings: Settings) -> int:
    """Train three steps and nothing else.

    Args:
        settings (Settings): What the user asked for.

    Returns:
        int: Peak resident memory of this process in bytes.
    """
    with training(step_case(settings).synthetic()) as run:
        _warm_up(run)
        return peak_rss()


def bf16(settings: Settings) -> Measured:
    """Our step in bfloat16 against our step in float32, on the CPU.

    Args:
        settings (Settings): What the user asked for.

    Returns:
        Measured: Images per second.

    Raises:
        NotMeasuredError: If this CPU has no instructions for it, or the build trains in float32.
    """
    if not settings.quick and not _has_bf16():
        raise NotMeasuredError('this CPU has neither AVX512-BF16 nor AMX')
    case = step_case(settings)
    half = case.synthetic(BFLOAT16)
    with training(case.synthetic()) as plain, training(half) as fast:
        if getattr(next(iter(fast.runner.optim_wrapper.values())), 'cast_dtype', None) is None:
            raise NotMeasuredError('AmpOptimWrapper trains in float32 on the CPU')
        seconds = alternate(dict(ours=fast.step, float32=plain.step), max(3, settings.rounds - 2))
    ours, theirs = case.batch / seconds['ours'], case.batch / seconds['float32']
    what = f'whole step in bfloat16, {describe(case)}'
    return Measured([Result('bf16', what, 'images/s', ours, theirs, 'float32', 1.6, at_least=True)])


def _has_bf16() -> bool:
    """Check whether the CPU multiplies matrices of bfloat16 faster."""
    checks = ('_is_avx512_bf16_supported', '_is_amx_tile_supported')
    return any(getattr(torch.cpu, check, bool)() for check in checks)
