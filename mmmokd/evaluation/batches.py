# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Reading of batches of labeled images."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmmokd.utils.errors import ConfigError, DataError


def read_labels(batch: dict, dataloader: DataLoader) -> Tensor:
    """Class ids of a batch.

    Args:
        batch (dict): As ``PackInputs`` and a collate function of mmengine make it.
        dataloader (DataLoader): Where the batch is from, for the error's text.

    Returns:
        Tensor: Shape (B, ), int64, on the CPU.

    Raises:
        ValueError: If an image has no label, or more than one.
    """
    dataset = type(dataloader.dataset).__name__
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    if not samples:
        raise ConfigError(
            f'evaluating features needs labeled images, but a batch of {dataset} has no '
            "'data_samples': does its pipeline end with PackInputs?"
        )
    labels = []
    for sample in samples:
        label = sample.get('gt_label')
        if label is None or label.numel() != 1:
            found = 'no gt_label' if label is None else f'{label.numel()} labels'
            raise DataError(
                f'evaluating features needs images with one class label each, but the image '
                f'{sample.get("img_path", "(no path)")} of {dataset} has {found}; give a labeled '
                'dataset, or leave validation out (--no-validate)'
            )
        labels.append(int(label))
    return torch.tensor(labels)


def read_inputs(model: nn.Module, batch: dict) -> Tensor:
    """Images of a batch, as the model takes them.

    Args:
        model (nn.Module): An unwrapped mmengine model.
        batch (dict): A batch of the dataloader.

    Returns:
        Tensor: Shape (B, 3, H, W), float32.

    Raises:
        ValueError: If they are not one tensor.
    """
    inputs = model.data_preprocessor(batch, False)['inputs']
    if not isinstance(inputs, Tensor):
        raise ConfigError(
            f'evaluating features needs one view of each image as a tensor (B, 3, H, W), but the '
            f'data preprocessor gave a {type(inputs).__name__}: use a pipeline without multi-view '
            "transforms and collate_fn=dict(type='default_collate')"
        )
    return inputs
