# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Functions of this package in processes of their own.

A child is this file run with a module, a function and its settings. What it prints after ``MARK`` is
its answer; a generator answers once for every line that it is sent.
"""

import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

MARK = 'speed-answer:'
FOLDER = Path(__file__).resolve().parent


class Child:
    """A process that runs a generator function, step by step.

    Args:
        module (str): Module of the function.
        function (str): Its name; it takes the settings.
        settings (Settings): What the user asked for.
        environment (dict[str, str | None], optional): Variables to set, or to leave out where None.
            Defaults to None.
    """

    def __init__(
        self,
        module: str,
        function: str,
        settings: Any,
        environment: Mapping[str, str | None] | None = None,
    ) -> None:
        env = {**os.environ, **(environment or {})}
        text = json.dumps([module, function, asdict(settings)])
        self.process = subprocess.Popen(
            [sys.executable, str(FOLDER / 'children.py'), text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={key: value for key, value in env.items() if value is not None},
        )

    def ask(self) -> Any:
        """Let it go to the next answer.

        Returns:
            Any: The answer.

        Raises:
            RuntimeError: If it ended instead.
        """
        if self.process.poll() is None:
            self.process.stdin.write('\n')
            self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith(MARK):
                return json.loads(line[len(MARK) :])
        raise RuntimeError(f'a process of the benchmark ended with {self.process.wait()}')

    def __enter__(self) -> 'Child':
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def run_child(module: str, function: str, settings: Any, **kwargs) -> Any:
    """Run a function in a process of its own.

    Args:
        module (str): Its module.
        function (str): Its name; it takes the settings.
        settings (Settings): What the user asked for.
        **kwargs: See :class:`Child`.

    Returns:
        Any: What the function returns.

    Raises:
        RuntimeError: If the process fails.
    """
    with Child(module, function, settings, **kwargs) as child:
        return child.ask()


def main() -> None:
    sys.path[0] = str(FOLDER.parent)
    module, function, values = json.loads(sys.argv[1])

    from speed.result import Settings

    sys.stdin.readline()
    answer = getattr(importlib.import_module(module), function)(Settings(**values))
    answers = answer if inspect.isgenerator(answer) else [answer]
    for each in answers:
        print(MARK + json.dumps(each), flush=True)
        sys.stdin.readline()


if __name__ == '__main__':
    main()
