# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # this package's commands import it before they need PyTorch
    from torch import nn


def get_ori_model(model: nn.Module) -> nn.Module:
    """Unwrap a model from DDP, FSDP or any other wrapper that mmengine knows.

    Args:
        model (nn.Module): A model, wrapped or not.

    Returns:
        nn.Module: The model that the config described.
    """
    from mmengine.model import is_model_wrapper

    while is_model_wrapper(model):
        model = model.module
    return model


def is_epoch_based(runner) -> bool:
    """Check whether a run's train loop counts epochs.

    Args:
        runner (Runner): A runner with a train loop.

    Returns:
        bool: False for an iteration-based loop.
    """
    from mmengine.runner import IterBasedTrainLoop

    return not isinstance(runner.train_loop, IterBasedTrainLoop)


def current_epoch(runner) -> int:
    """The epoch that a run is in, counted from 0, whatever the kind of its train loop.

    Args:
        runner (Runner): A runner with a train loop. An iteration-based loop counts an epoch for
            every ``len(train_dataloader)`` iterations.

    Returns:
        int: Epochs completed.
    """
    if is_epoch_based(runner):
        return runner.epoch
    return runner.iter // len(runner.train_dataloader)
