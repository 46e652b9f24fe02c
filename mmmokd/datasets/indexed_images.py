# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mmmokd.registry import DATASETS
from mmmokd.utils.errors import DataError

UNLABELED = -1


@DATASETS.register_module()
class IndexedImages(Dataset):
    """A dataset that gives the numbers of its images, for images that the device keeps.

    The loader draws and sends numbers alone; ``MultiCropDataPreprocessor(keep_images=True)`` takes
    the images from the memory of its device, where ``DeviceViewsHook`` brings them before training. So
    ``num_workers=0`` is fastest: there is nothing to load.

    For datasets that hold images of one size as arrays: CIFAR, MNIST, FashionMNIST and the like, also
    within :class:`LabeledShare`, ``ConcatDataset``, ``RepeatDataset`` and others.

    Args:
        dataset (Dataset | dict): The dataset or its config. Its pipeline ends with the loading, as by
            ``LoadImage``: it gives a dict with 'img', (H, W, 3), uint8, and, if known, 'gt_label'.
        lazy_init (bool): Whether to read the dataset only when it is first used. Defaults to
            False.

    Example:
        >>> train_dataloader = dict(
        ...     num_workers=0,
        ...     dataset=dict(
        ...         type='mmmokd.IndexedImages',
        ...         dataset=dict(
        ...             type='CIFAR10',
        ...             data_root='data/cifar10',
        ...             pipeline=[dict(type='mmmokd.LoadImage', channel_order='rgb', to_rgb=True)],
        ...         ),
        ...     ),
        ... )
    """

    def __init__(self, dataset: Dataset | dict, lazy_init: bool = False) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict:
        """dict: Meta information of the dataset; empty if it has none."""
        return getattr(self.dataset, 'metainfo', {})

    def full_init(self) -> None:
        """Read the dataset."""
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return dict(inputs=torch.tensor(index))

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """Give the numbers of a batch at once, which PyTorch's loader asks for where it can.

        Args:
            indices (Sequence[int]): From the sampler.

        Returns:
            list[dict[str, Tensor]]: One dict, ``inputs`` of shape (B, ): collated, (1, B).
        """
        return [dict(inputs=torch.tensor(indices))]

    def read_images(self) -> tuple[Tensor, Tensor | None]:
        """All images and labels.

        Returns:
            tuple[Tensor, Tensor | None]: Shape (N, 3, H, W), uint8, and class ids, shape (N, ),
            int64, -1 where none is known; None if no image has one.

        Raises:
            DataError: If the images are files, are not of one size, or cannot be read.
        """
        name, total = type(self.dataset).__name__, len(self)
        images, labels = None, torch.full((total,), UNLABELED)
        for index in range(total):
            sample = self.dataset[index]
            img = self._image_of(sample, index)
            if images is None:
                images = torch.empty(total, *img.shape, dtype=torch.uint8)
            if img.shape != images.shape[1:]:
                raise DataError(
                    f'data_preprocessor.keep_images needs images of one size, but of {name} image 0 '
                    f'has {tuple(images.shape[1:3])} and image {index} has {img.shape[:2]} (height, '
                    'width): leave keep_images out'
                )
            images[index] = torch.from_numpy(img)
            label = sample.get('gt_label')
            if label is not None and np.size(label) == 1:
                labels[index] = int(label)
        return images.permute(0, 3, 1, 2), None if (labels == UNLABELED).all() else labels

    def _image_of(self, sample: Any, index: int) -> np.ndarray:
        name = type(self.dataset).__name__
        if not isinstance(sample, dict) or getattr(sample.get('img'), 'dtype', None) != np.uint8:
            raise DataError(
                f'data_preprocessor.keep_images: image {index} of {name} is not an 8-bit array after '
                'its pipeline, which is to be [mmmokd.LoadImage] alone'
            )
        if sample.get('img_path') is not None:
            raise DataError(
                'data_preprocessor.keep_images is for datasets that hold their images as arrays, as '
                f'CIFAR10; {name} reads files: leave keep_images out'
            )
        return sample['img']
