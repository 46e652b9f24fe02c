# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Images of the repository, made ready for the pairs that need them."""

import gzip
import shutil
from pathlib import Path

from mmmokd.utils.atomic import atomic_write
from mmmokd.utils.errors import ConfigError, MissingFileError

ROOT = Path(__file__).resolve().parents[3]
FASHION_MNIST = ROOT / 'resources' / 'fashion_mnist'
# As the quick start has it.
UNPACKED = ROOT / 'work_dirs' / 'quickstart' / 'data' / 'fashion_mnist'
LOADERS = (
    'train_dataloader',
    'val_dataloader',
    'test_dataloader',
    'val_cfg.bank_dataloader',
    'test_cfg.bank_dataloader',
)


def prepare(name: str) -> dict[str, str]:
    """Make images ready.

    Args:
        name (str): ``'fashion-mnist'``.

    Returns:
        dict[str, str]: Options that say where they are.

    Raises:
        ConfigError: If the name is another one.
        MissingFileError: If the repository lacks them.
    """
    if name != 'fashion-mnist':
        raise ConfigError(f"data of a pair is 'fashion-mnist' or left out, not {name!r}")
    files = sorted(FASHION_MNIST.glob('*-ubyte.gz'))
    if not files:
        raise MissingFileError(f'no *-ubyte.gz in {FASHION_MNIST}: is the repository complete?')
    UNPACKED.mkdir(parents=True, exist_ok=True)
    for file in files:
        with atomic_write(UNPACKED / file.stem) as part:
            with gzip.open(file) as packed, part.open('wb') as unpacked:
                shutil.copyfileobj(packed, unpacked)
    return {f'{loader}.dataset.data_root': str(UNPACKED) for loader in LOADERS}
