# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import random

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from mmmokd.registry import HOOKS
from mmmokd.utils import current_epoch, is_epoch_based


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seeds every epoch, so that a resumed run draws the same random numbers.

    Checkpoints do not hold the state of the generators from which a model draws, as drop path does.
    This hook seeds those of the process (Python's, NumPy's, PyTorch's on all devices) again in every
    epoch, by the run's seed, the rank and the epoch. So ranks draw different numbers, whatever
    ``randomness.diff_rank_seed`` says.

    A run in epochs that is resumed from an epoch's checkpoint is then the same as one that was not
    stopped, if its data are, which :class:`DataHealthHook` and the sampler's seed see to. An
    iteration-based run counts an epoch for every pass over its loader: resumed at the end of a pass
    its model draws the same numbers, resumed within one it draws those of the pass from the start;
    its data differ in any case.
    """

    def before_train(self, runner) -> None:
        """Reset: a resumed run starts in any epoch."""
        self._epoch: int | None = None

    def before_train_epoch(self, runner) -> None:
        """Seed before images that this process itself loads.

        Args:
            runner (Runner): The runner.
        """
        if self._loads_images(runner):
            self._seed(runner)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Seed at an epoch's first iteration.

        Where workers load the images it cannot be earlier: a loader draws from the generator
        when it starts them, which a resumed run does in another epoch.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Unused.
        """
        if not self._loads_images(runner) and current_epoch(runner) != self._epoch:
            self._seed(runner)

    @staticmethod
    def _loads_images(runner) -> bool:
        return is_epoch_based(runner) and runner.train_dataloader.num_workers == 0

    def _seed(self, runner) -> None:
        self._epoch = current_epoch(runner)
        key = np.random.SeedSequence([runner.seed, get_rank(), self._epoch])
        seed = int(key.generate_state(1)[0])  # 32 bits, all that NumPy takes
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
