# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""A branch's backbone as a checkpoint of another library."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmmokd.cli.config import load_config
from mmmokd.registry import MODELS
from mmmokd.transfer.backbone_info import Pixels, Source, make_source
from mmmokd.transfer.libraries.base import FILE, Target, check_out, model_name
from mmmokd.transfer.libraries.names import EXPORT_TAKES
from mmmokd.transfer.libraries.registry import build_target
from mmmokd.transfer.same_features import check_same_features
from mmmokd.utils.state_dict import name_some
from mmmokd.version import __version__
from mmmokd.weights import (
    WeightFile,
    backbone_prefix,
    describe_backbone,
    describe_contents,
    list_branches,
    load_backbone,
    read_weights,
    save_file,
    select_weights,
)
from mmmokd.weights.checkpoint_config import read_config_text

MM_LIBRARIES = ('mmpretrain', 'mmdet', 'mmseg')


def export_branch(
    checkpoint: str | Path,
    out: str | Path,
    library: str,
    branch: str | None = None,
    network: str = 'teacher',
    config: str | Path | None = None,
    target_config: str | Path | None = None,
    img_size: int | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write a branch's backbone as another library reads it.

    The library's own model is built and must take every weight; what is written are its weights
    then.

    Args:
        checkpoint (str | Path): A checkpoint of MOKD, this package's or the authors'.
        out (str | Path): File to write: ``.safetensors``, else of ``torch.save``; a folder for
            transformers, ``.pkl`` for detectron2.
        library (str): A key of ``mmmokd.transfer.libraries.registry.TARGETS``.
        branch (str, optional): Name of the branch. Defaults to None, the only one.
        network (str): ``'teacher'`` or ``'student'``. Defaults to 'teacher'.
        config (str | Path, optional): Config that the checkpoint was trained with. Defaults to
            None: the one that the checkpoint keeps; without it, a standard ResNet or ViT is told
            from its weights.
        target_config (str | Path, optional): A config of the library, whose ``model.backbone`` is
            the model that must take the weights. Defaults to None: as the branch's own backbone.
        img_size (int, optional): Side in pixels of the images that a ViT's position embedding is
            resized for. Defaults to None, as in the branch, or in ``target_config``.
        overwrite (bool): Whether to replace a file that is there. Defaults to False.

    Returns:
        list[str]: The report of keys and how to load the file, line by line.

    Raises:
        FileNotFoundError: If there is no such checkpoint or config.
        ValueError: If the branch does not exist, the library has no such model, not every weight of
            it is matched, or it computes other features. Nothing is written then.
    """
    out = check_out(out, library, overwrite)
    file = read_weights(checkpoint)
    branch = choose_branch(file, branch)
    weights = select_weights(file, backbone_prefix(branch, network))
    name = f'branch {branch!r} ({network}) of {checkpoint}'
    pixels = read_pixels(file)
    if target_config is not None:
        target = _configured_target(library, target_config)
        report = key_report(target.model, weights, name)
    else:
        cfg = backbone_config(file, branch, config)
        source = make_source(weights, cfg, img_size)._replace(pixels=pixels)
        target, report = _load_into(library, source, weights, name)
    if target.write is not None:
        target.write(target.model, out)
    else:
        meta = dict(mmmokd_version=__version__, source=str(checkpoint), branch=branch)
        _write_weights(target, library, out, dict(meta, network=network), overwrite)
    report += [f'wrote {out}', 'use it by', *_usage(target, out).splitlines()]
    return report + _describe_pixels(pixels)


def _load_into(
    library: str, source: Source, weights: dict[str, Tensor], name: str
) -> tuple[Target, list[str]]:
    """The library's model with a branch's weights, and the report of keys."""
    target = build_target(library, source)
    try:
        report = key_report(target.model, target.convert(weights), name, target.name)
        check_same_features(source, weights, target)
    except ValueError as error:
        raise ValueError(f'{error}. --to {library} takes {EXPORT_TAKES[library]}') from error
    return target, report


def _write_weights(
    target: Target, library: str, out: Path, meta: dict[str, str], overwrite: bool
) -> None:
    state = {f'{target.prefix}{key}': v for key, v in target.model.state_dict().items()}
    if out.suffix != '.safetensors' and library in MM_LIBRARIES:
        save_file(dict(state_dict=state, meta=meta), out, overwrite)
    else:
        save_file(state, out, overwrite)


def choose_branch(file: WeightFile, branch: str | None) -> str:
    """The branch that is asked for, or the only one.

    Args:
        file (WeightFile): A MOKD checkpoint.
        branch (str, optional): Its name; None for the only one.

    Returns:
        str: Its name.

    Raises:
        ValueError: If it does not exist, or there are several to choose from.
    """
    branches = list_branches(file.weights)
    if not branches:
        raise ValueError(f'{file.path} is no MOKD checkpoint. {describe_contents(file)}')
    if branch is None and len(branches) == 1:
        return next(iter(branches))
    if branch not in branches:
        asked = 'which branch?' if branch is None else f'there is no branch {branch!r} in'
        raise ValueError(f'{asked} {file.path} holds {", ".join(branches)}')
    return branch


def backbone_config(
    file: WeightFile, branch: str, config: str | Path | None = None
) -> dict[str, Any] | None:
    """The config of a branch's backbone.

    Args:
        file (WeightFile): A MOKD checkpoint.
        branch (str): Name of the branch.
        config (str | Path, optional): Config that it was trained with. Defaults to None: the one
            that the checkpoint keeps.

    Returns:
        dict | None: The backbone's config; None if the checkpoint keeps none.

    Raises:
        ValueError: If the config has no such branch.
    """
    if config is not None:
        cfg, source = load_config(config).to_dict(), str(config)
    elif isinstance(file.meta.get('cfg'), str):
        cfg, source = read_config_text(file.meta['cfg']), f'the config in {file.path}'
    else:
        return None
    branches = cfg.get('model', {}).get('branches', {})
    if branch not in branches:
        raise ValueError(
            f'{source} has no branch {branch!r}; it has {", ".join(branches) or "none"}'
        )
    return branches[branch]['backbone']


def key_report(
    model: nn.Module, weights: Mapping[str, Tensor], source: str, name: str = ''
) -> list[str]:
    """Load weights into a model, all of which must be matched, and say which were.

    Args:
        model (nn.Module): The model.
        weights (Mapping[str, Tensor]): Weights by name.
        source (str): Where they are from.
        name (str): The model's name. Defaults to '', its class and package.

    Returns:
        list[str]: Matched, missing and unexpected keys, a line each.

    Raises:
        ValueError: If a weight of the model is not matched.
    """
    left_out = load_backbone(model, weights, source)
    total = len(model.state_dict())
    return [
        f'{source} -> {name or model_name(model)}, {describe_backbone(model.state_dict())}',
        f'matched    {total} of {total} weights (100 %)',
        'missing    none',
        f'unexpected {len(left_out)}, the model has no part for {name_some(left_out)}'
        if left_out
        else 'unexpected none',
    ]


def _configured_target(library: str, path: str | Path) -> Target:
    """The backbone of a downstream config."""
    cfg = load_config(path)
    scope = cfg.get('default_scope', 'mmpretrain')
    if library not in MM_LIBRARIES or scope != library:
        raise ValueError(f'{path} is a config of {scope}, not of {library}')
    backbone = (cfg.get('model') or {}).get('backbone')
    if backbone is None:
        raise ValueError(f'{path} has no model.backbone')
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(dict(backbone, init_cfg=None))
    prefix = 'backbone.' if library == 'mmpretrain' else ''
    options = f'model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint={FILE}'
    options += f' model.backbone.init_cfg.prefix={prefix}' if prefix else ''
    return Target(model, prefix, f'{path} --cfg-options {options}')


def _usage(target: Target, out: Path) -> str:
    usage = target.usage.replace(FILE, str(out))
    if out.suffix == '.safetensors' and 'torch.load(' in usage:
        usage = usage.replace('torch.load(', 'safetensors.torch.load_file(')
        usage = usage.replace(', weights_only=True', '')
    elif out.suffix == '.safetensors' and 'init_cfg' in usage and 'custom_imports' not in usage:
        usage = f"custom_imports = dict(imports=['mmmokd'])  # reads safetensors\n{usage}"
    return usage


def read_pixels(file: WeightFile) -> Pixels | None:
    """What pixels the weights were trained on.

    Args:
        file (WeightFile): A MOKD checkpoint.

    Returns:
        Pixels | None: Their normalization; None where the checkpoint keeps no config that tells it.
    """
    if not isinstance(file.meta.get('cfg'), str):
        return None
    cfg = read_config_text(file.meta['cfg'])
    preprocessor = cfg.get('data_preprocessor') or cfg['model'].get('data_preprocessor') or {}
    if 'mean' not in preprocessor:
        return None
    rgb = bool(preprocessor.get('to_rgb'))
    return Pixels(list(preprocessor['mean']), list(preprocessor['std']), rgb)


def _describe_pixels(pixels: Pixels | None) -> list[str]:
    if pixels is None:
        return ['pixels: the checkpoint does not tell how they were normalized']
    order = 'RGB' if pixels.rgb else 'as the pipeline gives them'
    return [f'pixels: mean {pixels.mean}, std {pixels.std}, channels {order}']
