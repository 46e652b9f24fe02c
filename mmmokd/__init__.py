# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""MOKD (Multi-Mode Online Knowledge Distillation, CVPR 2023) for mmpretrain.

Importing the package registers all that its configs name, lets mmengine find these configs by
``mmmokd::``, and takes the place of mmengine's ``Pretrained``: see
:class:`mmmokd.weights.PretrainedInit`, and :mod:`mmmokd.weights.initialization` for how loaded weights
stay. :mod:`mmmokd.apis` has the functions for Python users.
"""

import signal
import sys

from .version import __version__

__all__ = ['__version__', 'registry', 'weights']

# The one exception is a program with `__mmmokd_reads_arguments_first__ = True`, as the tools have it:
# it imports mmmokd.cli.run_tool, which is light, reads its arguments, and only then what takes
# seconds. mmmokd.cli.config and mmmokd.engine.runners, without which nothing runs, then register all.
if getattr(sys.modules.get('__main__'), '__mmmokd_reads_arguments_first__', False):
    # Until the tool handles it: no traceback of imports. What nohup ignores stays ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
else:
    from . import registry, weights
