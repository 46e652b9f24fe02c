# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Configuration of the documentation. Build it from the root of the repository:

    pip install -r requirements/docs.txt -c requirements/constraints.txt
    sphinx-build -W -c docs . docs/_build   # writes docs/_build/docs/en/index.html

The source folder is the root, so that links between pages, configs and tools work on the site as
they do in the repository.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the API pages describe this checkout

project = 'mmmokd'
author = 'mmmokd contributors'
version = release = re.search(
    r"__version__ = '(.+)'", (ROOT / 'mmmokd' / 'version.py').read_text(encoding='utf-8')
).group(1)

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinxcontrib.mermaid',
]
FOLDERS = ('configs', 'docs')  # other folders may hold a dataset and are not searched
include_patterns = ['README.md', 'CHANGELOG.md', 'CONTRIBUTING.md']
include_patterns += [f'{folder}/**.{ending}' for folder in FOLDERS for ending in ('md', 'rst')]
exclude_patterns = ['docs/_build']
exclude_patterns += [
    path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in FOLDERS
]
root_doc = 'docs/en/index'

myst_heading_anchors = 3  # as on GitHub
myst_fence_as_directive = ['mermaid']
myst_enable_extensions = ['colon_fence']

autodoc_member_order = 'bysource'
autodoc_typehints = 'none'  # the docstrings give types and shapes
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Types in docstrings are text for readers, such as `list[Tensor]`.
nitpick_ignore_regex = [('py:.*', '.*')]

html_theme = 'furo'
html_title = f'{project} {release}'
