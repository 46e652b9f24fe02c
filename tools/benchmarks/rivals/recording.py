# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Additions of the benchmark to a training: hooks and a metric, named in the config of each run."""

import hashlib
import json
import re
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from speed.result import describe_machine
from torch import Tensor

from mmmokd.analysis import effective_rank
from mmmokd.evaluation.metrics import FeatureMetric, FeatureSet
from mmmokd.models.branches.backbone import build_backbone
from mmmokd.registry import HOOKS, METRICS
from mmmokd.utils.atomic import atomic_write
from mmmokd.utils.errors import ConfigError
from mmmokd.utils.runner import get_ori_model, is_epoch_based

EPOCHS, MACHINE = 'epochs.json', 'machine.json'


@HOOKS.register_module()
class SameStartHook(Hook):
    """Gives the backbones the weights that the seed and the branch's name stand for.

    The weights of a new model depend on what is built before them, so that two methods with the same
    seed would start from different backbones. Those that load weights, and the heads, stay as they
    are.
    """

    priority = 'HIGH'

    def before_train(self, runner) -> None:
        """Set the weights of a run that begins.

        Args:
            runner (Runner): The runner.
        """
        if runner.iter or runner.cfg.get('load_from'):
            return
        for name, branch in get_ori_model(runner.model).branches.items():
            networks = [each for each in (branch.student, branch.teacher) if each is not None]
            cfg = networks[0].backbone_cfg
            if branch.frozen or branch.init_cfg or cfg.get('init_cfg') or cfg.get('pretrained'):
                continue
            with torch.random.fork_rng():
                # torch's generator reads 32 bits of a seed.
                torch.manual_seed(zlib.crc32(f'{runner.seed} {name}'.encode()))
                backbone = build_backbone(cfg)
                if hasattr(backbone, 'init_weights'):
                    backbone.init_weights()
            for network in networks:
                network.backbone.load_state_dict(backbone.state_dict())


@HOOKS.register_module()
class CostRecordHook(Hook):
    """Writes what every epoch cost, and a mark of its first batch, to ``epochs.json``.

    Seconds are those of the training alone, data loading included, without validation and
    checkpoints. Memory is the peak within the epoch: what PyTorch has reserved on a GPU, else the
    resident memory of the process, on Linux. A run that is resumed continues the list, and an epoch
    that is repeated takes its place in it. ``machine.json`` describes the machine.
    """

    priority = 'NORMAL'  # before the checkpoint, so that every epoch of one is in the list

    def before_train(self, runner) -> None:
        """Find what earlier starts wrote.

        Args:
            runner (Runner): The runner.

        Raises:
            ConfigError: If the run does not count epochs.
        """
        if not is_epoch_based(runner):
            raise ConfigError('the benchmark of rivals compares runs in epochs')
        self.file = Path(runner.work_dir) / EPOCHS
        found = json.loads(self.file.read_text()) if self.file.is_file() else []
        self.epochs = [entry for entry in found if entry['epoch'] <= runner.epoch]
        self.is_first = True
        self.on_gpu = next(runner.model.parameters()).is_cuda
        machine = json.dumps(describe_machine())
        with atomic_write(self.file.with_name(MACHINE)) as part:
            part.write_text(machine, encoding='utf-8')

    def before_train_epoch(self, runner) -> None:
        """Start the clock.

        Args:
            runner (Runner): The runner.
        """
        self._wait()
        _reset_peak(self.on_gpu)
        self.start = time.perf_counter()

    def before_train_iter(self, runner, batch_idx: int, data_batch: Any = None) -> None:
        """Take a mark of the epoch's first batch.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Number of the iteration in the epoch.
            data_batch (Any): The batch, as the loader gives it.
        """
        if batch_idx == 0:
            digest = hashlib.blake2b(digest_size=8)
            for data in _arrays(data_batch['inputs']):
                digest.update(data.tobytes())
            self.mark = digest.hexdigest()

    def after_train_epoch(self, runner) -> None:
        """Stop the clock, and write.

        Args:
            runner (Runner): The runner.
        """
        self._wait()
        self.epochs.append(
            dict(
                epoch=runner.epoch + 1,
                seconds=round(time.perf_counter() - self.start, 4),
                steps=len(runner.train_dataloader),
                memory_mib=_peak_mib(self.on_gpu),
                first=self.is_first,
                views=self.mark,
            )
        )
        self.is_first = False
        with atomic_write(self.file) as part:
            part.write_text(json.dumps(self.epochs), encoding='utf-8')

    def _wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


def _arrays(data: Any) -> Iterator[np.ndarray]:
    """Arrays in a batch: views, images, or their numbers in a bank."""
    if isinstance(data, Tensor):
        yield data.cpu().contiguous().numpy()
    elif isinstance(data, list | tuple):
        for each in data:
            yield from _arrays(each)
    elif isinstance(data, dict):
        yield from _arrays([*data.values()])
    else:
        yield np.array(data)


def _reset_peak(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):  # Linux only
            Path('/proc/self/clear_refs').write_text('5')


def _peak_mib(on_gpu: bool) -> float | None:
    if on_gpu:
        return round(torch.cuda.max_memory_reserved() / 2**20, 1)
    with suppress(OSError):
        text = Path('/proc/self/status').read_text()
        return round(int(re.search(r'^VmHWM:\s+(\d+) kB', text, re.MULTILINE)[1]) / 2**10, 1)
    return None


@METRICS.register_module()
class EffectiveRankMetric(FeatureMetric):
    """Effective rank of the queries' features: how many directions they fill.

    Logged as ``'{network}/effective_rank'``; see :func:`mmmokd.analysis.effective_rank`.
    """

    def evaluate_set(self, features: FeatureSet) -> dict[str, float]:
        return self.evaluate_features(*features[1:5])

    def evaluate_features(
        self, bank: Tensor, bank_labels: Tensor, queries: Tensor, query_labels: Tensor
    ) -> dict[str, float]:
        return dict(effective_rank=effective_rank(queries).item())
