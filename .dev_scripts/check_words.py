# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Check spelling and phrases: American English, in the words of the field.

    python .dev_scripts/check_words.py [FILE ...]

Without files: all texts of the repository. Single words are checked by codespell, with its British
list and `.codespell/words.txt`; phrases by the table below. A line that ends with `check-words: off`
is not checked. Prints one line per finding; exits with status 1 if there are any.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import codespell_lib

ROOT = Path(__file__).resolve().parents[1]
LISTS = ROOT / '.codespell'
FOLDERS = (
    '.ci',
    '.dev_scripts',
    '.github',
    'configs',
    'docs',
    'mmmokd',
    'requirements',
    'tests',
    'tools',
)
ENDINGS = {'', '.cff', '.md', '.py', '.rst', '.sh', '.toml', '.txt', '.yaml', '.yml'}
SKIPPED = {
    'constraints.txt',
    'words.txt',
    'ignore.txt',
    'check_words.py',
    'test_words.py',
    'LICENSE',
}
SKIPPED_FOLDERS = {'__pycache__', '_build', '.mim', 'data'}
OFF = 'check-words: off'

DEGREES = 'big|close|early|far|few|high|large|late|little|long|low|many|much|old|short|small|wide'
PHRASES = {
    r'\bwhat one\b|\bone uses\b': '"you" or a passive',
    r"\bone's own\b": 'your own',
    r'\b(go(es)?|went|going) on\b': 'continue, resume',
    r'\b(?<![Tt]here )(is|are|was|were) no (?!longer|limit|more|such)\w+': 'is not a ...',
    r'\b(is|are|was|were|be) (not |still |already )*there\b(?! (is|are|to)\b)': 'exist, be installed',
    r'\bnot there\b': 'not found, does not exist',
    rf', too\b(?! ({DEGREES})\b)': 'also, as well',
    r'\bhand(s|ed|ing)? (\w+ ){0,3}over\b': 'transfer, export, pass',
    r'\b(is|are|was|were|been) tried\b|\(tried\b': 'tested',
    r'\bper cent\b': '%, percent',
    r'\bto be said\b|\bis said (of|in)\b': 'has to be set, is reported',
    r'"""(What|Which|Whether|Where|How)\b': 'a noun or an imperative',
}  # fmt: skip
CHECKS = [(re.compile(pattern), advice) for pattern, advice in PHRASES.items()]


def find_texts(root: Path = ROOT) -> list[Path]:
    """The texts of the repository, in a fixed order."""
    files = [path for path in root.iterdir() if path.is_file()]
    for folder in FOLDERS:
        files += [path for path in (root / folder).rglob('*') if path.is_file()]
    return sorted(
        path
        for path in files
        if path.suffix in ENDINGS
        and path.name not in SKIPPED
        and not path.name.startswith('.venv')
        and not SKIPPED_FOLDERS & set(path.relative_to(root).parts[:-1])
    )


def check_phrases(path: Path) -> Iterator[str]:
    """Yield a line per phrase of the table in a file."""
    for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), start=1):
        if line.endswith(OFF):
            continue
        for pattern, advice in CHECKS:
            for found in pattern.finditer(line):
                yield f'{path}:{number}: {found[0].strip()!r} ==> {advice}'


def check_spelling(paths: list[Path]) -> int:
    """Print misspelled words; return how many files have some."""
    return codespell_lib.main(
        '--builtin',
        'clear,rare,en-GB_to_en-US',
        '--dictionary',
        '-',
        '--dictionary',
        str(LISTS / 'words.txt'),
        '--ignore-words',
        str(LISTS / 'ignore.txt'),
        '--ignore-regex',
        f'.*{OFF}$',
        *map(str, paths),
    )


def main(arguments: list[str]) -> int:
    paths = [Path(argument) for argument in arguments] or find_texts()
    paths = [path for path in paths if path.name not in SKIPPED]
    findings = [finding for path in paths for finding in check_phrases(path)]
    print('\n'.join(findings), end='\n' * bool(findings))
    return int(bool(check_spelling(paths)) or bool(findings))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
