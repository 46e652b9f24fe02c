# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from mmmokd.cli.config import load_config
from mmmokd.cli.run_tool import run_tool, tool_parser
from mmmokd.utils import CollapseError


def test_collapse_is_one_message(capsys, monkeypatch):
    monkeypatch.delenv('MMMOKD_TRACEBACK', raising=False)
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '0')

    def collapse():
        raise CollapseError("Branch 'cnn' has collapsed")

    with pytest.raises(SystemExit) as exit_info:
        run_tool(collapse)
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.startswith("error: Branch 'cnn' has collapsed\n")


def test_torchrun_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv('MMMOKD_TRACEBACK', raising=False)
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '0')
    file = tmp_path / 'error.json'
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(file))
    monkeypatch.setenv('RANK', '1')
    for command, message in (
        (lambda: load_config('nowhere.py'), 'error: config nowhere.py does not exist.'),
        (lambda: tool_parser('').parse_args([]), 'error: the following arguments are required'),
    ):
        with pytest.raises(SystemExit) as exit_info:
            run_tool(command)
        assert exit_info.value.code == 2
        # As torchrun reads it.
        failure = ProcessFailure(local_rank=1, pid=1, exitcode=2, error_file=str(file))
        assert failure.message['message'].startswith(message)
        assert message.removeprefix('error') in capsys.readouterr().err
