# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM_ENTRIES = ('configs', 'tools', 'model-index.yml')
# Tools that read requirements/ or resources/, which only a checkout or an unpacked sdist has.
SOURCE_TOOLS = (
    'build_mmcv_ops.sh',
    'quickstart',
    'quickstart.sh',
    'rivals',  # of benchmarks/
    'rivals.py',
    'run_tests.sh',
    'setup_env.sh',
)


def requirements(name: str) -> list[str]:
    """Requirements of ``requirements/{name}.txt``, with those of the files that it includes."""
    found = []
    for line in (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines():
        line = line.partition('#')[0].strip()
        if line.startswith('-r '):
            found += requirements(line[3:].strip().removesuffix('.txt'))
        elif line:
            found.append(line)
    return found


def version() -> str:
    text = (ROOT / 'mmmokd' / 'version.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '(.+)'$", text, re.MULTILINE).group(1)


def add_mim_extension(package_dir: Path, link: bool) -> None:
    """Put configs, tools and the model index where ``mim`` and mmengine look: ``mmmokd/.mim``.

    Args:
        package_dir (Path): The package's folder, of the sources or of the build.
        link (bool): Link to the sources, so that an editable installation shows edits at once;
            otherwise copy, without the tools that work in the sources alone.
    """
    left_out = {
        'configs': shutil.ignore_patterns('__pycache__', '*.pyc'),
        'tools': shutil.ignore_patterns('__pycache__', '*.pyc', *SOURCE_TOOLS),
    }
    mim = package_dir / '.mim'
    shutil.rmtree(mim, ignore_errors=True)
    mim.mkdir(parents=True)
    for name in MIM_ENTRIES:
        source, target = ROOT / name, mim / name
        if link:
            target.symlink_to(os.path.relpath(source, mim), target_is_directory=source.is_dir())
        elif source.is_dir():
            shutil.copytree(source, target, ignore=left_out[name])
        else:
            shutil.copy2(source, target)


class BuildPy(build_py):
    """Adds ``.mim`` to the build, which leaves no copy behind in the sources."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            add_mim_extension(ROOT / 'mmmokd', link=os.name != 'nt')
        else:
            add_mim_extension(Path(self.build_lib) / 'mmmokd', link=False)


EXTRA_FILES = ('optional', 'images', 'loggers', 'det', 'seg', 'transformers', 'tests', 'docs')
EXTRAS = {name: requirements(name) for name in EXTRA_FILES}
EXTRAS['mim'] = requirements('mminstall')
EXTRAS['all'] = sorted(
    {item for name in ('mim', 'optional', 'images', 'loggers') for item in EXTRAS[name]}
)

setup(
    name='mmmokd',
    version=version(),
    description='Multi-Mode Online Knowledge Distillation (MOKD) for mmpretrain',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='mmmokd contributors',
    keywords='computer vision, self-supervised learning, knowledge distillation',
    license='Apache-2.0',
    license_files=['LICENSE'],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['mmmokd', 'mmmokd.*']),
    python_requires='>=3.10',
    install_requires=requirements('runtime'),
    extras_require=EXTRAS,
    cmdclass={'build_py': BuildPy},
    zip_safe=False,
)
