# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import mmmokd

ROOT = Path(__file__).resolve().parents[1]
PACKED = ('configs', 'mmmokd', 'requirements', 'tools')
FILES = ('CHANGELOG.md', 'CITATION.cff', 'LICENSE', 'MANIFEST.in', 'README.md', 'model-index.yml')
BUILD = ('pyproject.toml', 'requirements.txt', 'setup.py')


def requirement_lines(file: Path) -> list[str]:
    lines = (line.partition('#')[0].strip() for line in file.read_text().splitlines())
    return [line for line in lines if line and not line.startswith('-r ')]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """A wheel, built without the network from a copy of the sources."""
    copy = tmp_path_factory.mktemp('sources')
    for name in PACKED:
        ignored = shutil.ignore_patterns('__pycache__', '.mim')
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in (*FILES, *BUILD):
        shutil.copy(ROOT / name, copy / name)
    pip = (sys.executable, '-m', 'pip', '--disable-pip-version-check', 'wheel')
    options = ('--no-deps', '--no-index', '--no-build-isolation', '--wheel-dir', copy / 'wheels')
    done = subprocess.run([*pip, *options, '.'], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (copy / 'mmmokd' / '.mim').exists(), 'the build left files in the sources'
    (built,) = (copy / 'wheels').glob('*.whl')
    with zipfile.ZipFile(built) as archive:
        yield archive


def test_wheel_holds_the_package_configs_and_tools(wheel):
    names = set(wheel.namelist())
    for folder, suffixes in (('mmmokd', ['.py']), ('configs', ['.py', '.md', '.yml'])):
        prefix = '' if folder == 'mmmokd' else 'mmmokd/.mim/'
        for file in (ROOT / folder).rglob('*'):
            if file.suffix in suffixes and '.mim' not in file.parts:
                assert prefix + file.relative_to(ROOT).as_posix() in names
    for tool in (ROOT / 'tools').glob('*.*'):
        assert f'mmmokd/.mim/tools/{tool.name}' in names
    assert 'mmmokd/.mim/model-index.yml' in names
    assert not [name for name in names if name.startswith('tests') or '__pycache__' in name]


def test_wheel_metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith('.dist-info/METADATA'))
    metadata = wheel.read(name).decode()
    assert f'Version: {mmmokd.__version__}\n' in metadata
    assert 'Requires-Python: >=3.10\n' in metadata
    assert "Requires-Dist: onedl-mmpretrain<2.0,>=1.3.6; extra == 'mim'" in metadata.replace(
        '"', "'"
    )
    for extra in ('mim', 'optional', 'tests', 'det', 'seg', 'all'):
        assert f'Provides-Extra: {extra}\n' in metadata


def test_requirements_parse_and_agree_with_the_constraints():
    pins = {}
    for line in requirement_lines(ROOT / 'requirements' / 'constraints.txt'):
        requirement = Requirement(line)
        pins[requirement.name.lower().replace('_', '-')] = requirement
    tried = ('runtime', 'mminstall', 'optional', 'tests', 'det', 'seg', 'ops', 'loggers')
    for file in (ROOT / 'requirements').glob('*.txt'):
        for line in requirement_lines(file):
            requirement = Requirement(line)
            if file.stem not in tried:
                continue
            pin = pins[requirement.name.lower()]
            (exact,) = pin.specifier
            assert exact.operator == '==', pin
            assert requirement.specifier.contains(exact.version), (line, str(pin))


def test_one_version_everywhere():
    newest = re.search(r'^## (\S+)', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE).group(1)
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert newest == citation['version'] == mmmokd.__version__


def test_model_index_imports_what_is_there():
    for file in yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']:
        assert (ROOT / file).is_file(), file


def test_quick_scripts_parse():
    for script in [*(ROOT / 'tools').rglob('*.sh'), ROOT / '.ci' / 'run']:
        subprocess.run(['bash', '-n', script], check=True)
