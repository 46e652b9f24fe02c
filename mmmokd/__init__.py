# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""MOKD (Multi-Mode Online Knowledge Distillation, CVPR 2023) for mmpretrain."""

import signal
import sys

from .version import __version__

__all__ = ['__version__', 'registry', 'weights']

# Importing mmmokd registers all of it, `Pretrained` of mmengine included. The one exception is a
# program that says `__mmmokd_reads_arguments_first__ = True`, as the tools do: it imports
# mmmokd.cli.run_tool, which is light, reads its arguments, and only then whatever takes seconds.
# mmmokd.cli.config and .runtime, without which nothing runs, register what is registered here.
if getattr(sys.modules.get('__main__'), '__mmmokd_reads_arguments_first__', False):
    # Until the tool takes care of it: no traceback of imports. What nohup ignores stays ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
else:
    from . import registry, weights
