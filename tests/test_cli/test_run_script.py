# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import re

import pytest

from mmmokd.cli.run_script import run_script
from mmmokd.utils.errors import RunStoppedError


@pytest.fixture
def script(tmp_path):
    path = tmp_path / 'my script.py'
    path.write_text(
        'import sys\n'
        'for i in range(20):\n'
        "    print('line', i, file=sys.stderr if i % 2 else sys.stdout)\n"
        'sys.exit(int(sys.argv[1]))\n'
    )
    return path


def test_keeps_all_output_and_shows_some(script, tmp_path, capsys):
    output = tmp_path / 'new' / 'output.txt'
    run_script([script, 0], output, show=re.compile('line (.*7)'))
    assert output.read_text() == ''.join(f'line {i}\n' for i in range(20))
    assert capsys.readouterr().out == '7\n17\n'


def test_failure_repeats_the_end_of_the_output(script, tmp_path):
    output = tmp_path / 'output.txt'
    with pytest.raises(
        RunStoppedError, match='^my script.py ended with status 3:\nline 5\n'
    ) as error:
        run_script([script, 3], output)
    assert str(error.value).endswith(f'line 19\n(all of it: {output})')
