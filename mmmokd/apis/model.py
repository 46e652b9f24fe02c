# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import copy
import difflib
import fnmatch
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from torch import nn

from mmmokd.config_paths import PREFIX, bases_are_found, configs_dir, named_config
from mmmokd.registry import MODELS
from mmmokd.utils.errors import CheckpointError, ConfigError, MissingFileError
from mmmokd.utils.state_dict import load_state_dict_strict
from mmmokd.weights import (
    WeightFile,
    backbone_prefix,
    choose_branch,
    list_branches,
    load_backbone,
    read_weights,
    select_weights,
)
from mmmokd.weights.checkpoint_config import read_config_text
from mmmokd.weights.files import missing_file_message

NETWORKS = ('teacher', 'student')
CONFIG_SUFFIXES = ('.py', '.yml', '.yaml', '.json')


def shipped_configs() -> dict[str, Path]:
    """The pretraining configs of this package.

    Returns:
        dict[str, Path]: Their files by name, sorted.
    """
    folder = configs_dir()
    apart = {'_base_', 'benchmarks'}
    files = [f for f in folder.rglob('*.py') if apart.isdisjoint(f.relative_to(folder).parts)]
    found = {file.stem: file for file in files}
    return dict(sorted(found.items()))


def list_models(
    pattern: str | None = None, exclude_patterns: Sequence[str] | None = None
) -> list[str]:
    """List the pretraining configs of this package, for :func:`init_model`.

    Args:
        pattern (str, optional): Only names that begin so, with ``*`` and ``?`` as wildcards.
            Defaults to None, all.
        exclude_patterns (Sequence[str], optional): Leave out names that begin so. Defaults to None.

    Returns:
        list[str]: Names, sorted.

    Example:
        >>> from mmmokd.apis import list_models
        >>> list_models('mokd_resnet18*', exclude_patterns=['*in1k'])
        ['mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder',
         'mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder-knn',
         'mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10']
    """
    names = list(shipped_configs())
    if pattern is not None:
        names = fnmatch.filter(names, f'{pattern}*')
    for excluded in exclude_patterns or ():
        names = [name for name in names if not fnmatch.fnmatch(name, f'{excluded}*')]
    return names


def read_config(config: str | Path | Config) -> Config:
    """Read a config by whatever names it.

    Args:
        config (str | Path | Config): A path, ``'mmmokd::mokd/NAME.py'``, a name of
            :func:`list_models`, or a config.

    Returns:
        Config: The config, which the caller may change.

    Raises:
        MissingFileError: If it does not exist; names the most similar.
    """
    if isinstance(config, Config):
        return copy.deepcopy(config)
    text = str(config)
    if text.startswith(PREFIX):
        path = named_config(text)
    elif Path(text).suffix in CONFIG_SUFFIXES:
        path = Path(text).expanduser()
        if not path.is_file():
            raise MissingFileError(missing_file_message(path, 'config', path.suffix))
    else:
        shipped = shipped_configs()
        if text not in shipped:
            near = difflib.get_close_matches(text, shipped, n=1, cutoff=0.5)
            hint = f' Did you mean {near[0]}?' if near else ''
            raise MissingFileError(
                f'{text!r} is neither the path of a config nor a name of list_models().{hint}'
            )
        path = shipped[text]
    with bases_are_found():
        return Config.fromfile(path)


def init_model(
    config: str | Path | Config | None = None,
    checkpoint: str | Path | None = None,
    branch: str | None = None,
    network: str = 'teacher',
    device: str | torch.device | None = None,
) -> nn.Module:
    """Build a model in evaluation mode, with every one of its weights loaded.

    Args:
        config (str | Path | Config, optional): A path, ``'mmmokd::mokd/NAME.py'``, a name of
            :func:`list_models`, or a config. Defaults to None: the config that the checkpoint keeps.
        checkpoint (str | Path, optional): A local file of this package, or of the authors. Defaults
            to None: the model has the weights that its training would start from, as a warning
            says.
        branch (str, optional): Name of a branch, to get its backbone alone. Defaults to None: the
            whole algorithm.
        network (str): Which of the branch's networks, ``'teacher'`` or ``'student'``. Defaults to
            ``'teacher'``.
        device (str | torch.device, optional): Where to put the model. Defaults to None, the CPU.

    Returns:
        nn.Module: The algorithm, whose ``extract_feat`` gives features, or a backbone. Its config
        is in the attribute ``_config``, as mmpretrain has it.

    Raises:
        MissingFileError: If there is no such config or checkpoint.
        ConfigError: If there is no such branch or network; names those that exist.
        CheckpointError: If the checkpoint cannot be read, or lacks a weight of the model or has it in
            another shape.

    Example:
        >>> from mmmokd.apis import init_model
        >>> backbone = init_model('my_config.py', 'work_dirs/my_config/epoch_100.pth', branch='cnn')
        >>> feature_map = backbone(images)[-1]  # (B, 512, 7, 7)
    """
    file = None if checkpoint is None else read_weights(checkpoint)
    cfg = read_config(config) if config is not None else _config_of(file)
    if cfg.get('model') is None:
        raise ConfigError(f'{cfg.filename or "the config"} has no model')
    check_names(cfg, branch, network)
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmpretrain'):
        if branch is None:
            model = _init_algorithm(cfg, file)
        else:
            model = _init_backbone(cfg, file, branch, network)
    model._config = cfg
    if device is not None:
        model.to(device)
    model.eval()  # of which mmpretrain's ResNet returns nothing
    return model


def check_names(cfg: Config, branch: str | None, network: str) -> None:
    """Check what a user calls a part of a model.

    Args:
        cfg (Config): The model's config.
        branch (str, optional): Name of a branch; None for all of the model.
        network (str): Name of a network.

    Raises:
        ConfigError: If there is none of that name; names those that exist.
    """
    if network not in NETWORKS:
        raise ConfigError(f'network must be {" or ".join(NETWORKS)}, but is {network!r}')
    branches = [name for name, each in (cfg.model.get('branches') or {}).items() if each]
    if branch is not None and branch not in branches:
        listed = f'its branches are {", ".join(branches)}' if branches else 'it has no branches'
        raise ConfigError(f'{cfg.filename or "the config"} has no branch {branch!r}: {listed}')


def _config_of(file: WeightFile | None) -> Config:
    """The config that a checkpoint keeps."""
    if file is None:
        raise ConfigError('init_model needs a config, or a checkpoint that keeps one')
    text = file.meta.get('cfg')
    if not isinstance(text, str):
        raise CheckpointError(f'{file.path} keeps no config: name the one that it was trained with')
    return Config(read_config_text(text))


def _init_algorithm(cfg: Config, file: WeightFile | None) -> nn.Module:
    model = MODELS.build(cfg.model)
    if file is None:
        model.init_weights()
        _warn_untrained(type(model).__name__)
    else:
        load_state_dict_strict(model, file.weights, file.path)
    return model


def _init_backbone(cfg: Config, file: WeightFile | None, branch: str, network: str) -> nn.Module:
    from mmmokd.models.branches import build_backbone

    backbone = build_backbone(cfg.model.branches[branch].backbone)
    if file is None:
        backbone.init_weights()
        _warn_untrained(f'the backbone of {branch}')
        return backbone
    saved = list_branches(file.weights)[choose_branch(file, branch)]
    if len(saved) == 1 and saved[0] != network:
        print_log(f'{file.path} has the {saved[0]} of {branch} only: it is taken', 'current')
        network = saved[0]
    weights = select_weights(file, backbone_prefix(branch, network))
    load_backbone(backbone, weights, f'{file.path} ({branch}.{network})')
    return backbone


def _warn_untrained(what: str) -> None:
    print_log(
        f'{what} is not trained: no checkpoint was given, so its weights are those that a training '
        'starts from',
        'current',
        logging.WARNING,
    )
