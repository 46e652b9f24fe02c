# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Number the classes of label maps as mmseg counts them: 0, 1, 2, ..., and 255 for what has none.

    python tools/dataset_converters/contiguous_labels.py MAPS CLASSES.json OUT

For maps whose pixels are category ids with gaps, as COCO's panoptic ones. CLASSES.json lists the
categories, [{"id": 1, "name": "person"}, ...]; pixels of id 0, and of ids that it does not list, get
255, which mmseg ignores. OUT gets the maps, by their names and folders below MAPS, and classes.txt,
one name a line, for the data set's config: metainfo=dict(classes='OUT/classes.txt').
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmmokd.cli.run_tool import run_tool
from mmmokd.utils.atomic import atomic_write
from mmmokd.utils.errors import DataError, MissingFileError

IGNORED = 255
MAX_CLASSES = IGNORED


def read_categories(path: Path) -> dict[int, str]:
    """Names by id, in the order of the ids, without 0."""
    if not path.is_file():
        raise MissingFileError(f'list of classes {path} does not exist')
    try:
        categories = {int(item['id']): str(item['name']) for item in json.loads(path.read_text())}
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f'{path} should be a list as [{{"id": 1, "name": "person"}}, ...]: {error!r}'
        ) from error
    categories = {number: categories[number] for number in sorted(categories) if number}
    if not 0 < len(categories) <= MAX_CLASSES or min(categories) < 0 or max(categories) >= 2**16:
        raise DataError(
            f'{path} should have 1 to {MAX_CLASSES} classes with ids from 1 to 65535, but it has '
            f'{len(categories)}: {list(categories)[:5]}'
        )
    return categories


def convert(maps: Path, out: Path, categories: dict[int, str]) -> int:
    """Write the maps and the list of names, all or nothing; returns the number of maps."""
    files = sorted(maps.rglob('*.png'))
    if not files:
        raise MissingFileError(f'no label map (*.png) in {maps}')
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f'{out} already exists: choose a new folder')
    table = np.full(2**16, IGNORED, np.uint8)
    table[list(categories)] = np.arange(len(categories))
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as part:
        for file in files:
            target = part / file.relative_to(maps)
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(table[read_map(file)]).save(target)
        (part / 'classes.txt').write_text('\n'.join(categories.values()) + '\n', encoding='utf-8')
    return len(files)


def read_map(file: Path) -> np.ndarray:
    """A map's ids, (H, W)."""
    try:
        labels = np.asarray(Image.open(file))
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f'label map {file} cannot be read: {error}') from error
    if labels.ndim != 2:
        raise DataError(f'label map {file} should have one channel, but is {labels.shape}')
    return labels


def main() -> None:
    parser = argparse.ArgumentParser(description='Number the classes of label maps 0, 1, 2, ...')
    parser.add_argument('maps', type=Path, help='folder of the maps, PNG files of one channel')
    parser.add_argument('classes', type=Path, help='JSON list of the categories: id and name')
    parser.add_argument('out', type=Path, help='new folder to write to')
    args = parser.parse_args()
    categories = read_categories(args.classes)
    count = convert(args.maps, args.out, categories)
    print(f'{count} maps of {len(categories)} classes, and {args.out / "classes.txt"}')


if __name__ == '__main__':
    run_tool(main)
