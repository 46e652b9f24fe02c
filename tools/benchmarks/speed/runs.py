# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Training as users run it, from a shipped config, one step at a time."""

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from mmengine.config import Config
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop
from mmengine.utils.dl_utils import collect_env
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.utils.data import Dataset

from mmmokd.cli.config import load_config, set_dataloader_defaults, set_work_dir
from mmmokd.engine.runners.build_runner import build_runner
from mmmokd.registry import DATASETS

ROOT = Path(__file__).resolve().parents[3]
EPOCH = 10_000  # steps: no run of a benchmark comes to the end of its first epoch


@DATASETS.register_module()
class NoiseViews(Dataset):
    """Views of noise, as a pipeline gives them.

    Args:
        length (int): Number of images.
        sizes (list[int]): Side of each view in pixels, the global views first.
    """

    def __init__(self, length: int, sizes: list[int]) -> None:
        self.length = length
        self.sizes = sizes

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        generator = torch.Generator().manual_seed(index)
        views = [
            torch.randint(256, (3, size, size), dtype=torch.uint8, generator=generator)
            for size in self.sizes
        ]
        return dict(inputs=views, data_samples=DataSample())


@LOOPS.register_module()
class SingleStepLoop(EpochBasedTrainLoop):
    """Begins an epoch and leaves its iterations to the caller.

    Args:
        repeat (bool): Whether every iteration takes the first batch, which then stays on the device.
            Defaults to False.
        **kwargs: See mmengine's ``EpochBasedTrainLoop``.
    """

    def __init__(self, *args, repeat: bool = False, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.repeat = repeat

    def run(self) -> torch.nn.Module:
        """Begin; :meth:`step` does the rest."""
        self.runner.call_hook('before_train')
        self._batches = self._iterate()
        return self.runner.model

    def _iterate(self) -> Iterator[tuple[int, Any]]:
        """Batches of epoch after epoch."""
        while True:
            self.runner.call_hook('before_train_epoch')
            self.runner.model.train()
            batches = iter(self.dataloader)
            if self.repeat:
                device = next(self.runner.model.parameters()).device
                batches = itertools.repeat(_to(next(batches), device), EPOCH)
            yield from enumerate(batches)
            self.runner.call_hook('after_train_epoch')
            self._epoch += 1

    def step(self) -> None:
        """Fetch a batch and train on it, with all hooks."""
        self.run_iter(*next(self._batches))


def _to(data: Any, device: torch.device) -> Any:
    if isinstance(data, Tensor | DataSample):
        return data.to(device)
    if isinstance(data, Mapping):
        return {key: _to(value, device) for key, value in data.items()}
    return [_to(value, device) for value in data] if isinstance(data, list | tuple) else data


class Case:
    """A shipped config with options, and the size of its views.

    Args:
        config (str): File in ``configs/``.
        options (dict[str, Any]): Values that override the config's.
        batch (int): Images per step.
        sizes (tuple[int, int]): Sides of global and local views in pixels.
        num_locals (int): Local views per image; there are two global ones.
    """

    def __init__(
        self,
        config: str,
        options: Mapping[str, Any],
        batch: int,
        sizes: tuple[int, int] = (224, 96),
        num_locals: int = 8,
    ) -> None:
        self.config = config
        self.options = dict(options)
        self.batch = batch
        self.sizes = [sizes[0]] * 2 + [sizes[1]] * num_locals

    def load(self, options: Mapping[str, Any] | None = None) -> Config:
        """Read the config.

        Args:
            options (dict, optional): Further values. Defaults to None.

        Returns:
            Config: Without validation.
        """
        cfg = load_config(ROOT / 'configs' / self.config, {**self.options, **(options or {})})
        cfg.launcher, cfg.log_level = 'none', 'ERROR'
        for name in ('val', 'test'):
            for part in ('cfg', 'dataloader', 'evaluator'):
                cfg[f'{name}_{part}'] = None
        set_dataloader_defaults(cfg)
        return cfg

    def synthetic(self, options: Mapping[str, Any] | None = None) -> Config:
        """Read the config, with one batch of noise for its data.

        Args:
            options (dict, optional): Further values. Defaults to None.

        Returns:
            Config: Trained by a :class:`SingleStepLoop`.
        """
        cfg = self.load(options)
        data = dict(type='mmmokd.NoiseViews', length=EPOCH * self.batch, sizes=self.sizes)
        cfg.train_dataloader = dict(
            batch_size=self.batch,
            num_workers=0,
            dataset=data,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        )
        cfg.train_cfg = dict(type='SingleStepLoop', max_epochs=100, repeat=True)
        # The batch has views already.
        statistics = {key: cfg.data_preprocessor[key] for key in ('mean', 'std')}
        cfg.data_preprocessor = dict(type='SelfSupDataPreprocessor', **statistics)
        # As in all epochs but the first, in which prototypes are frozen.
        cfg.default_hooks.prototype_freeze.freeze_epochs = 0
        return cfg


class Training:
    """A run that has begun.

    Args:
        cfg (Config): With a :class:`SingleStepLoop`.
        work_dir (str | Path): Folder to write to.
    """

    def __init__(self, cfg: Config, work_dir: str | Path) -> None:
        set_work_dir(cfg, str(work_dir))
        cfg.experiment_name = f'speed_{id(self)}'
        with _short_log():
            self.runner = build_runner(cfg)
            self.runner.train()

    def step(self) -> None:
        """Train on one batch, with all hooks."""
        self.runner.train_loop.step()


@contextmanager
def training(cfg: Config) -> Iterator[Training]:
    """A run in a folder that is removed afterwards.

    Args:
        cfg (Config): With a :class:`SingleStepLoop`.

    Yields:
        Training: The run.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Training(cfg, folder)
        yield run
        run.runner.call_hook('after_run')


@contextmanager
def _short_log() -> Iterator[None]:
    """Describe the machine once, however many runs begin on it."""
    with patch('mmengine.runner.runner.collect_env', cache(collect_env)):
        yield
