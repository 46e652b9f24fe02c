# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Going on from a checkpoint of a run that counts otherwise, or has another config."""

from .checkpoint import check_optimizers, convert_counters, follow_config, needs_schedules
from .counts import RECORD, Position, RunCounts, position_in
from .report import deciding_changes, describe_resume, read_old_config, sets_rates

__all__ = [
    'RECORD',
    'Position',
    'RunCounts',
    'check_optimizers',
    'convert_counters',
    'deciding_changes',
    'describe_resume',
    'follow_config',
    'needs_schedules',
    'position_in',
    'read_old_config',
    'sets_rates',
]
