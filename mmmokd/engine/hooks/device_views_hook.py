# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from mmengine.hooks import Hook

from mmmokd.datasets import (
    IndexedImages,
    LoadImage,
    NeighborBags,
    iter_datasets,
    iter_transforms,
)
from mmmokd.models.data_preprocessors import MultiCropDataPreprocessor
from mmmokd.registry import HOOKS
from mmmokd.utils import get_ori_model
from mmmokd.utils.errors import ConfigError


@HOOKS.register_module()
class DeviceViewsHook(Hook):
    """Serves a ``MultiCropDataPreprocessor``: its images before training, its seed in each iteration.

    Without one it does nothing.
    """

    # After the hook that counts unreadable images, before those that use the preprocessor.
    priority = 'HIGH'

    def __init__(self) -> None:
        self._preprocessor: MultiCropDataPreprocessor | None = None

    def before_train(self, runner) -> None:
        """Check that loader and preprocessor fit, and bring the images to the device.

        Args:
            runner (Runner): The runner.

        Raises:
            ConfigError: If one of them keeps images on the device and the other one does not, or the
                images are BGR and are not turned to RGB.
            DataError: If the images are not of one size, are files, or do not fit.
        """
        found = getattr(get_ori_model(runner.model), 'data_preprocessor', None)
        dataset = runner.train_dataloader.dataset
        if isinstance(dataset, NeighborBags):  # which gives the numbers of other images as well
            dataset = dataset.dataset
        indexed = isinstance(dataset, IndexedImages)
        self._preprocessor = found if isinstance(found, MultiCropDataPreprocessor) else None
        if indexed != (self._preprocessor is not None and found.keep_images):
            raise ConfigError(
                'images that the device keeps need both train_dataloader.dataset.type='
                'mmmokd.IndexedImages, around all other datasets but NeighborBags, and '
                'data_preprocessor.keep_images=True of mmmokd.MultiCropDataPreprocessor, but got '
                f'{type(dataset).__name__} and {type(found).__name__}, '
                f'keep_images={getattr(found, "keep_images", False)}'
            )
        if self._preprocessor is None:
            return
        check_rgb(dataset, found)
        if indexed:
            images, labels = dataset.read_images()
            bank = found.fill_bank(images, labels)
            height, width = bank.size
            runner.logger.info(
                f'{len(images)} training images of {height}x{width} are kept in the memory of '
                f'{found.device}: {bank.mib:.0f} MiB'
            )

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Choose the random numbers of the iteration.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Unused, as the rest.
        """
        if self._preprocessor is not None:
            self._preprocessor.set_iteration(runner.seed, runner.iter)


def check_rgb(dataset, preprocessor: MultiCropDataPreprocessor) -> None:
    """Refuse BGR images: colors are augmented on the device, which cannot tell.

    Args:
        dataset (Dataset): The training set, wrapped or not.
        preprocessor (MultiCropDataPreprocessor): The preprocessor.

    Raises:
        ConfigError: If nothing turns them to RGB.
    """
    orders = {
        transform.to_rgb
        for inner in iter_datasets(dataset)
        for transform in iter_transforms(inner)
        if isinstance(transform, LoadImage)
    }
    if False in orders and not preprocessor._channel_conversion:
        raise ConfigError(
            'MultiCropDataPreprocessor augments colors, for which it needs RGB images: set '
            'to_rgb=True of LoadImage, or of the data_preprocessor'
        )
