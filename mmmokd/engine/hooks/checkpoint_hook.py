# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmengine.hooks
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.runner import Runner

from mmmokd.registry import HOOKS
from mmmokd.utils import get_ori_model
from mmmokd.utils.atomic import atomic_write
from mmmokd.utils.state_dict import tie_shared

POINTER = 'last_checkpoint'  # the file that names the newest checkpoint of a run


class AtomicLocalBackend(LocalBackend):
    """mmengine's local file backend, which writes files completely or not at all.

    Takes the place of mmengine's own under its name and prefix, so that it is what every checkpoint
    of every hook and of ``Runner.save_checkpoint`` is written by.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file; its folder is made.

        Args:
            obj (bytes): The bytes.
            filepath (str | Path): The file.

        Raises:
            CannotWriteError: If it cannot be written; an earlier file is kept.
        """
        Path(filepath).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(filepath) as part:
            part.write_bytes(obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write a text to a file; see :meth:`put`."""
        self.put(obj.encode(encoding), filepath)


register_backend('local', AtomicLocalBackend, force=True, prefixes='')


class _LateRemoval:
    """A storage backend that notes what is to be removed instead of removing it."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.removals: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.removals.append(('remove', path))

    def rmtree(self, path: str) -> None:
        self.removals.append(('rmtree', path))


@HOOKS.register_module()
class CheckpointHook(mmengine.hooks.CheckpointHook):
    """Saves checkpoints as mmengine's hook does, without losing one if saving fails.

    mmengine's removes what ``max_keep_ckpts`` and ``save_best`` no longer keep, and then writes; on
    a full disk, a run that keeps one checkpoint has none afterwards. Here the older one goes once
    the new one is on the disk, which needs room for one checkpoint more. Files, that which names
    the newest checkpoint included, are written whole or not at all.

    The tools of this package use it for every config that has mmengine's. The arguments are the
    same.
    """

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write what networks share, as a frozen backbone, once.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What will be saved; changed in place.
        """
        tie_shared(checkpoint['state_dict'], get_ori_model(runner.model))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        with self._removing_afterwards():
            if self.max_keep_ckpts > 0 and step not in list(self.keep_ckpt_ids)[-1:]:
                if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                    self._drop(self.keep_ckpt_ids.popleft())
                self.keep_ckpt_ids.append(step)
                runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
            filename = self.filename_tmpl.format(step)
            self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
            runner.message_hub.update_info('last_ckpt', self.last_ckpt)
            runner.save_checkpoint(
                self.out_dir,
                filename,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            if is_main_process():
                with atomic_write(Path(runner.work_dir) / POINTER) as part:
                    part.write_text(self.last_ckpt, encoding='utf-8')

    def _drop(self, step: int) -> None:
        path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))
        if is_main_process() and self.file_backend.isfile(path):
            self.file_backend.remove(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:  # nor was anything prepared, if this is not a training
            return
        with self._removing_afterwards():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removing_afterwards(self) -> Iterator[None]:
        """Remove what the block removes after the block, and only if it does not fail."""
        backend = self.file_backend
        self.file_backend = late = _LateRemoval(backend)
        try:
            yield
        finally:
            self.file_backend = backend
        saved = {self.last_ckpt, *getattr(self, 'best_ckpt_path_dict', {}).values()}
        saved.add(getattr(self, 'best_ckpt_path', None))
        for method, path in late.removals:
            if path not in saved:  # else it was saved once more, under the same name
                getattr(backend, method)(path)


def save_whole_checkpoints(runner: Runner) -> None:
    """Let a Runner whose config names mmengine's CheckpointHook save as this package's does.

    The config stays as it is: what the run writes of it can be used without this package.

    Args:
        runner (Runner): The Runner; its hooks of exactly that type are changed in place.
    """
    for hook in runner.hooks:
        if type(hook) is mmengine.hooks.CheckpointHook:
            hook.__class__ = CheckpointHook
