# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_pages_build_without_a_warning(tmp_path):
    command = (sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-n', '-q', '-c', 'docs', '.')
    done = subprocess.run([*command, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    index = (tmp_path / 'docs' / 'index.html').read_text()
    for page in ('README', 'docs/train', 'docs/evaluate', 'docs/hand_over', 'configs/mokd/README'):
        assert (tmp_path / f'{page}.html').is_file()
        assert f'{Path(page).name}.html"' in index, page
    start = (tmp_path / 'README.html').read_text()
    assert 'class="mermaid"' in start and 'href="docs/hand_over.html"' in start
