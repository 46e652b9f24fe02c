# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Data sets of other libraries whose files are not as they should be."""

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmmokd.utils.config_tree import iter_dicts, type_name
from mmmokd.utils.errors import DataError, UserError

# What these raise as they are built is about their files, a RuntimeError as well. That of any other
# may be of a GPU or of other processes.
MODULES = ('mmpretrain.datasets', 'mmdet.datasets', 'mmseg.datasets')
GIVEN = ('data_root', 'data_prefix', 'ann_file')


def explain_broken_data(runner: Runner) -> None:
    """Let a Runner say which data set of its config cannot be used, and why.

    Args:
        runner (Runner): The Runner, whose loaders are not yet built; changed in place.
    """
    build = runner.build_dataloader
    places = {'.'.join(path): repr(node) for path, node in iter_dicts(runner.cfg._cfg_dict)}

    def build_dataloader(dataloader: dict | DataLoader, *args, **kwargs) -> DataLoader:
        if not isinstance(dataloader, dict) or not isinstance(dataloader.get('dataset'), dict):
            return build(dataloader, *args, **kwargs)
        text = repr(dataloader)
        place = next((place for place in places if places[place] == text), 'dataloader')
        with data_errors(dataloader['dataset'], f'{place}.dataset'):
            return build(dataloader, *args, **kwargs)

    runner.build_dataloader = build_dataloader


@contextmanager
def data_errors(dataset: dict, place: str) -> Iterator[None]:
    """Name the data set whose files are not as it expects them.

    Args:
        dataset (dict): Config of the data set that the block builds.
        place (str): Where it stands in the config.

    Raises:
        DataError: If the block raises an OSError, an AssertionError or, of a data set of mmpretrain,
            mmdet or mmseg, a RuntimeError.
    """
    try:
        yield
    except UserError:
        raise
    except (OSError, AssertionError, RuntimeError) as error:
        nodes = [node for _, node in iter_dicts(dataset) if 'type' in node]
        if not str(error) or (isinstance(error, RuntimeError) and not any(map(_is_library, nodes))):
            raise
        text = str(error)
        if isinstance(error, OSError) and error.strerror:
            text = f'{error.strerror}: {error.filename!r}' if error.filename else error.strerror
        given = [f'{key}={node[key]!r}' for node in nodes for key in GIVEN if node.get(key)]
        raise DataError(
            f'{place} ({type_name(dataset["type"])}) of the config cannot use its data: '
            f'{text.rstrip(".")}.' + f' It has {", ".join(given)}.' * bool(given)
        ) from error


def _is_library(dataset: dict) -> bool:
    kind = dataset['type']
    found = kind
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:  # a name as in the config
            found = registry.get(kind)
    return getattr(found, '__module__', '').startswith(MODULES)
