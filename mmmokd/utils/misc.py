# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from mmengine.model import is_model_wrapper
from torch import nn


def get_ori_model(model: nn.Module) -> nn.Module:
    """Unwrap a model from DDP, FSDP or any other wrapper that mmengine knows.

    Args:
        model (nn.Module): A model, wrapped or not.

    Returns:
        nn.Module: The model that the config described.
    """
    while is_model_wrapper(model):
        model = model.module
    return model


def current_epoch(runner) -> int:
    """The epoch that a run is in, counted from 0, whatever the kind of its train loop.

    Args:
        runner (Runner): A runner with a train loop. An iteration-based loop counts an epoch for
            every ``len(train_dataloader)`` iterations.

    Returns:
        int: Epochs completed.
    """
    from mmengine.runner import IterBasedTrainLoop

    if isinstance(runner.train_loop, IterBasedTrainLoop):
        return runner.iter // len(runner.train_dataloader)
    return runner.epoch
