# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The pages of this repository as a site, from the folder above this one:

    pip install -r requirements/docs.txt -c requirements/constraints.txt
    sphinx-build -W -c docs . docs/_build   # writes docs/_build/docs/index.html

The sources are the Markdown files as they lie in the repository, so that their links to each other,
to configs and to tools hold there and here.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

project = 'mmmokd'
author = 'mmmokd contributors'
version = release = re.search(
    r"__version__ = '(.+)'", (ROOT / 'mmmokd' / 'version.py').read_text(encoding='utf-8')
).group(1)

extensions = ['myst_parser', 'sphinxcontrib.mermaid']
PAGES = ('configs', 'docs')  # nothing is looked for in other folders, which may hold a data set
include_patterns = ['README.md', 'CHANGELOG.md', *(f'{folder}/**.md' for folder in PAGES)]
exclude_patterns = ['docs/_build']
exclude_patterns += [
    path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in PAGES
]
root_doc = 'docs/index'

myst_heading_anchors = 3  # links to headings, as GitHub makes them
myst_fence_as_directive = ['mermaid']

html_theme = 'furo'
html_title = f'{project} {release}'
