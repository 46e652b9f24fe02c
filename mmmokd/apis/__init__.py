# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""What a Python user and the tools call, each imported as it is first asked for."""

import importlib
from typing import Any

PLACES = {
    'build_runner': '.runtime',
    'check_resumable': '.checkpoint',
    'check_target': 'mmmokd.weights',
    'close_process_group': '.runtime',
    'convert_from_released': '.convert_released',
    'convert_to_released': '.convert_released',
    'enable_amp': '.config',
    'explain_error': '.user_errors',
    'find_resume_checkpoint': '.checkpoint',
    'from_released': 'mmmokd.weights',
    'init_cpu_process_group': '.runtime',
    'is_user_error': '.user_errors',
    'load_checkpoint_strict': '.checkpoint',
    'load_config': '.config',
    'prepare_cfg_for_device': '.runtime',
    'read_checkpoint': 'mmmokd.weights',
    'read_file': 'mmmokd.weights',
    'require_keys': '.config',
    'run_tool': '.cli',
    'save_file': 'mmmokd.weights',
    'set_dataloader_defaults': '.config',
    'set_work_dir': '.config',
    'to_released': 'mmmokd.weights',
}

__all__ = list(PLACES)


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(importlib.import_module(PLACES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *PLACES})
