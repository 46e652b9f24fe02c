# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the authors' official MOKD, to and from ours."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from mmmokd.utils.errors import CheckpointError
from mmmokd.utils.state_dict import name_some, strip_module_prefix
from mmmokd.weights.vit_names import VIT_NAMES, name_pattern, rename

# The official loss modules, by our head; {0} is the branch itself, {1} its peer.
_CENTERS = {
    'loss_{0}_fn': 'sm',
    'loss_{0}_thead_fn': 'st',
    'loss_{0}_ct_fn': 'cm.{1}',
}
# Templates of names (`name_pattern`), theirs to ours. Their ViT has timm's names, ours mmpretrain's.
_VIT = {theirs: VIT_NAMES['mmpretrain'][part] for part, theirs in VIT_NAMES['timm'].items()}
_BACKBONE = {f'backbone.{theirs}': f'backbone.{ours}' for theirs, ours in _VIT.items()}
# A search head has the ViT's blocks, but both sides call them `blocks`.
_BLOCKS = {
    f'transhead.{theirs}': f'search_head.{ours.replace("layers", "blocks", 1)}'
    for theirs, ours in _VIT.items()
    if '{n}' in theirs
}
_GAIN = 'last_layer.parametrizations.weight.original0'
_DIRECTION = 'last_layer.parametrizations.weight.original1'
_PATCH_EMBED = 'transhead.patch_embed.weight'  # a 1x1 convolution, a linear layer of ours
_HEADS = {
    'head.mlp.{n}.{leaf}': 'projector.mlp.{n}.{leaf}',
    'head.last_layer.weight_g': f'projector.{_GAIN}',
    'head.last_layer.weight_v': f'projector.{_DIRECTION}',
    'transhead.patch_embed.{leaf}': 'search_head.projection.{leaf}',
    'transhead.pos_embed': 'search_head.pos_embed',
    **_BLOCKS,
    'transhead.norm.{leaf}': 'search_head.norm.{leaf}',
    'transhead.last_layer.weight_g': f'search_head.{_GAIN}',
    'transhead.last_layer.weight_v': f'search_head.{_DIRECTION}',
}
# A weight that the official code does not have goes with its part, where loading will tell of it.
_OTHERS = {
    'backbone.blocks.{rest}': 'backbone.layers.{rest}',
    'head.{rest}': 'projector.{rest}',
    'transhead.{rest}': 'search_head.{rest}',
}
_TO_OURS = _BACKBONE | _HEADS | _OTHERS
_TO_THEIRS = {ours: theirs for theirs, ours in _TO_OURS.items()}
_RESNET = re.compile(r'backbone\.(conv1|bn1|layer[1-4]\.\d+\.\w+(\.\d)?)\.\w+')
NETWORKS = ('student_cnn', 'teacher_cnn', 'student_vit', 'teacher_vit')
# A part of each kind that every official network has, and all that one can have.
_PARTS = {
    'cnn': ('backbone.', 'head.last_layer.', 'transhead.patch_embed.', 'transhead.last_layer.'),
    'vit': (
        'backbone.cls_token',
        'head.last_layer.',
        'transhead.pos_embed',
        'transhead.last_layer.',
    ),
}
_PLACES = {
    'cnn': (_RESNET, *map(name_pattern, _HEADS)),
    'vit': tuple(map(name_pattern, _BACKBONE | _HEADS)),
}


def from_official(
    checkpoint: dict, branches: tuple[str, str] = ('cnn', 'vit')
) -> dict[str, Tensor]:
    """State dict of our MOKD from a checkpoint in the authors' format.

    Args:
        checkpoint (dict): With ``student_cnn``, ``teacher_cnn``, ``student_vit``,
            ``teacher_vit`` (keys with or without the prefix ``module.``) and, where the centers
            are wanted, the loss modules (``loss_cnn_fn`` and so on).
        branches (tuple[str, str]): Our names for the CNN's and the ViT's branch.
            Defaults to ('cnn', 'vit').

    Returns:
        dict[str, Tensor]: Ours. Centers are included where the checkpoint has them.

    Raises:
        CheckpointError: If a network is missing, or a part of one.
    """
    theirs = ('cnn', 'vit')
    _check_networks(checkpoint)
    state = {}
    for their, ours in zip(theirs, branches, strict=True):
        for network in ('student', 'teacher'):
            weights = strip_module_prefix(checkpoint[f'{network}_{their}'])
            if _PATCH_EMBED in weights:
                weights[_PATCH_EMBED] = weights[_PATCH_EMBED].flatten(1)
            for key, value in weights.items():
                state[f'branches.{ours}.{network}.{rename(key, _TO_OURS)}'] = value
    for (their, _), (ours, peer) in zip(
        (theirs, theirs[::-1]), (branches, branches[::-1]), strict=True
    ):
        for module, head in _CENTERS.items():
            if module.format(their) in checkpoint:
                center = strip_module_prefix(checkpoint[module.format(their)])['center']
                state[f'branches.{ours}.heads.{head.format(ours, peer)}.center'] = center
    return state


def to_official(
    state_dict: dict[str, Tensor], branches: tuple[str, str] = ('cnn', 'vit')
) -> dict[str, dict[str, Tensor]]:
    """The inverse of :func:`from_official`.

    Args:
        state_dict (dict[str, Tensor]): Of a MOKD with a CNN's and a ViT's branch.
        branches (tuple[str, str]): Our names of the two. Defaults to ('cnn', 'vit').

    Returns:
        dict[str, dict[str, Tensor]]: The four networks, keys with the prefix ``module.``, and the
        loss modules.

    Raises:
        CheckpointError: If a branch is not in the state dict, or is not a network as the official
            code has them: of another architecture, without a teacher (``ema=False``) or a student
            (``frozen=True``), with further necks, or with loss terms that have weights.
    """
    theirs = ('cnn', 'vit')
    checkpoint: dict[str, dict[str, Tensor]] = {}
    problems: list[str] = []
    for their, ours, peer in zip(theirs, branches, branches[::-1], strict=True):
        own = _below(state_dict, f'branches.{ours}.')
        if not own:
            found = sorted({k.split('.')[1] for k in state_dict if k.startswith('branches.')})
            raise CheckpointError(f'no branch {ours!r} in the checkpoint; it has {found}')
        for network in ('student', 'teacher'):
            weights = _below(own, f'{network}.')
            renamed = {rename(key, _TO_THEIRS): value for key, value in weights.items()}
            if _PATCH_EMBED in renamed:
                renamed[_PATCH_EMBED] = renamed[_PATCH_EMBED][:, :, None, None]
            problems += _differences(renamed, their, ours, network)
            checkpoint[f'{network}_{their}'] = {f'module.{k}': v for k, v in renamed.items()}
        heads = [key for key in _below(own, 'heads.') if not key.endswith('.center')]
        if heads:
            problems.append(
                f'there is no place for the weights of {ours}.heads: {name_some(heads)}'
            )
        for module, head in _CENTERS.items():
            key = f'heads.{head.format(ours, peer)}.center'
            if key in own:
                checkpoint[module.format(their)] = {'center': own[key]}
    if problems:
        raise CheckpointError(
            f'branches {branches[0]!r} and {branches[1]!r} are not a ResNet and a ViT as the official '
            f'code has them: {"; ".join(dict.fromkeys(problems))}. The order is CNN, then ViT'
        )
    return checkpoint


def _below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: v for key, v in weights.items() if key.startswith(prefix)}


def _check_networks(checkpoint: dict) -> None:
    """Make sure that a checkpoint of the authors' is one, and has all of its networks."""
    missing = [name for name in NETWORKS if name not in checkpoint]
    if missing:
        raise CheckpointError(
            f'not an official MOKD checkpoint: {missing} are missing, there are '
            f'{name_some(sorted(map(str, checkpoint)), 12)}'
        )
    keys = {}
    for name in NETWORKS:
        weights = checkpoint[name]
        if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
            raise CheckpointError(f'{name} of the official checkpoint is not a dict of weights')
        keys[name] = set(strip_module_prefix(weights))
        for part in _PARTS[name[-3:]]:
            if not any(key.startswith(part) for key in keys[name]):
                raise CheckpointError(f'{name} of the official checkpoint lacks {part}*')
    for kind in ('cnn', 'vit'):
        differ = sorted(keys[f'student_{kind}'] ^ keys[f'teacher_{kind}'])
        if differ:
            raise CheckpointError(
                f'student_{kind} and teacher_{kind} of the official checkpoint should have the same '
                f'weights, but only one has {name_some(differ)}'
            )


def _differences(weights: dict[str, Tensor], kind: str, branch: str, network: str) -> list[str]:
    """Differences of a network, its weights renamed, from those of the official code."""
    if not weights:
        return [f'{branch} has no {network}']
    places = _PLACES[kind]
    strange = [key for key in weights if not any(place.fullmatch(key) for place in places)]
    lacking = [part for part in _PARTS[kind] if not any(key.startswith(part) for key in weights)]
    found = [f'there is no place for {name_some(strange)} of {branch}'] if strange else []
    return found + ([f'{branch} lacks {name_some(lacking)}'] if lacking else [])
