# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""A branch's backbone as a checkpoint of another library."""

from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config
from torch import Tensor, nn

from mmmokd.transfer.branch_info import branch_info, read_pixels
from mmmokd.transfer.libraries import Library, build_library
from mmmokd.transfer.libraries.base import check_out, class_name
from mmmokd.transfer.libraries.mmlab import ConfiguredBackbone
from mmmokd.transfer.same_features import check_same_features
from mmmokd.utils.errors import CheckpointError
from mmmokd.utils.state_dict import name_some
from mmmokd.version import __version__
from mmmokd.weights import (
    backbone_prefix,
    choose_branch,
    choose_network,
    describe_weights,
    load_backbone,
    merge_lora,
    read_weights,
    select_weights,
)
from mmmokd.weights.backbone_info import Pixels


def export_branch(
    checkpoint: str | Path,
    out: str | Path,
    library: str,
    branch: str | None = None,
    network: str | None = None,
    config: Config | None = None,
    target_config: Config | None = None,
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
        library (str): A name in ``mmmokd.transfer.libraries.LIBRARIES``.
        branch (str, optional): Name of the branch. Defaults to None, the only one.
        network (str, optional): ``'teacher'`` or ``'student'``. Defaults to None: the teacher, or the
            student of a branch without one.
        config (Config, optional): Config that the checkpoint was trained with. Defaults to None: the
            one that the checkpoint keeps; without it, a standard ResNet or ViT is told from its
            weights.
        target_config (Config, optional): A config of the library, whose ``model.backbone`` is the
            model that must take the weights. Defaults to None: as the branch's own backbone.
        img_size (int, optional): Side in pixels of the images that a ViT's position embedding is
            resized for. Defaults to None, as in the branch, or in ``target_config``.
        overwrite (bool): Whether to replace an existing file. Defaults to False.

    Returns:
        list[str]: The report of keys and how to load the file, line by line.

    Raises:
        MissingFileError: If there is no such checkpoint.
        CheckpointError: If the branch does not exist, the library has no such model, not every weight of
            it is matched, or it computes other features. Nothing is written then.
    """
    out = check_out(out, library, overwrite)
    file = read_weights(checkpoint)
    branch = choose_branch(file, branch)
    network = choose_network(file, branch, network)
    weights = merge_lora(select_weights(file, backbone_prefix(branch, network)))
    name = f'branch {branch!r} ({network}) of {checkpoint}'
    if target_config is not None:
        target: Library = ConfiguredBackbone(library, target_config)
        report = key_report(target.model, weights, name)
    else:
        info = branch_info(file, branch, weights, config, img_size)
        target = build_library(library, info)
        report = load_into(target, weights, name)
    meta = dict(mmmokd_version=__version__, source=str(checkpoint), branch=branch, network=network)
    target.write(out, meta, overwrite)
    report += [f'wrote {out}', 'use it by', *target.usage(out).splitlines()]
    return report + _describe_pixels(read_pixels(file))


def load_into(library: Library, weights: Mapping[str, Tensor], name: str) -> list[str]:
    """Load a branch's weights into a library's model, which must compute the same features then.

    Args:
        library (Library): With the model.
        weights (Mapping[str, Tensor]): The weights of the branch's backbone.
        name (str): Where they are from, for the report.

    Returns:
        list[str]: The report of keys.

    Raises:
        CheckpointError: If a weight of the model is not matched, or its features are others.
    """
    try:
        report = key_report(library.model, library.convert(weights), name, library.model_name)
        check_same_features(library, weights)
    except ValueError as error:
        raise CheckpointError(f'{error}. --to {library.name} takes {library.takes}') from error
    return report


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
        CheckpointError: If a weight of the model is not matched.
    """
    left_out = load_backbone(model, weights, source)
    total = len(model.state_dict())
    return [
        f'{source} -> {name or class_name(model)}, {describe_weights(model.state_dict())}',
        f'matched    {total} of {total} weights (100 %)',
        'missing    none',
        f'unexpected {len(left_out)}, the model has no part for {name_some(left_out)}'
        if left_out
        else 'unexpected none',
    ]


def _describe_pixels(pixels: Pixels | None) -> list[str]:
    if pixels is None:
        return ['pixels: the checkpoint does not tell how they were normalized']
    order = 'RGB' if pixels.rgb else 'as the pipeline gives them'
    return [f'pixels: mean {pixels.mean}, std {pixels.std}, channels {order}']
