# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Description of a branch's backbone, from its config or, of a standard model, by its weights."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor

from mmmokd.models.branches import complete_backbone
from mmmokd.registry import MODELS
from mmmokd.utils.config_tree import iter_dicts, type_name
from mmmokd.utils.errors import CheckpointError
from mmmokd.weights import BackboneInfo, WeightFile, describe_weights, inspect_weights
from mmmokd.weights.backbone_info import Pixels
from mmmokd.weights.checkpoint_config import read_config_text

# Of a backbone's config: where its weights came from, and how it was trained.
NOT_OF_THE_MODEL = (
    *('init_cfg', 'pretrained', 'checkpoint_path'),
    *('frozen_stages', 'drop_path_rate', 'norm_eval', 'with_cp'),
)


def branch_info(
    file: WeightFile,
    branch: str,
    weights: Mapping[str, Tensor],
    config: Config | None = None,
    img_size: int | None = None,
) -> BackboneInfo:
    """Say what the backbone of a checkpoint's branch is.

    Args:
        file (WeightFile): A MOKD checkpoint.
        branch (str): Name of the branch.
        weights (Mapping[str, Tensor]): Weights of its backbone.
        config (Config, optional): Config that it was trained with. Defaults to None: the one that
            the checkpoint keeps; without it, a standard ResNet or ViT is told from its weights.
        img_size (int, optional): See :func:`complete_info`.

    Returns:
        BackboneInfo: With a config and, where the checkpoint tells it, the normalization of images.

    Raises:
        CheckpointError: If the config has no such branch, and as :func:`complete_info`.
    """
    cfg = backbone_config(file, branch, config)
    if cfg is not None:
        cfg = _as_in_the_branch(cfg, weights)
    return complete_info(weights, cfg, img_size)._replace(pixels=read_pixels(file))


def _as_in_the_branch(cfg: dict[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """A backbone's config with what its branch set, so that it has the same weights and features."""
    cfg = {key: value for key, value in cfg.items() if key not in NOT_OF_THE_MODEL}
    if type_name(cfg['type']) == 'VisionTransformer':  # the libraries choose the output themselves
        return cfg
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        completed = complete_backbone(cfg)
    if 'out_type' not in cfg and completed.get('out_type') == 'raw' and 'cls_token' in weights:
        completed['out_type'] = 'cls_token'  # the branch's pooled feature, and of the same weights
    return completed


def backbone_config(
    file: WeightFile, branch: str, config: Config | None = None
) -> dict[str, Any] | None:
    """The config of a branch's backbone.

    Args:
        file (WeightFile): A MOKD checkpoint.
        branch (str): Name of the branch.
        config (Config, optional): Config that it was trained with. Defaults to None: the one that
            the checkpoint keeps.

    Returns:
        dict | None: The backbone's config; None if the checkpoint keeps none.

    Raises:
        CheckpointError: If the config has no such branch.
    """
    if config is not None:
        cfg, source = config.to_dict(), config.filename or 'the config'
    elif isinstance(file.meta.get('cfg'), str):
        cfg, source = read_config_text(file.meta['cfg']), f'the config in {file.path}'
    else:
        return None
    branches = (cfg.get('model') or {}).get('branches') or {}
    if not isinstance(branches.get(branch), dict):
        names = [name for name, value in branches.items() if value is not None]
        raise CheckpointError(
            f'{source} has no branch {branch!r}; it has {", ".join(names) or "none"}'
        )
    return branches[branch]['backbone']


def read_pixels(file: WeightFile) -> Pixels | None:
    """Read how the images were normalized that the weights were trained on.

    Args:
        file (WeightFile): A MOKD checkpoint.

    Returns:
        Pixels | None: The normalization; None where the checkpoint keeps no config that tells it.
    """
    if not isinstance(file.meta.get('cfg'), str):
        return None
    cfg = read_config_text(file.meta['cfg'])
    preprocessor = cfg.get('data_preprocessor') or cfg['model'].get('data_preprocessor') or {}
    if 'mean' not in preprocessor:
        return None
    loads = [
        node
        for _, node in iter_dicts(cfg.get('train_dataloader') or {})
        if type_name(node.get('type')) == 'LoadImage'
    ]
    # Either the pipeline gives RGB, or the preprocessor turns BGR round.
    rgb = bool(preprocessor.get('to_rgb')) != any(node.get('to_rgb') for node in loads)
    return Pixels(list(preprocessor['mean']), list(preprocessor['std']), rgb)


def complete_info(
    weights: Mapping[str, Tensor], cfg: dict[str, Any] | None = None, img_size: int | None = None
) -> BackboneInfo:
    """Say what a backbone is, with all that is needed to build it.

    Args:
        weights (Mapping[str, Tensor]): The backbone's weights.
        cfg (dict, optional): Its config. Defaults to None, to tell a standard ResNet or ViT (heads of
            64 channels) from its weights.
        img_size (int, optional): Side in pixels of the images that a ViT's position embedding, or a
            Swin Transformer, is wanted for. Defaults to None, that of the weights.

    Returns:
        BackboneInfo: With a config.

    Raises:
        CheckpointError: If there is no config and the weights are not of a standard model, or an image
            size is given for another model than a ViT.
    """
    info = inspect_weights(weights)
    if cfg is None and (info is None or info.cfg is None):
        raise CheckpointError(
            'the checkpoint keeps no config, and its weights are of no standard model '
            f'({describe_weights(weights)}): name the config that it was trained with by --config'
        )
    cfg = dict(info.cfg if cfg is None else cfg)
    for key in NOT_OF_THE_MODEL:
        cfg.pop(key, None)
    family = type_name(cfg['type'])
    if family == 'VisionTransformer' and info is not None and info.is_vit:
        return _complete_vit(info, cfg, img_size)
    if img_size is not None and family == 'SwinTransformer':
        cfg['img_size'] = img_size
    elif img_size is not None:
        raise CheckpointError(
            f'only a ViT has a position embedding to resize for images of {img_size} pixels, '
            f'but the branch is {describe_weights(weights)}'
        )
    if info is None or info.family != family:
        info = BackboneInfo(family)
    return info._replace(cfg=cfg)


def _complete_vit(info: BackboneInfo, cfg: dict[str, Any], img_size: int | None) -> BackboneInfo:
    """Add what the weights of a ViT do not tell: its heads, and the size of images that is wanted."""
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmpretrain'):
        arch = MODELS.build(cfg).arch_settings
    size = img_size or info.img_size or cfg.get('img_size', 224)
    ratio = arch['feedforward_channels'] / arch['embed_dims']
    return info._replace(
        cfg=dict(cfg, img_size=size),
        heads=arch['num_heads'],
        mlp_ratio=int(ratio) if ratio.is_integer() else ratio,  # mmseg takes no other
        img_size=size,
    )
