# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Whole steps: against the bare backbones, in bfloat16, and their memory."""

from typing import Any

import torch
from mmengine.config import Config

from .bare import BareBackbones
from .children import run_child
from .memory import PeakMemory, peak_rss
from .result import Measured, NotMeasuredError, Result, Settings, Table, number
from .runs import Case, Training, training
from .timing import alternate

PAPER = 'mokd/mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'
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
        return _step_on_gpu(case, settings)
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


def _step_on_gpu(case: Case, settings: Settings) -> Measured:
    """Variants of our step in turn with the baseline; the first, as configured, has the goals."""
    rows, first = [], None
    for name, options in gpu_variants(case).items():
        cfg = case.synthetic(options)
        with training(cfg) as run:
            with PeakMemory('cuda', total=True) as memory:
                _warm_up(run)
            peak = memory.bytes / 2**30
            sides = dict(ours=run.step, bare=bare_backbones(case, cfg, 'cuda'))
            seconds = alternate(sides, settings.rounds, calls=1 if settings.quick else 3)
        del sides, run
        rows.append([name, *_cells(seconds['ours'], case.batch), number(peak)])
        first = first or (seconds, peak)
    seconds, peak = first
    with PeakMemory('cuda', total=True) as memory:
        bare = bare_backbones(case, case.synthetic(), 'cuda')
        bare()
    bare_peak = memory.bytes / 2**30
    rows.append(['bare backbones, eager', *_cells(seconds['bare'], case.batch), number(bare_peak)])
    what = f'whole step, {describe(case)}, bfloat16'
    ours, theirs = 1000 * seconds['ours'], 1000 * seconds['bare']
    results = [
        Result('step', what, 'ms', ours, theirs, 'bare backbones', 120, absolute=True),
        Result(
            'step', 'its peak memory', 'GiB', peak, bare_peak, 'bare backbones', 14, absolute=True
        ),
    ]
    table = Table('Whole step', ['variant', 'ms', 'images/s', 'peak GiB'], rows)
    return Measured(results, [table])


def gpu_variants(case: Case) -> dict[str, dict[str, Any]]:
    """Switches of acceleration, one left out at a time.

    Args:
        case (Case): The case.

    Returns:
        dict[str, dict[str, Any]]: Options by the variant's name, the config as it is first.
    """
    hook = case.load().default_hooks.get('acceleration') or {}
    place = 'default_hooks.acceleration'
    switches = [key for key, value in hook.items() if key in ('compile', 'channels_last') and value]
    variants = {'as configured': {}}
    variants.update({f'without {key}': {f'{place}.{key}': False} for key in switches})
    if len(switches) > 1:
        variants['without both'] = {f'{place}.{key}': False for key in switches}
    return variants


def _warm_up(run: Training, steps: int = 3) -> None:
    for _ in range(steps):
        run.step()


def _cells(seconds: float, batch: int) -> list[str]:
    return [number(1000 * seconds), number(batch / seconds)]


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
    """Whether the CPU multiplies matrices of bfloat16 faster."""
    checks = ('_is_avx512_bf16_supported', '_is_amx_tile_supported')
    return any(getattr(torch.cpu, check, bool)() for check in checks)
