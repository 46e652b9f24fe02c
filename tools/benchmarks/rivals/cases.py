# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Methods and pairs by name, and the config of a method on a pair. Light to import."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmmokd.utils.errors import ConfigError, MissingFileError
from mmmokd.utils.names import nearest

if TYPE_CHECKING:
    from mmengine.config import Config

CONFIGS = Path(__file__).resolve().parents[3] / 'configs'
ENTRIES = Path(__file__).with_name('entries.py')
NUMBER = '<N>'
FIELDS = dict(
    methods=('algorithm', 'options', 'pairs', 'teacher', 'before', 'base'),
    pairs=('pattern', 'configs', 'size', 'branches', 'options', 'data', 'base'),
)
# What an algorithm's config keeps where a pair's `size` gives the rest.
OF_ALGORITHM = ('model', 'default_hooks', 'custom_hooks', 'custom_imports')


@dataclass(frozen=True)
class Method:
    """A line of the table of methods; see ``entries.py``.

    Attributes:
        name (str): Its name, with the number; ``NAME@BRANCH`` trains this branch alone.
        algorithm (str): What names its configs.
        options (dict[str, Any]): Values that override the config's.
        pairs (dict[str, dict[str, Any]]): The same, by pair.
        teacher (str, optional): The method that trains the branches which the config freezes.
        before (str, optional): A tool that is run with the config before the training.
        only (str, optional): The only branch.
    """

    name: str
    algorithm: str
    options: Mapping[str, Any] = field(default_factory=dict)
    pairs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    teacher: str | None = None
    before: str | None = None
    only: str | None = None


@dataclass(frozen=True)
class Pair:
    """A line of the table of pairs; see ``entries.py``.

    Attributes:
        name (str): Its name.
        pattern (str): Its configs.
        configs (dict[str, str]): The config of an algorithm for which the pattern does not hold.
        size (str, optional): The config that gives all but the algorithm.
        branches (dict[str, str]): Names of the size's branches, by those of the algorithms' configs
            and of methods' options. Without it they are the same.
        options (dict[str, Any]): Values that override the config's.
        data (str, optional): Which images are to be made ready.
        bases (tuple[str]): Pairs that it builds on, itself last.
    """

    name: str
    pattern: str
    configs: Mapping[str, str] = field(default_factory=dict)
    size: str | None = None
    branches: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    bases: tuple[str, ...] = ()


class Entries:
    """The tables of methods and pairs.

    Args:
        files (Sequence[str | Path]): Files of the form of ``entries.py``, which update it.

    Raises:
        ConfigError: If a file has something else in it.
    """

    def __init__(self, files: Sequence[str | Path] = ()) -> None:
        self.tables: dict[str, dict] = {kind: {} for kind in FIELDS}
        for file in (ENTRIES, *files):
            found = _read(Path(file))
            for kind, fields in FIELDS.items():
                for name, entry in found.get(kind, {}).items():
                    unknown = [key for key in entry if key not in fields]
                    if unknown:
                        raise ConfigError(
                            f'{file}: {kind}.{name} has {", ".join(unknown)}: it takes '
                            f'{", ".join(fields)}'
                        )
                    self.tables[kind][name] = _update(self.tables[kind].get(name, {}), entry)

    def method(self, name: str) -> Method:
        """Look up a method.

        Args:
            name (str): A name of the table, with a number for its ``<N>``; with ``@BRANCH`` for a
                single branch.

        Returns:
            Method: It.

        Raises:
            ConfigError: If there is no such method, or its algorithm is missing.
        """
        plain, _, only = name.partition('@')
        table, number = self.tables['methods'], None
        key = plain
        if plain not in table:
            for pattern in (each for each in table if each.endswith(NUMBER)):
                given = plain.removeprefix(pattern.removesuffix(NUMBER))
                if given != plain and re.fullmatch(r'\d+(\.\d+)?', given):
                    key, number = pattern, float(given) if '.' in given else int(given)
        entry = _fill(self._resolve('methods', key)[0], number)
        if 'algorithm' not in entry:
            raise ConfigError(f'methods.{key} has no algorithm, which names its configs')
        return Method(name, only=only or None, **entry)

    def pair(self, name: str) -> Pair:
        """Look up a pair.

        Args:
            name (str): A name of the table.

        Returns:
            Pair: It.

        Raises:
            ConfigError: If there is no such pair, or it has no configs.
        """
        entry, bases = self._resolve('pairs', name)
        if 'pattern' not in entry:
            raise ConfigError(f'pairs.{name} has no pattern, which names its configs')
        return Pair(name, bases=bases, **entry)

    def _resolve(self, kind: str, name: str) -> tuple[dict, tuple[str, ...]]:
        """An entry with what it takes from its bases, and their names."""
        table, chain = self.tables[kind], [name]
        while True:
            if chain[-1] not in table or chain[-1] in chain[:-1]:
                wrong = 'is its own base' if chain[-1] in chain[:-1] else 'does not exist'
                raise ConfigError(
                    f'{kind}: {" -> ".join(chain)} {wrong}; there are {", ".join(table)}.'
                    f'{nearest(chain[-1], table)}'
                )
            if 'base' not in table[chain[-1]]:
                break
            chain.append(table[chain[-1]]['base'])
        entry: dict = {}
        for each in reversed(chain):
            entry = _update(entry, table[each])
        entry.pop('base', None)
        return entry, tuple(reversed(chain))


def _read(file: Path) -> dict:
    from mmmokd.cli.config import read_config

    found = read_config(file)
    lacking = [kind for kind in FIELDS if kind in found and not isinstance(found[kind], dict)]
    if lacking or not any(kind in found for kind in FIELDS):
        raise ConfigError(
            f'{file} is not a table of rivals: it should have methods = dict(...), '
            'pairs = dict(...) or both'
        )
    return found.to_dict()


def _update(old: Mapping, new: Mapping) -> dict:
    """Merge two entries: dicts of options, pairs and configs by key, the rest as a whole."""
    merged = dict(old)
    for key, value in new.items():
        known = merged.get(key)
        merged[key] = {**known, **value} if isinstance(known, dict) and value else value
    return merged


def _fill(value: Any, number: float | None) -> Any:
    if isinstance(value, Mapping):
        return {key: _fill(each, number) for key, each in value.items()}
    return number if value == NUMBER else value


@dataclass(frozen=True)
class Case:
    """A method on a pair with a seed: one training.

    Attributes:
        method (Method): The method.
        pair (Pair): The pair.
        seed (int): Of the run.
        options (dict[str, Any]): Values that override all others.
        folders (tuple[str, str], optional): Folders of class folders that take the place of the
            pair's images: to train and vote on, and to test on.
    """

    method: Method
    pair: Pair
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    folders: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        """str: Its folder, below that of the benchmark."""
        return f'{self.pair.name}/{self.method.name}/seed{self.seed}'

    @property
    def config(self) -> str:
        """str: The algorithm's config on this pair, a file in ``configs/`` or any other."""
        algorithm = self.method.algorithm
        folder, _, name = algorithm.rpartition('/')
        return self.pair.configs.get(algorithm) or self.pair.pattern.format(
            algorithm=name, folder=folder or name.partition('-')[0]
        )

    @property
    def size(self) -> str | None:
        """str, optional: The config that all but the algorithm is of."""
        return None if self.method.algorithm in self.pair.configs else self.pair.size

    def load(self, data: Mapping[str, Any], folder: Path | None = None) -> 'Config':
        """Read the config of the training.

        Args:
            data (dict[str, Any]): Options that say where the images are.
            folder (Path, optional): Takes the place of ``{folder}`` in options. Defaults to None.

        Returns:
            Config: With the options of pair, method and user, in this order.

        Raises:
            ConfigError: If a config does not exist, or an option does not fit.
        """
        from mmmokd.cli.config import load_config, read_config

        with tempfile.TemporaryDirectory() as temporary:
            file = find_config(self.config)
            cfg = read_config(file)
            if self.size is not None or self.folders:
                cfg = rename_branches(cfg, self.pair.branches)
                if self.size is not None:
                    size = find_config(self.size)
                    of_pair = self.pair_options([*read_config(size).model.branches])
                    cfg = take_size(cfg, load_config(size, {**data, **of_pair}))
                if self.folders:
                    cfg = take_folders(cfg, *self.folders)
                file = Path(temporary) / file.name
                file.write_text(cfg.pretty_text, encoding='utf-8')
            branches = [*cfg.model.branches]
            of_pair = {} if self.size else {**data, **self.pair_options(branches)}
            others = _replace_folder(self.method_options(branches), folder)
            return load_config(file, {**of_pair, **others})

    def pair_options(self, branches: Sequence[str]) -> dict[str, Any]:
        """Collect the options of the pair.

        Args:
            branches (Sequence[str]): Names of the config's branches.

        Returns:
            dict[str, Any]: By dotted key.
        """
        return self._spread([self.pair.options], branches)

    def method_options(self, branches: Sequence[str]) -> dict[str, Any]:
        """Collect the options of the method and of the user.

        Args:
            branches (Sequence[str]): Names of the config's branches.

        Returns:
            dict[str, Any]: By dotted key.

        Raises:
            ConfigError: If the method's only branch does not exist.
        """
        only = self.method.only
        if only is not None and only not in branches:
            raise ConfigError(
                f'{self.method.name}: {self.pair.name} has no branch {only}, but '
                f'{", ".join(branches)}'
            )
        own = [self.method.pairs.get(name, {}) for name in self.pair.bases]
        of_method = [
            {_rename(key, self.pair.branches): value for key, value in options.items()}
            for options in (self.method.options, *own)
        ]
        found = self._spread([*of_method, self.options], branches)
        left_out = [name for name in branches if only not in (None, name)]
        found.update((f'model.branches.{name}', None) for name in left_out)
        found['randomness.seed'] = self.seed
        return found

    def _spread(
        self, tables: Sequence[Mapping[str, Any]], branches: Sequence[str]
    ) -> dict[str, Any]:
        """Merge options; those of each branch for each that is trained."""
        trained = [name for name in branches if self.method.only in (None, name)]
        return {
            key.replace('{branch}', name): value
            for options in tables
            for key, value in options.items()
            for name in (trained if '{branch}' in key else ('',))
        }


def _replace_folder(options: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    return {
        key: value.replace('{folder}', str(folder)) if isinstance(value, str) else value
        for key, value in options.items()
    }


def _rename(key: str, names: Mapping[str, str]) -> str:
    """A dotted key or the beginning of a weight's name, with a branch's other name."""
    words = key.split('.')
    for i, word in enumerate(words[:-1]):
        if word == 'branches':
            words[i + 1] = names.get(words[i + 1], words[i + 1])
    return '.'.join(words)


def rename_branches(cfg: 'Config', names: Mapping[str, str]) -> 'Config':
    """Give the branches of a config other names.

    Args:
        cfg (Config): The config; stays as it is.
        names (dict[str, str]): New names by the old ones.

    Returns:
        Config: With the new names of its models, of its optimizers' parts and of the branches in
        checkpoints.
    """
    from mmengine.config import Config

    from mmmokd.utils.config_tree import iter_dicts, type_name

    cfg = cfg.to_dict()
    for place in (cfg['model']['branches'], (cfg.get('optim_wrapper') or {}).get('branches')):
        if place:
            renamed = {names.get(name, name): value for name, value in place.items()}
            place.clear()
            place.update(renamed)
    for _, node in iter_dicts(cfg['model']):
        if type_name(node.get('type')) == 'Pretrained' and node.get('prefix'):
            node['prefix'] = _rename(node['prefix'], names)
    return Config(cfg)


def find_config(name: str) -> Path:
    """Find a config.

    Args:
        name (str): A file, or its name in ``configs/``.

    Returns:
        Path: The file.

    Raises:
        MissingFileError: If it does not exist.
    """
    for file in (Path(name).expanduser(), CONFIGS / name):
        if file.is_file():
            return file
    raise MissingFileError(f'the config {CONFIGS / name} does not exist')


def take_size(cfg: 'Config', size: 'Config') -> 'Config':
    """Give an algorithm's config the data, backbones, optimizers and evaluation of another.

    Args:
        cfg (Config): The algorithm's; stays as it is.
        size (Config): The other, with branches of the same names.

    Returns:
        Config: The model is the algorithm's but for backbones and the views' size, and so are the
        hooks, and datasets around the images; of hooks that both have, the other's values count.

    Raises:
        ConfigError: If a branch exists in one of them only.
    """
    from mmengine.config import Config

    cfg, size = cfg.to_dict(), size.to_dict()
    branches, sizes = cfg['model']['branches'], size['model']['branches']
    for name, branch in branches.items():
        if branch is None:
            continue
        if not sizes.get(name):
            raise ConfigError(f'branch {name} is not in the config that gives the size')
        given = branch['backbone']
        branch['backbone'] = dict(sizes[name]['backbone'])
        if 'init_cfg' in given:  # the weights of a frozen branch
            branch['backbone']['init_cfg'] = given['init_cfg']
    cfg['model']['global_size'] = size['model']['global_size']
    for name, hook in size.get('default_hooks', {}).items():
        own = cfg['default_hooks'].get(name, {})
        if own is not None and own.get('type', hook['type']) == hook['type']:
            cfg['default_hooks'][name] = {**own, **hook}
    wrapped = cfg['train_dataloader']['dataset']
    if 'dataset' in wrapped:
        while 'dataset' in wrapped['dataset']:
            wrapped = wrapped['dataset']
        wrapped['dataset'] = size['train_dataloader']['dataset']
        size['train_dataloader']['dataset'] = cfg['train_dataloader']['dataset']
    _keep_learners(size, (cfg.get('optim_wrapper') or {}).get('branches') or {})
    kept = {key: cfg[key] for key in OF_ALGORITHM if key in cfg}
    return Config({**size, **kept})


def _keep_learners(size: dict[str, Any], learning: Mapping[str, Any]) -> None:
    """Leave to optimizers and schedules the branches that learn, and the parts that any of them has."""
    parts = {part for branch in learning.values() for part in branch.get('parts') or ()} | {'main'}
    optims, schedules = size['optim_wrapper']['branches'], size['param_scheduler']
    for name in [name for name in optims if learning and name not in learning]:
        del optims[name], schedules[name]
    for name, optim in optims.items():
        if 'parts' in optim:
            optim['parts'] = {key: x for key, x in optim['parts'].items() if key in parts}
        schedules[name] = [each for each in schedules[name] if each.get('part', 'main') in parts]


def take_folders(cfg: 'Config', train: str, test: str) -> 'Config':
    """Give a config the images of two folders.

    Args:
        cfg (Config): The config; stays as it is.
        train (str): Folder of class folders: to train on, and the bank of the evaluation.
        test (str): The same, to test on.

    Returns:
        Config: With as many images of them as it takes of its own, read by its own pipelines.
    """
    from mmengine.config import Config

    cfg = cfg.to_dict()

    def put(loader: dict, folder: str, **kwargs: Any) -> None:
        place = loader
        while 'dataset' in place['dataset']:  # within one that adds to it
            place = place['dataset']
        kept = {'pipeline': place['dataset']['pipeline'], 'data_root': folder, **kwargs}
        if count := place['dataset'].get('indices'):
            kept['max_images'] = count
        place['dataset'] = dict(kept, type='mmmokd.ImageFolder')

    put(cfg['train_dataloader'], train)
    for mode in ('val', 'test'):
        put(cfg[f'{mode}_dataloader'], test, with_label=True, test_mode=True)
        put(cfg[f'{mode}_cfg']['bank_dataloader'], train, with_label=True, test_mode=True)
    return Config(cfg)
