# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Write our results into the READMEs and metafiles of the configs, from the logs in the repository.

    python .dev_scripts/model_zoo.py [--add RECORD ...] [--check]

A log is a record of tools/benchmarks/rivals.py (`record.json` of a run), kept as
`configs/FOLDER/results/PAIR_METHOD_seedN.json`. Without a log no result: rows without one have a dash,
and `Results: null`. `--add` takes records into the folder of their config; `--check` writes nothing,
prints one line per file that differs from its logs, and exits with status 1 if there are any.
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse
import json
import re
import shutil
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmmokd.utils.table import markdown_table, mean_and_error  # noqa: E402

BEGIN, END = '<!-- results of logs: begin -->', '<!-- results of logs: end -->'
BLOCK = re.compile(f'{BEGIN}\n.*?{END}', re.DOTALL)
HEADER = (
    'config', 'method', 'branch', 'k-NN, %', 'linear, %', 'epochs', 'seeds', 'machine',
    'training', 'commit', 'logs',
)  # fmt: skip
KEYS = ('knn_top1', 'linear_top1')
NEEDED = (
    'config', 'method', 'pair', 'seed', 'options', 'command', 'epochs', 'seconds', 'machine',
    'curves', 'results',
)  # fmt: skip
# Options that do not make another training of it.
HARMLESS = re.compile(
    r'randomness\.seed|(val|test)_.*|default_hooks\.(logger|checkpoint|acceleration)\..*'
    r'|data_preprocessor\.(type|keep_images)'
)
LARGEST = 64 * 2**10  # bytes of a log
NOT_MEASURED = '–'


def read_logs(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the logs of a folder of configs.

    Args:
        folder (Path): The folder, in `configs/`.

    Returns:
        dict[str, dict]: By the name of the file.

    Raises:
        ValueError: If one is not a log of such a config, or large.
    """
    logs = {}
    for file in sorted((folder / 'results').glob('*.json')):
        log = json.loads(file.read_text(encoding='utf-8'))
        lacking = [key for key in NEEDED if key not in log]
        if lacking:
            raise ValueError(
                f'{file}: no record of tools/benchmarks/rivals.py: it has no {lacking[0]}'
            )
        if file.stat().st_size > LARGEST:
            raise ValueError(f'{file} has {file.stat().st_size} bytes; at most {LARGEST} are kept')
        if file.name != log_name(log):
            raise ValueError(f'{file} should be named {log_name(log)}')
        config = folder.parents[1] / log['config']
        if not config.is_file() or folder not in config.parents:
            raise ValueError(f'{file}: {log["config"]} does not exist in {folder.name}')
        for name, values in log['results'].items():
            points = log['curves'].get(name, {}).get('knn_top1')
            if points and points[-1][0] != log['epochs']:
                raise ValueError(f'{file}: the curve of {name} does not end at its last epoch')
            if not 0 <= values['knn_top1'] <= 100:
                raise ValueError(f'{file}: {name} has a k-NN accuracy of {values["knn_top1"]} %')
        logs[file.name] = log
    return logs


def log_name(log: dict[str, Any]) -> str:
    """Name the file of a log.

    Args:
        log (dict): Its content.

    Returns:
        str: The name.
    """
    return f'{log["pair"]}_{log["method"].replace("@", "-only-")}_seed{log["seed"]}.json'


def add_log(record: Path, root: Path) -> Path:
    """Take a record into the repository.

    Args:
        record (Path): `record.json` of a run.
        root (Path): The checkout.

    Returns:
        Path: Its copy.

    Raises:
        ValueError: If it is of a config of another place.
    """
    log = json.loads(record.read_text(encoding='utf-8'))
    parts = Path(log['config']).parts
    if parts[0] != 'configs' or len(parts) < 3:
        raise ValueError(f'{record} is of {log["config"]}, which is not a config of the repository')
    target = root / 'configs' / parts[1] / 'results' / log_name(log)
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(record, target)
    return target


def group(logs: dict[str, dict]) -> Iterator[list[tuple[str, dict]]]:
    """Group the logs of one training with several seeds.

    Args:
        logs (dict[str, dict]): By file.

    Yields:
        list[tuple[str, dict]]: Files and logs, by seed.
    """
    groups: dict[tuple[str, str], list] = {}
    for name, log in logs.items():
        groups.setdefault((log['pair'], log['method']), []).append((name, log))
    for members in groups.values():
        yield sorted(members, key=lambda each: each[1]['seed'])


def results_block(folder: Path, logs: dict[str, dict]) -> str:
    """Write all results of a folder.

    Args:
        folder (Path): Of the configs.
        logs (dict[str, dict]): By file.

    Returns:
        str: A table in Markdown, and the commands; '' without logs.
    """
    rows, commands = [], []
    for members in group(logs):
        runs = [log for _, log in members]
        first, config = runs[0], Path(runs[0]['config'])
        seeds = [str(run['seed']) for run in runs]
        links = [
            f'[{seed}](./results/{name})' for seed, (name, _) in zip(seeds, members, strict=True)
        ]
        minutes = statistics.fmean(run['seconds'] for run in runs) / 60
        machine = first['machine']
        commits = ', '.join(dict.fromkeys(str(run['machine']['commit']) for run in runs))
        for network in first['results']:
            values = [run['results'].get(network, {}) for run in runs]
            cells = [mean_and_error([each.get(key) for each in values]) for key in KEYS]
            where = machine['gpu'] or f'{machine["cpu"]}, threads: {machine["threads"]}'
            rows.append([
                f'`{config.stem}`', first['method'], network, *cells,
                str(first['epochs']), str(len(runs)), where, f'{minutes:.1f} min',
                commits, ', '.join(links),
            ])  # fmt: skip
        command = first['command'].replace(f'--seeds {seeds[0]}', f'--seeds {" ".join(seeds)}')
        commands.append(command)
    if not rows:
        return ''
    return (
        f'Our results, mean ± standard error over the seeds; each by the command below.\n\n'
        f'{markdown_table(HEADER, rows)}\n\n```shell\n' + '\n'.join(commands) + '\n```\n'
    )


def whole_trainings(logs: dict[str, dict], epochs: dict[str, int]) -> dict[str, list[dict]]:
    """Find the logs of configs that were trained as they are.

    Args:
        logs (dict[str, dict]): By file.
        epochs (dict[str, int]): By config, as the metafile has them.

    Returns:
        dict[str, list[dict]]: Logs of all seeds, by config.
    """
    found: dict[str, list[dict]] = {}
    for log in logs.values():
        changed = [key for key in log['options'] if not HARMLESS.fullmatch(key)]
        as_it_is = log.get('size') is None and log.get('data') is None and not changed
        if as_it_is and epochs.get(log['config']) == log['epochs']:
            found.setdefault(log['config'], []).append(log)
    return found


def readme_text(folder: Path, text: str, logs: dict[str, dict], whole: dict[str, list]) -> str:
    """Write the results into a README.

    Args:
        folder (Path): Of the configs.
        text (str): Of the README.
        logs (dict[str, dict]): By file.
        whole (dict[str, list[dict]]): From :func:`whole_trainings`.

    Returns:
        str: The new text.

    Raises:
        ValueError: If there are logs, and no place for them.
    """
    if not BLOCK.search(text):
        if not logs:
            return text
        raise ValueError(f'{folder / "README.md"} lacks {BEGIN} and {END}')
    block = f'{BEGIN}\n{results_block(folder, logs)}{END}'
    lines = BLOCK.sub(lambda _: block, text).splitlines(keepends=True)
    for i, line in enumerate(lines):
        link = re.match(
            r'\| \[`[^`]+`\]\(\./([^)]+\.py)\) \|.*\| (\S[^|]*?) \|$', line.rstrip('\n')
        )
        if link and i < _line_of(lines, BEGIN) and _has_results(lines, i):
            runs = whole.get((folder.relative_to(folder.parents[1]) / link[1]).as_posix())
            cell = knn_cell(runs) if runs else NOT_MEASURED
            lines[i] = line[: link.start(2)] + cell + line[link.end(2) :]
    return ''.join(lines)


def _line_of(lines: list[str], text: str) -> int:
    return next(i for i, line in enumerate(lines) if line.startswith(text))


def _has_results(lines: list[str], row: int) -> bool:
    """Check that the last column of a row's table is of results."""
    while lines[row].startswith('|'):
        row -= 1
    return lines[row + 1].rstrip().endswith('| Results |')


def knn_cell(runs: list[dict]) -> str:
    """Write the k-NN accuracies of a config.

    Args:
        runs (list[dict]): Logs of all seeds.

    Returns:
        str: One number for each branch.
    """
    names = [name for name in runs[0]['results'] if '.' not in name]
    values = ([run['results'][name]['knn_top1'] for run in runs] for name in names)
    return f'k-NN {" / ".join(mean_and_error(each) for each in values)}'


def metafile_text(text: str, whole: dict[str, list[dict]]) -> str:
    """Write the results into a metafile.

    Args:
        text (str): Of the metafile.
        whole (dict[str, list[dict]]): From :func:`whole_trainings`.

    Returns:
        str: The new text.
    """

    def entry(found: re.Match) -> str:
        runs = whole.get(found['config'])
        if not runs:
            return f'{found["head"]}    Results: null\n{found["tail"]}'
        lines = ['    Results:', '      - Task: Image Classification']
        lines += [f'        Dataset: {found["data"]}', '        Metrics:']
        for network in runs[0]['results']:
            for key, name in zip(
                KEYS, ('k-NN Top 1 Accuracy', 'Linear Top 1 Accuracy'), strict=True
            ):
                values = [run['results'][network].get(key) for run in runs]
                if None not in values:
                    lines.append(f'          {network} {name}: {statistics.fmean(values):.2f}')
        return '\n'.join([f'{found["head"]}{lines[0]}', *lines[1:], found['tail']])

    pattern = (
        r'(?P<head>  - Name: (?:(?!  - Name: ).*\n)*?      Training Data: (?P<data>.+)\n)'
        r'    Results:(?: null\n|\n(?:      .*\n)*)(?P<tail>    Config: (?P<config>\S+))'
    )
    return re.sub(pattern, entry, text)


def generate(root: Path) -> dict[Path, str]:
    """Write all READMEs and metafiles that results are listed in.

    Args:
        root (Path): The checkout.

    Returns:
        dict[Path, str]: The text that a file should have, by file.
    """
    texts = {}
    for metafile in sorted((root / 'configs').glob('*/metafile.yml')):
        folder = metafile.parent
        logs = read_logs(folder)
        old = metafile.read_text(encoding='utf-8')
        epochs = {
            config: int(each)
            for each, config in re.findall(r'      Epochs: (\d+)\n(?:.*\n)*?    Config: (\S+)', old)
        }
        whole = whole_trainings(logs, epochs)
        texts[metafile] = metafile_text(old, whole)
        readme = folder / 'README.md'
        texts[readme] = readme_text(folder, readme.read_text(encoding='utf-8'), logs, whole)
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description='Write our results into READMEs and metafiles')
    parser.add_argument('--add', nargs='+', type=Path, default=[], metavar='RECORD')
    parser.add_argument('--check', action='store_true', help='write nothing')
    parser.add_argument('--root', type=Path, default=ROOT, help=argparse.SUPPRESS)
    args = parser.parse_args()
    try:
        for record in args.add:
            print(add_log(record, args.root))
        texts = generate(args.root)
    except ValueError as error:
        sys.exit(f'error: {error}')
    stale = [file for file, text in texts.items() if file.read_text(encoding='utf-8') != text]
    for file in stale:
        if args.check:
            print(f'{file}: not as its logs say; write it by: python .dev_scripts/model_zoo.py')
        else:
            file.write_text(texts[file], encoding='utf-8')
            print(f'{file}: written')
    if args.check:
        sys.exit(bool(stale))


if __name__ == '__main__':
    main()
