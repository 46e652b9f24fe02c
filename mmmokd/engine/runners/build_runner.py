# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""From a config to a Runner, on the machine at hand."""

import logging
import os
import time
from datetime import timedelta
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import get_world_size, is_distributed
from mmengine.registry import RUNNERS
from mmengine.runner import IterBasedTrainLoop, Runner

from mmmokd import registry, weights  # noqa: F401 (registers, see mmmokd/__init__.py)
from mmmokd.engine.hooks.checkpoint_hook import save_whole_checkpoints
from mmmokd.engine.hooks.optimizer_check_hook import OptimizerCheckHook
from mmmokd.engine.optimizers.precision import AMP_DEVICES, choose_dtype, choose_precision
from mmmokd.engine.runners.branch_settings import drop_idle_settings
from mmmokd.engine.runners.data_errors import explain_broken_data
from mmmokd.engine.runners.device_views import move_views_to_device
from mmmokd.engine.runners.fixed_views import fix_cached_views
from mmmokd.engine.runners.run_folder import check_folder
from mmmokd.engine.runners.shared_memory import batch_size_of, fit_shared_memory, free_shared_memory
from mmmokd.models.feature_maps import check_feature_maps
from mmmokd.utils.config_tree import iter_dicts, type_name
from mmmokd.utils.cpu import describe_threads, set_threads
from mmmokd.utils.data_workers import end_workers_with_parent
from mmmokd.utils.environment import world_size
from mmmokd.utils.errors import ConfigError

DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
SYNC_BN = ('SyncBN', 'MMSyncBN', 'SyncBatchNorm', 'NaiveSyncBN')
# Default hooks that mmengine itself takes None for; None for any other fails an assertion in it.
MMENGINE_HOOKS = (
    'runtime_info',
    'timer',
    'sampler_seed',
    'logger',
    'param_scheduler',
    'checkpoint',
)
TORCHRUN_VARIABLES = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')
GLOO_LETS_GO = 0.5  # seconds


def prepare_cfg_for_device(cfg: Config, device: str | None = None) -> list[str]:
    """Adapt a config to a machine: to its precision, and to one without a GPU or with too few.

    Without a GPU: dataloaders do not pin memory, mixed precision is in bfloat16 or left out, as
    :func:`~mmmokd.engine.optimizers.choose_precision` says, and for several processes SyncBN becomes
    a batch norm of each process (PyTorch's runs on GPUs only) and the model is wrapped for the CPU. The
    config is changed in place.

    Args:
        cfg (Config): A full config, with ``launcher``.
        device (str, optional): Kind of device, as ``mmengine.device.get_device`` says it. Defaults
            to None: that of this machine.

    Returns:
        list[str]: What was changed that changes the result, in sentences for the log.

    Raises:
        ConfigError: If several processes are asked for that this machine cannot give.
    """
    device = device or get_device()
    distributed = cfg.get('launcher', 'none') != 'none'
    if device == 'cuda' and cfg.get('launcher') == 'pytorch':
        _check_local_rank(torch.cuda.device_count())
    notices = _fit_precision(cfg, device)
    if distributed and world_size(cfg.launcher) == 1:
        cfg.pop('sync_bn', None)  # statistics over one process are those of batch norm
    if device != 'cpu':
        return notices
    for name in DATALOADERS:
        if cfg.get(name):
            cfg[name]['pin_memory'] = False
    if distributed:
        if cfg.launcher != 'pytorch':
            raise ConfigError(
                f'--launcher {cfg.launcher} needs GPUs, but none is available; several processes on the '
                'CPU are started with tools/dist_train.sh (--launcher pytorch)'
            )
        notices += _drop_sync_bn(cfg)
        notices += _wrap_for_cpu(cfg)
    return notices


def _check_local_rank(num_gpus: int) -> None:
    local_rank = int(os.environ.get('LOCAL_RANK', 0))
    if local_rank >= num_gpus:
        raise ConfigError(
            f'process {local_rank} (counted from 0) of this machine has no GPU: it has {num_gpus}. '
            'Start as many processes as there are GPUs'
        )


def _fit_precision(cfg: Config, device: str) -> list[str]:
    """Choose what mmengine's AmpOptimWrapper cannot: a data type by the device, and CPUs."""
    notices = []
    for _, wrapper in [*iter_dicts(cfg.get('optim_wrapper') or {})]:
        if type_name(wrapper.get('type')) != 'AmpOptimWrapper':
            continue
        if device in AMP_DEVICES:
            if wrapper.get('dtype') == 'auto':
                wrapper['dtype'] = choose_dtype('auto', device)
            continue
        chosen, notice = choose_precision(wrapper, device)
        for key in set(wrapper) - set(chosen):
            wrapper.pop(key)
        wrapper.update(chosen)
        notices += [notice] if notice and notice not in notices else []
    return notices


def _drop_sync_bn(cfg: Config) -> list[str]:
    layers = {
        path: node for path, node in iter_dicts(cfg.model) if type_name(node.get('type')) in SYNC_BN
    }
    for path, layer in layers.items():
        # Backbones normalize maps, and are exported by their config; necks and heads features as well.
        layer['type'] = 'BN' if 'backbone' in path else 'mmmokd.BatchNormXd'
    asked = cfg.pop('sync_bn', None) is not None or bool(layers)
    return [
        'No GPU: SyncBN runs on GPUs only, so each process takes its own batch statistics.'
    ] * asked


def _wrap_for_cpu(cfg: Config) -> list[str]:
    wrapper = ConfigDict(cfg.get('model_wrapper_cfg') or dict(type='MMDistributedDataParallel'))
    wrapper.setdefault('type', 'MMDistributedDataParallel')
    notices = []
    if 'FullySharded' in type_name(wrapper.type):
        notices = [f'No GPU: {type_name(wrapper.type)} is replaced by MMDistributedDataParallel.']
        wrapper = ConfigDict(type='MMDistributedDataParallel')
    wrapper['device_ids'] = None
    wrapper.setdefault('broadcast_buffers', False)
    if 'find_unused_parameters' in cfg:
        wrapper.setdefault('find_unused_parameters', cfg.find_unused_parameters)
    cfg.model_wrapper_cfg = wrapper
    return notices


def init_cpu_process_group(cfg: Config) -> None:
    """Join the processes on CPUs, with gloo.

    mmengine would do it as the Runner is built, but selects a CUDA device whatever the backend.

    Args:
        cfg (Config): Read for the ``timeout`` (seconds) in ``env_cfg.dist_cfg``.

    Raises:
        ConfigError: If this process was not started by torchrun.
    """
    missing = [name for name in TORCHRUN_VARIABLES if name not in os.environ]
    if missing:
        raise ConfigError(
            f'--launcher pytorch, but {", ".join(missing)} not set: start with '
            'tools/dist_train.sh or torchrun, or leave --launcher out for one process'
        )
    timeout = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
    torch.distributed.init_process_group(
        'gloo', timeout=timedelta(seconds=timeout) if timeout else None
    )


def drop_absent_hooks(cfg: Config) -> None:
    """Let ``default_hooks.NAME=None`` leave out any default hook, not mmengine's own alone.

    Args:
        cfg (Config): A full config; changed in place.
    """
    hooks = cfg.get('default_hooks') or {}
    for name in [name for name, hook in hooks.items() if hook is None]:
        if name not in MMENGINE_HOOKS:
            hooks.pop(name)


def use_cpus(cfg: Config, training: bool) -> int:
    """Choose how many threads this process computes with, for a command whose process is its own.

    Args:
        cfg (Config): A full config; see :func:`~mmmokd.utils.cpu.set_threads`.
        training (bool): Whether it trains and validates, or tests.

    Returns:
        int: How many data workers of this process work at a time.
    """
    loaders = ('train_dataloader', 'val_dataloader') if training else ('test_dataloader',)
    workers = max((cfg.get(name) or {}).get('num_workers', 0) for name in loaders)
    set_threads(workers, on_gpu=get_device() != 'cpu')
    return workers


def describe_run(cfg: Config, workers: int) -> str:
    """The first line that a run shows.

    Args:
        cfg (Config): Its config, with ``work_dir``.
        workers (int): Data workers of this process.

    Returns:
        str: Config, device, threads and folder.
    """
    name = Path(cfg.filename).name if cfg.filename else 'a config without a file'
    device = get_device()
    if device == 'cuda':
        device = torch.cuda.get_device_name()
    processes = f'{get_world_size()} processes, each ' if is_distributed() else ''
    threads = describe_threads(workers)
    return f'{name}: {processes}on {device}, {threads}; writes to {cfg.work_dir}'


def prepare_training(runner: Runner) -> None:
    """Build what a run trains on, fit it into shared memory, and log what is to come.

    Args:
        runner (Runner): Of a config with a training loop, before ``train()``.
    """
    loader = runner.train_dataloader
    if notice := fit_shared_memory(loader, free_shared_memory()):
        runner.logger.warning(notice)
    runner.logger.info(_describe_length(runner))


def _describe_length(runner: Runner) -> str:
    """Images, iterations and epochs, as far as they are known beforehand."""
    loader, loop = runner.train_dataloader, runner.train_loop
    batch = batch_size_of(loader) * get_world_size()
    try:
        images = f'trains on {len(loader.dataset)} images in batches of {batch}'
    except TypeError:  # a stream
        images = f'trains in batches of {batch}'
    if isinstance(loop, IterBasedTrainLoop):
        return f'{images}: {loop.max_iters} iterations'
    iterations = f'{len(loader)} iteration{"s"[: len(loader) != 1]} an epoch'
    return f'{images}: {iterations}, {loop.max_epochs} epoch{"s"[: loop.max_epochs != 1]}'


def build_runner(cfg: Config) -> Runner:
    """Build the Runner of a config, on a machine with or without GPUs.

    Args:
        cfg (Config): A full config, with ``work_dir`` and ``launcher``; changed in place as
            :func:`drop_idle_settings` and :func:`prepare_cfg_for_device` say, and the changes are
            logged.

    Returns:
        Runner: Ready to ``train()`` or ``test()``. Call :func:`close_process_group` afterwards.

    Raises:
        ConfigError: If the processes that the launcher stands for do not exist, the work dir cannot
            be written to, optimizers or schedules are of other branches than the model's, or features
            that a branch reads do not fit each other or the pipeline.
    """
    drop_absent_hooks(cfg)
    check_feature_maps(cfg)
    check_folder(cfg.work_dir)
    idle = [*drop_idle_settings(cfg), *fix_cached_views(cfg), *move_views_to_device(cfg)]
    notices = prepare_cfg_for_device(cfg)
    if cfg.get('launcher') == 'pytorch' and get_device() == 'cpu' and not is_distributed():
        init_cpu_process_group(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    save_whole_checkpoints(runner)
    runner.register_hook(OptimizerCheckHook())
    explain_broken_data(runner)
    end_workers_with_parent(runner)
    for notice in idle:
        runner.logger.info(notice)
    for notice in notices:
        runner.logger.log(logging.WARNING, notice)
    return runner


def close_process_group() -> None:
    """Leave the group of processes, if there is one, all at the same time.

    A process that leaves gloo while another still waits for it can abort the run at its end. So can
    one that ends while a thread of gloo still has a tensor of Python's to let go of, for which it
    needs the interpreter; PyTorch has no call that waits for this.
    """
    if is_distributed():
        backend = torch.distributed.get_backend()
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        if backend == 'gloo':
            time.sleep(GLOO_LETS_GO)
