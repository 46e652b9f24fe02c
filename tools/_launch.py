# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""torchrun, which ends with the message of the mistake that ended the tool it ran.

    python tools/_launch.py [OPTION OF torchrun ...] TOOL [ARGUMENT ...]

torchrun's own report, of 30 lines, would stand below that message. For tools/_launch.sh.
"""

import logging
import os
import signal
import sys

INTERRUPTED = (130, 143)  # exit status after Ctrl-C, after SIGTERM


# Their warnings tell which process gets which signal as a run is stopped.
WORDY = (
    'torch.distributed.elastic.agent.server.api',
    'torch.distributed.elastic.multiprocessing.api',
)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of the imports, which take a while
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    for name in WORDY:
        logging.getLogger(name).setLevel(logging.ERROR)
    args = parse_args(sys.argv[1:])
    if args.nproc_per_node != '1' and 'OMP_NUM_THREADS' not in os.environ:
        # As torchrun itself would, with ten lines about it. On CPUs the tools then choose better.
        os.environ.update(OMP_NUM_THREADS='1', MMMOKD_LAUNCHER_CHOSE_THREADS='1')
    try:
        run(args)
    except SignalException as error:  # the processes have it as well; the first of them reports it
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        # Of processes that ended by themselves, and not because another one did.
        said = [
            failure.message['message']
            for failure in error.failures.values()
            if isinstance(failure.message, dict)
        ]
        if not said:
            raise
        print(said[0], file=sys.stderr)
        first = min(error.failures.values(), key=lambda failure: failure.timestamp)
        sys.exit(first.exitcode if first.exitcode in INTERRUPTED else 2)


if __name__ == '__main__':
    main()
