# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Optimizers that read and write each parameter and its state once per step."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.registry import OPTIMIZERS
from torch import Tensor, optim

# Where PyTorch's were measured: on the CPU a step takes a fifth to an eighth of the time, on a GPU one
# launch for many parameters, and no wait.
DEVICES = {'cpu', 'cuda'}
# How an optimizer computes, which is up to the run and not to the checkpoint that it resumes from.
IMPLEMENTATION = ('foreach', 'fused')
OTHER_WAYS = (*IMPLEMENTATION, 'capturable', 'differentiable')


class FusedSGD(optim.SGD):
    """PyTorch's fused SGD, whose momenta start from zero.

    From zero, the first step is that of PyTorch, which sets a momentum to the gradient. But its fused
    SGD fails where some parameters of a group have a momentum and others, as prototype layers that
    join later, have none yet; and where a gradient scaler skips the first step, it leaves momenta
    that were never written.
    """

    def _init_group(
        self,
        group: dict,
        params: list[Tensor],
        grads: list[Tensor],
        momentum_buffer_list: list[Tensor | None],
    ) -> bool:
        has_sparse_grad = super()._init_group(group, params, grads, momentum_buffer_list)
        for i, momentum in enumerate(momentum_buffer_list):
            if momentum is None:
                momentum_buffer_list[i] = torch.zeros_like(params[i])
        return has_sparse_grad


FUSED = {optim.SGD: FusedSGD, optim.Adam: optim.Adam, optim.AdamW: optim.AdamW}


def prefer_fused(cfg: Mapping[str, Any], params: Sequence[Tensor]) -> dict:
    """Let an optimizer be fused where it can, and the config does not say how it computes.

    Args:
        cfg (Mapping[str, Any]): Config of the optimizer. One that sets ``fused`` or ``foreach``,
            to True, False or None, is left as it is.
        params (Sequence[Tensor]): All its parameters.

    Returns:
        dict: The config, of the fused optimizer where PyTorch has one.
    """
    cls = cfg['type'] if isinstance(cfg['type'], type) else OPTIMIZERS.get(cfg['type'])
    if (
        cls not in FUSED
        or any(key in cfg for key in OTHER_WAYS)
        # PyTorch does not dampen the first step, one that starts from a momentum of zero would be.
        or cfg.get('dampening', 0)
        or not all(p.is_floating_point() and p.device.type in DEVICES for p in params)
    ):
        return dict(cfg)
    return dict(cfg, type=FUSED[cls], fused=True)


def keep_implementation(optimizer: optim.Optimizer, state_dict: dict) -> dict:
    """Let an optimizer resume with the implementation of this run, whatever that of the checkpoint.

    A fused optimizer counts its steps on the device of the parameters, others on the CPU: PyTorch
    moves the count where the settings say so, and takes these from the checkpoint.

    Args:
        optimizer (Optimizer): That of the run.
        state_dict (dict): From the checkpoint.

    Returns:
        dict: The same with the settings of the run.
    """
    saved, groups = state_dict['param_groups'], optimizer.param_groups
    if len(saved) != len(groups):  # for PyTorch to refuse
        return state_dict
    kept = [{key: group[key] for key in IMPLEMENTATION if key in group} for group in groups]
    return {
        **state_dict,
        'param_groups': [{**old, **new} for old, new in zip(saved, kept, strict=True)],
    }
