# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from mmmokd.weights import (
    check_target,
    from_released,
    read_checkpoint,
    read_file,
    save_file,
    to_released,
)

from .checkpoint import check_resumable, find_resume_checkpoint, load_checkpoint_strict
from .cli import run_tool
from .config import (
    enable_amp,
    load_config,
    require_keys,
    set_dataloader_defaults,
    set_work_dir,
)
from .convert_released import convert_from_released, convert_to_released
from .runtime import (
    build_runner,
    close_process_group,
    init_cpu_process_group,
    prepare_cfg_for_device,
)
from .user_errors import explain_error, is_user_error

__all__ = [
    'build_runner',
    'check_resumable',
    'check_target',
    'close_process_group',
    'convert_from_released',
    'convert_to_released',
    'enable_amp',
    'explain_error',
    'find_resume_checkpoint',
    'from_released',
    'init_cpu_process_group',
    'is_user_error',
    'load_checkpoint_strict',
    'load_config',
    'prepare_cfg_for_device',
    'read_checkpoint',
    'read_file',
    'require_keys',
    'run_tool',
    'save_file',
    'set_dataloader_defaults',
    'set_work_dir',
    'to_released',
]
