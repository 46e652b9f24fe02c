# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The pages: they build, their links lead somewhere, their Python blocks are valid."""

import ast
import posixpath
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ('README.md', 'CHANGELOG.md', 'CONTRIBUTING.md')]
PAGES += sorted((ROOT / 'docs' / 'en').rglob('*.md'))
PAGES += sorted((ROOT / 'configs').rglob('README.md'))
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
FENCE = re.compile(r'^(`{3,}).*?\n.*?^\1$', re.DOTALL | re.MULTILINE)
LINK = re.compile(r'\]\(([^)\s]+)\)')
INCLUDE = re.compile(r'```\{literalinclude\} (\S+)\n(.*?)```', re.DOTALL)
NOT_PUBLIC = {'cli', 'utils'}  # packages without a page in the API reference


def find_anchors(page: Path) -> set[str]:
    """The anchors that GitHub and MyST give to the headings of a page."""
    text = FENCE.sub('', page.read_text(encoding='utf-8'))
    headings = re.findall(r'^#+ (.+)$', text, re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def test_pages_build_without_a_warning(tmp_path):
    command = (sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-n', '-q', '-c', 'docs', '.')
    done = subprocess.run([*command, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in NAMES:
        assert (tmp_path / name).with_suffix('.html').is_file(), name
    start = (tmp_path / 'README.html').read_text()
    assert 'class="mermaid"' in start and 'href="docs/en/user_guides/transfer.html"' in start
    reference = (tmp_path / 'docs' / 'en' / 'api' / 'models.html').read_text()
    assert 'id="mmmokd.models.selfsup.MOKD"' in reference
    assert 'num_global_views' in reference  # from the docstring


def test_every_public_package_has_a_page_in_the_reference():
    packages = {path.parent.name for path in (ROOT / 'mmmokd').glob('*/__init__.py')}
    pages = {path.stem for path in (ROOT / 'docs' / 'en' / 'api').glob('*.rst')}
    assert pages - {'index'} == packages - NOT_PUBLIC


@pytest.mark.parametrize('name', NAMES)
def test_links(name):
    page = ROOT / name
    for link in LINK.findall(FENCE.sub('', page.read_text(encoding='utf-8'))):
        if re.match(r'[a-z]+:', link):
            continue
        path, _, anchor = link.partition('#')
        target = Path(posixpath.normpath(page.parent / path)) if path else page
        assert target.exists(), link
        assert not anchor or anchor in find_anchors(target), link


@pytest.mark.parametrize('name', [name for name in NAMES if name.startswith('docs/')])
def test_included_code(name):
    """Each file that a page includes exists, with one pair of each pair of markers."""
    page = ROOT / name
    for path, options in INCLUDE.findall(page.read_text(encoding='utf-8')):
        code = (page.parent / path).read_text(encoding='utf-8')
        start, end = re.findall(r'^:(?:start-after|end-before): "(.+)"$', options, re.MULTILINE)
        assert code.count(f'{start}\n') == code.count(f'{end}\n') == 1, (path, start)
        assert code.index(start) < code.index(end), (path, start)


@pytest.mark.parametrize('name', NAMES)
def test_python_blocks(name):
    """Python is valid, and a block that is a piece of a config makes only keys and dicts of it."""
    text = (ROOT / name).read_text(encoding='utf-8')
    for block in re.findall(r'^```python\n(.*?)^```', text, re.DOTALL | re.MULTILINE):
        tree = ast.parse(block)
        if any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in tree.body):
            continue  # runs in test_documented_commands.py
        if '_base_.' not in block:
            exec(compile(tree, name, 'exec'), {})
