# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Running one tool from another. Light to import: a command reads its arguments first."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmmokd.utils.errors import RunStoppedError

END = 15  # lines of a failed command's output that its error repeats


def run_script(command: Sequence[Any], output: str | Path, show: re.Pattern | None = None) -> None:
    """Run a Python script as a user would, and keep all of its output in a file.

    Args:
        command (Sequence): The script and its arguments.
        output (str | Path): File for what it writes to stdout and stderr; its folder is made.
        show (re.Pattern, optional): Which lines to print meanwhile: the first group of each match.
            Defaults to None, none.

    Raises:
        RunStoppedError: If it fails; repeats the end of its output.
    """
    command, output = [str(part) for part in command], Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        output.open('w', encoding='utf-8') as file,
        subprocess.Popen(
            [sys.executable, '-u', *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
        ) as process,
    ):
        try:
            for line in process.stdout:
                file.write(line)
                if show is not None and (shown := show.search(line)):
                    print(shown[1], flush=True)
        except BaseException:
            # Ctrl-C reaches both processes; what ends this one alone does not reach the other.
            process.terminate()
            raise
    if process.returncode:
        end = '\n'.join(output.read_text(encoding='utf-8').splitlines()[-END:])
        raise RunStoppedError(
            f'{Path(command[0]).name} ended with status {process.returncode}:\n{end}\n'
            f'(all of it: {output})'
        )
