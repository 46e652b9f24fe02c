# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The precision that a run computes in, and its optimizer wrapper."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from torch import nn

from mmmokd.registry import OPTIM_WRAPPERS
from mmmokd.utils.config_tree import type_name
from mmmokd.utils.errors import ConfigError

DTYPES = ('auto', 'bfloat16', 'float16')
AMP_DEVICES = ('cuda', 'musa', 'mlu', 'npu')  # for which mmengine has a gradient scaler


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Optimizer wrapper for mixed precision in bfloat16, on GPUs and on CPUs.

    bfloat16 has the range of float32, so gradients need no scaler, which float16 does: no pass to
    unscale them, and no step that is skipped. Weights, their gradients and the optimizer are in
    float32. Configs name it ``AmpOptimWrapper`` with ``dtype='bfloat16'``: see
    :func:`choose_precision`.

    Args:
        **kwargs: Arguments of mmengine's ``OptimWrapper``.
    """

    cast_dtype = torch.bfloat16

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Context of the forward pass: autocast, and no synchronization while accumulating.

        Args:
            model (nn.Module): The model, wrapped or not.
        """
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=self.cast_dtype):
            yield


def choose_precision(
    cfg: Mapping[str, Any], device: str | None = None
) -> tuple[dict[str, Any], str | None]:
    """Choose the optimizer wrapper by the precision that a config asks for and a device has.

    Of an ``AmpOptimWrapper``, ``dtype`` says how to compute:

    - ``'auto'``: in bfloat16 where the device does, on other GPUs in float16, on other CPUs in
      float32.
    - ``'bfloat16'``: without a gradient scaler. On a CPU it takes AVX512-BF16 or AMX.
    - ``'float16'``, or none: with a gradient scaler, by ``loss_scale``. On GPUs only.

    Args:
        cfg (Mapping[str, Any]): Config of an optimizer wrapper.
        device (str, optional): Kind of device, as ``mmengine.device.get_device`` says it. Defaults
            to None: that of this machine.

    Returns:
        tuple[dict[str, Any], str | None]: The config for the device, and what the log should say
        if the precision is not the one asked for.

    Raises:
        ConfigError: If ``dtype`` is not one of these.
    """
    cfg = dict(cfg)
    if type_name(cfg.get('type')) != 'AmpOptimWrapper':
        return cfg, None
    device = device or get_device()
    asked = str(cfg.get('dtype') or 'float16').removeprefix('torch.')
    dtype = choose_dtype(asked, device)
    if dtype == 'float16':
        return dict(cfg, dtype=dtype), None
    for key in ('loss_scale', 'dtype', 'use_fsdp'):
        cfg.pop(key, None)
    cfg['type'] = 'mmmokd.BFloat16OptimWrapper' if dtype == 'bfloat16' else 'OptimWrapper'
    return cfg, _why_float32(asked, device) if dtype == 'float32' else None


def choose_dtype(asked: str, device: str) -> str:
    """Choose the data type of mixed precision; see :func:`choose_precision`.

    Args:
        asked (str): ``'auto'``, ``'bfloat16'`` or ``'float16'``.
        device (str): Kind of device.

    Returns:
        str: ``'bfloat16'``, ``'float16'`` or ``'float32'``.

    Raises:
        ConfigError: If it is not one of these.
    """
    if asked not in DTYPES:
        raise ConfigError(
            f'dtype of an AmpOptimWrapper must be one of {", ".join(DTYPES)}, but got {asked!r}'
        )
    if device not in AMP_DEVICES:
        return 'bfloat16' if asked != 'float16' and _has_bfloat16(device) else 'float32'
    if asked != 'auto':
        return asked
    return 'bfloat16' if _has_bfloat16(device) else 'float16'


def _has_bfloat16(device: str) -> bool:
    """Check whether a device computes in bfloat16, and does not emulate it."""
    if device == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == 'cpu':
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def _why_float32(asked: str, device: str) -> str:
    text = 'No GPU: trains in float32, without mixed precision (AmpOptimWrapper). '
    if not _has_bfloat16(device):
        return text + f'This device ({device}) does not compute in bfloat16.'
    return text + f"{asked} takes a GPU; this CPU has bfloat16: set optim_wrapper.dtype='bfloat16'."
