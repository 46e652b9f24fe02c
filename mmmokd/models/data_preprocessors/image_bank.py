# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence

import torch
from mmpretrain.structures import DataSample
from torch import Tensor

from mmmokd.utils.errors import DataError

MIB = 2**20


class LabeledBatch(Sequence):
    """The data samples of a batch, made where one is asked for: few heads read them.

    Args:
        indices (Tensor): Numbers of the images in their dataset. Shape (B, ), on the CPU.
        labels (Tensor): Their class ids, -1 where none is known. Shape (B, ), int64.
    """

    def __init__(self, indices: Tensor, labels: Tensor) -> None:
        self.indices = indices
        self.labels = labels

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int | slice) -> DataSample | LabeledBatch:
        if isinstance(index, slice):
            return LabeledBatch(self.indices[index], self.labels[index])
        sample = DataSample(metainfo=dict(sample_idx=int(self.indices[index])))
        return sample.set_gt_label(self.labels[index].view(1))


class ImageBank:
    """All images of a dataset in the memory of a device.

    It is not a module and has no buffers: nothing of it is saved, broadcast or copied with a model.

    Args:
        images (Tensor): Shape (N, 3, H, W), uint8.
        labels (Tensor, optional): Class ids, -1 where none is known. Shape (N, ), int64. Defaults
            to None: the dataset has none.
        device (torch.device): Where to keep them.

    Raises:
        DataError: If the device has too little free memory.

    Example:
        >>> bank = ImageBank(torch.zeros(10, 3, 32, 32, dtype=torch.uint8), None, torch.device('cpu'))
        >>> bank.take(torch.tensor([7, 1])).shape
        torch.Size([2, 32, 3, 32])
    """

    def __init__(self, images: Tensor, labels: Tensor | None, device: torch.device) -> None:
        free = torch.cuda.mem_get_info(device)[0] if device.type == 'cuda' else None
        if free is not None and images.nbytes > free:
            raise DataError(
                f'the {len(images)} images need {images.nbytes / MIB:.0f} MiB of the memory of '
                f'{device}, of which {free / MIB:.0f} MiB are free: leave out '
                'data_preprocessor.keep_images'
            )
        # Rows before channels: as the views are made, so that an image is copied once.
        self.images = images.to(device).permute(0, 2, 1, 3).contiguous()
        self.labels = None if labels is None else labels.to(device)

    @property
    def size(self) -> tuple[int, int]:
        """tuple[int, int]: (height, width) of the images."""
        return self.images.shape[1], self.images.shape[3]

    @property
    def mib(self) -> float:
        """float: Memory that the images take."""
        return self.images.nbytes / MIB

    def take(self, indices: Tensor) -> Tensor:
        """Images by number.

        Args:
            indices (Tensor): Shape (B, ), int64, on the device.

        Returns:
            Tensor: Shape (B, H, 3, W), uint8: rows first, then channels.
        """
        return self.images[indices]

    def samples(self, indices: Tensor, on_device: Tensor) -> LabeledBatch | None:
        """Data samples by number.

        Args:
            indices (Tensor): Shape (B, ), int64, on the CPU.
            on_device (Tensor): The same on the device.

        Returns:
            LabeledBatch | None: None if the dataset has no labels.
        """
        return None if self.labels is None else LabeledBatch(indices, self.labels[on_device])

    def __deepcopy__(self, memo: dict) -> ImageBank:
        return self
