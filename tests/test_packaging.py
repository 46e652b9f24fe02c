# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import mmmokd

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (
    '.ci',
    '.codespell',
    '.dev_scripts',
    '.github',
    'configs',
    'docs',
    'mmmokd',
    'requirements',
    'resources',
    'tests',
    'tools',
)
FILES = (
    '.gitignore',
    '.pre-commit-config.yaml',
    'CHANGELOG.md',
    'CITATION.cff',
    'CONTRIBUTING.md',
    'LICENSE',
    'MANIFEST.in',
    'README.md',
    'model-index.yml',
    'pyproject.toml',
    'requirements.txt',
    'setup.py',
)
SOURCE_TOOLS = {  # need what is beside tools/ in the sources
    'build_mmcv_ops.sh',
    'quickstart',
    'quickstart.sh',
    'run_tests.sh',
    'setup_env.sh',
}
SOURCE_BENCHMARK = 'benchmarks/rivals'  # likewise
BUILD_SDIST = "from setuptools.build_meta import build_sdist; print(build_sdist('dist'))"


def requirement_lines(file: Path) -> list[str]:
    lines = (line.partition('#')[0].strip() for line in file.read_text().splitlines())
    return [line for line in lines if line and not line.startswith('-r ')]


def python(*command: str | Path, cwd: Path) -> str:
    """Run Python in a folder that comes first in its path; what it printed."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, 'PYTHONPATH': str(cwd)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def sources(tmp_path_factory) -> Path:
    """A copy of the sources."""
    copy = tmp_path_factory.mktemp('sources') / 'checkout'
    ignored = shutil.ignore_patterns('__pycache__', '.mim', '_build')
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope='module')
def sdist(sources) -> Path:
    """An sdist, built without the network and unpacked."""
    output = python('-c', BUILD_SDIST, cwd=sources)
    with tarfile.open(sources / 'dist' / output.splitlines()[-1]) as archive:
        archive.extractall(sources / 'dist', filter='data')
    return sources / 'dist' / f'mmmokd-{mmmokd.__version__}'


@pytest.fixture(scope='module')
def wheel(sdist, tmp_path_factory) -> zipfile.ZipFile:
    """A wheel, built without the network from the sdist."""
    folder = tmp_path_factory.mktemp('wheels')
    options = ('--no-deps', '--no-index', '--no-build-isolation', '--wheel-dir', folder)
    python('-m', 'pip', '--disable-pip-version-check', 'wheel', *options, '.', cwd=sdist)
    assert not (sdist / 'mmmokd' / '.mim').exists(), 'the build left files in the sources'
    (built,) = folder.glob('*.whl')
    with zipfile.ZipFile(built) as archive:
        yield archive


def test_sdist_holds_all_sources(sources, sdist):
    for folder, _, files in os.walk(sources):
        folder = Path(folder).relative_to(sources)
        if folder.parts[:1] not in (('dist',), ('mmmokd.egg-info',)):
            for file in files:
                assert (sdist / folder / file).is_file(), folder / file
    size = sum(file.stat().st_size for file in sdist.rglob('*') if file.is_file())
    assert size < 15e6


def test_tests_run_from_the_sdist(sdist):
    command = ('-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'tests/test_models/test_selfsup')
    output = python(*command, '--collect-only', cwd=sdist)
    assert 'test_parity.py' in output


def test_wheel_holds_the_package_configs_and_tools(wheel):
    names = set(wheel.namelist())
    for folder, suffixes in (('mmmokd', ['.py']), ('configs', ['.py', '.md', '.yml'])):
        prefix = '' if folder == 'mmmokd' else 'mmmokd/.mim/'
        for file in (ROOT / folder).rglob('*'):
            if file.suffix in suffixes and '.mim' not in file.parts:
                assert prefix + file.relative_to(ROOT).as_posix() in names
    tools = {file.name for file in (ROOT / 'tools').iterdir() if file.name != '__pycache__'}
    assert SOURCE_TOOLS < tools
    shipped = {name.split('/')[3] for name in names if name.startswith('mmmokd/.mim/tools/')}
    assert shipped == tools - SOURCE_TOOLS
    assert 'mmmokd/.mim/model-index.yml' in names
    assert {name.split('/')[0].partition('-')[0] for name in names} == {'mmmokd'}
    assert not [name for name in names if '__pycache__' in name]


def test_tools_of_the_wheel_need_nothing_that_it_lacks(wheel, tmp_path):
    for name in wheel.namelist():
        if name.startswith('mmmokd/.mim/tools/'):
            text = wheel.read(name).decode()
            assert SOURCE_BENCHMARK not in name
            for absent in (*SOURCE_TOOLS, SOURCE_BENCHMARK, 'requirements/', 'resources'):
                assert absent not in text, f'{name} speaks of {absent}'
    wheel.extractall(tmp_path)
    train = tmp_path / 'mmmokd' / '.mim' / 'tools' / 'train.py'
    assert 'usage: train.py' in python(train, '--help', cwd=tmp_path)


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
    constraints = ROOT / 'requirements' / 'constraints.txt'
    for line in requirement_lines(constraints):
        requirement = Requirement(line)
        pins[requirement.name.lower().replace('_', '-')] = requirement
    for file in set(constraints.parent.glob('*.txt')) - {constraints}:
        for line in requirement_lines(file):
            requirement = Requirement(line)
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
