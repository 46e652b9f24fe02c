# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from pathlib import Path

CHECK = Path(__file__).resolve().parents[1] / '.dev_scripts' / 'check_words.py'


def check(*files) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, CHECK, *files], capture_output=True, text=True)


def test_all_texts():
    done = check()
    assert done.returncode == 0, done.stdout + done.stderr


def test_findings(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text(
        'A picture of a grey cat.\nIt is no file, and is not there.\nIt goes on, too.\n'
        'The colours are too many, there is no limit, and it reads, too few times.\n'
        'What goes on in a colour is quoted  <!-- check-words: off\n'
    )
    done = check(page)
    assert done.returncode == 1, done.stderr
    found = sorted(line.removeprefix(f'{page}:') for line in done.stdout.splitlines())
    assert found == [
        '1: grey ==> gray',
        '1: picture ==> image',
        "2: 'is no file' ==> is not a ...",
        "2: 'is not there' ==> exist, be installed",
        "2: 'not there' ==> not found, does not exist",
        "3: ', too' ==> also, as well",
        "3: 'goes on' ==> continue, resume",
        '4: colours ==> colors',
    ]
    page.write_text('An image of a gray cat.\n')
    assert check(page).returncode == 0
