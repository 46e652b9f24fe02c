# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import logging
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from mmmokd.datasets import (
    ImageFolder,
    LoadImage,
    MultiCrop,
    NeighborBags,
    iter_datasets,
    iter_transforms,
    link_decoding,
    require_readable_images,
)
from mmmokd.registry import HOOKS
from mmmokd.utils import current_epoch, is_epoch_based
from mmmokd.utils.errors import ConfigError, DataError
from mmmokd.utils.names import printable

NUM_NAMED = 3


def check_enough_images(dataloader: DataLoader) -> None:
    """Raise if a training set is smaller than one step of all processes.

    Args:
        dataloader (DataLoader): The loader of one process.

    Raises:
        DataError: With the number of images, the batch size, the number of processes and what
            to change.
    """
    num_images, world_size = len(dataloader.dataset), get_world_size()
    batch_size = dataloader.batch_size or getattr(dataloader.batch_sampler, 'batch_size', 1)
    if num_images < batch_size * world_size:
        raise DataError(
            f'The training set has {num_images} images, fewer than one step takes: '
            f'{batch_size * world_size} (batch size {batch_size} x {world_size} processes). Give '
            'more images, fewer processes, or a train_dataloader.batch_size of at most '
            f'{max(num_images // world_size, 1)}.'
        )
    if len(dataloader) == 0:
        raise DataError(
            f'The training set has {num_images} images, but train_dataloader makes no batch '
            f'of {batch_size} of them: its sampler draws too few.'
        )


@HOOKS.register_module()
class DataHealthHook(Hook):
    """Checks the training data: number of images, unreadable ones, randomness per epoch.

    - Before training: raises if there are fewer images than one step takes; lets every
      :class:`~mmmokd.datasets.LoadImage` of the training set, also inside wrappers, count
      unreadable images, and decode large JPEGs no further than a following ``MultiCrop`` needs.
    - Before every epoch: tells every :class:`~mmmokd.datasets.MultiCrop`,
      :class:`~mmmokd.datasets.ImageFolder` and :class:`~mmmokd.datasets.NeighborBags` its number. In
      an iteration-based loop, where workers run ahead of the loop, it does not: their random numbers
      just continue, and a resumed run draws others than one that was never stopped.
    - After every epoch: adds up the unreadable images of all processes, logs their number, share
      and first paths in one line, and raises if there are too many.
    - Before validation and test: lets ``LoadImage`` raise at an unreadable image, with its
      path, in datasets in test mode.

    Args:
        max_bad_share (float): Share of unreadable images in a dataset, 0 to 1, above which
            training stops; see :meth:`LoadImage.track`. Defaults to 0.01.

    Raises:
        ConfigError: If ``max_bad_share`` is outside 0 to 1.
    """

    # First of all: nothing long, such as an evaluation, is to run before its errors.
    priority = 'VERY_HIGH'

    def __init__(self, max_bad_share: float = 0.01) -> None:
        if not 0 <= max_bad_share <= 1:
            raise ConfigError(f'max_bad_share must be in [0, 1], got {max_bad_share}.')
        self.max_bad_share = max_bad_share
        self._tracked: list[tuple[Any, LoadImage]] = []
        self._random: list = []

    def before_train(self, runner) -> None:
        """Check the size of the training set and start to count.

        Args:
            runner (Runner): The runner.

        Raises:
            DataError: If there are fewer images than one step takes.
        """
        # The workers start later: the epoch-based loop makes its iterator after this, and the
        # iteration-based one at its first step.
        check_enough_images(runner.train_dataloader)
        self._tracked, self._random = [], []
        for dataset in iter_datasets(runner.train_dataloader.dataset):
            if isinstance(dataset, ImageFolder | NeighborBags):
                self._random.append(dataset)
            link_decoding(dataset)
            for transform in iter_transforms(dataset):
                if isinstance(transform, LoadImage):
                    transform.track(len(dataset), self.max_bad_share)
                    self._tracked.append((dataset, transform))
                elif isinstance(transform, MultiCrop):
                    self._random.append(transform)

    def before_train_epoch(self, runner) -> None:
        """Give the epoch's number to whatever draws random numbers.

        Args:
            runner (Runner): The runner.
        """
        if is_epoch_based(runner):
            for stream, random in enumerate(self._random):
                random.set_epoch(current_epoch(runner), stream)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """In an iteration-based loop: report once for every pass over the data.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Unused, as the rest.
        """
        is_last = runner.iter + 1 == runner.max_iters  # after_train_epoch follows
        if not (is_epoch_based(runner) or is_last):
            if (runner.iter + 1) % len(runner.train_dataloader) == 0:
                self.report(runner, f'Iteration {runner.iter + 1}')

    def after_train_epoch(self, runner) -> None:
        """Report the unreadable images.

        Args:
            runner (Runner): The runner.

        Raises:
            BadImageError: If all processes together found too many.
        """
        if is_epoch_based(runner):
            self.report(runner, f'Epoch {current_epoch(runner) + 1}')
        else:
            self.report(runner, f'Iteration {runner.iter}')

    def before_val(self, runner) -> None:
        """Let unreadable images of a validation set be errors.

        Args:
            runner (Runner): The runner.
        """
        require_readable_images(runner.val_dataloader.dataset)

    def before_test(self, runner) -> None:
        """Let unreadable images of a test set be errors.

        Args:
            runner (Runner): The runner.
        """
        require_readable_images(runner.test_dataloader.dataset)

    def report(self, runner, when: str) -> None:
        """Share what was found with all processes, log it, and raise if it is too much.

        Args:
            runner (Runner): The runner.
            when (str): What has ended, for the log, whose filter drops warnings said before.

        Raises:
            BadImageError: If all processes together found too many.
        """
        count, total, paths = 0, 0, []
        for dataset, loader in self._tracked:
            own = loader.bad_flags.clone()
            everyone = own.clone()
            all_reduce(everyone, 'max')
            for index in (everyone > own).nonzero().flatten().tolist():
                loader.warn(f'{self._path(dataset, index)} (found by another process)')
            torch.maximum(loader.bad_flags, everyone, out=loader.bad_flags)
            bad = everyone.nonzero().flatten().tolist()
            count, total = count + len(bad), total + len(everyone)
            paths += [self._path(dataset, index) for index in bad[:NUM_NAMED]]
        if self._tracked:
            runner.message_hub.update_scalar('train/bad_images', count)
        if count:
            named = ', '.join(paths[:NUM_NAMED]) + (', ...' if count > NUM_NAMED else '')
            runner.logger.log(
                logging.WARNING,
                f'{when}: {count} of {total} images ({count / total:.2%}) could not be read so '
                f'far: {named}',
            )
        for dataset, loader in self._tracked:
            bad = loader.bad_flags.nonzero().flatten().tolist()
            loader.check_share(self._path(dataset, bad[-1]) if bad else '')

    @staticmethod
    def _path(dataset: Any, index: int) -> str:
        return printable(str(dataset.get_data_info(index).get('img_path', f'sample {index}')))
