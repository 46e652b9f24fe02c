# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the authors' released MOKD, to and from ours."""

import re

from torch import Tensor

# The released loss modules, by our head; {0} is the branch itself, {1} its peer.
_CENTRES = {
    'loss_{0}_fn': 'sm',
    'loss_{0}_thead_fn': 'st',
    'loss_{0}_ct_fn': 'cm.{1}',
}
# Released name and ours, tried in order on a key without network prefix.
_RENAMES = (
    (r'head\.(?=mlp|last_layer)', 'projector.'),
    (r'transhead\.patch_embed\.', 'search_head.projection.'),
    (r'transhead\.', 'search_head.'),
    (r'backbone\.blocks\.', 'backbone.layers.'),
    (r'backbone\.patch_embed\.proj\.', 'backbone.patch_embed.projection.'),
    (r'backbone\.norm\.', 'backbone.ln1.'),
)
_BLOCK_RENAMES = (
    ('.norm1.', '.ln1.'),
    ('.norm2.', '.ln2.'),
    ('.mlp.fc1.', '.ffn.layers.0.0.'),
    ('.mlp.fc2.', '.ffn.layers.1.'),
)
_LAST_RENAMES = (
    ('last_layer.weight_g', 'last_layer.parametrizations.weight.original0'),
    ('last_layer.weight_v', 'last_layer.parametrizations.weight.original1'),
)
_REVERSED = (
    (r'projector\.', 'head.'),
    (r'search_head\.projection\.', 'transhead.patch_embed.'),
    (r'search_head\.', 'transhead.'),
    (r'backbone\.layers\.', 'backbone.blocks.'),
    (r'backbone\.patch_embed\.projection\.', 'backbone.patch_embed.proj.'),
    (r'backbone\.ln1\.', 'backbone.norm.'),
)
_BLOCK = re.compile(r'(layers|blocks)\.\d+\.')


def from_released(
    checkpoint: dict, branches: tuple[str, str] = ('cnn', 'vit')
) -> dict[str, Tensor]:
    """State dict of our MOKD from a checkpoint in the authors' format.

    Args:
        checkpoint (dict): With ``student_cnn``, ``teacher_cnn``, ``student_vit``,
            ``teacher_vit`` (keys with or without the prefix ``module.``) and, where the centres
            are wanted, the loss modules (``loss_cnn_fn`` and so on).
        branches (tuple[str, str]): Our names for the CNN's and the ViT's branch.
            Defaults to ('cnn', 'vit').

    Returns:
        dict[str, Tensor]: Ours. Centres are included where the checkpoint has them.

    Raises:
        KeyError: If a network is missing.
    """
    theirs = ('cnn', 'vit')
    missing = [f'{net}_{x}' for net in ('student', 'teacher') for x in theirs
               if f'{net}_{x}' not in checkpoint]  # fmt: skip
    if missing:
        raise KeyError(
            f'not a released MOKD checkpoint: {missing} are missing, there are {sorted(checkpoint)}'
        )
    state = {}
    for their, ours in zip(theirs, branches, strict=True):
        for network in ('student', 'teacher'):
            for key, value in _unwrap(checkpoint[f'{network}_{their}']).items():
                if key.startswith('transhead.patch_embed.weight'):
                    value = value.flatten(1)
                state[f'branches.{ours}.{network}.{_to_ours(key)}'] = value
    for (their, _), (ours, peer) in zip(
        (theirs, theirs[::-1]), (branches, branches[::-1]), strict=True
    ):
        for module, head in _CENTRES.items():
            if module.format(their) in checkpoint:
                centre = _unwrap(checkpoint[module.format(their)])['center']
                state[f'branches.{ours}.heads.{head.format(ours, peer)}.center'] = centre
    return state


def to_released(
    state_dict: dict[str, Tensor], branches: tuple[str, str] = ('cnn', 'vit')
) -> dict[str, dict[str, Tensor]]:
    """The inverse of :func:`from_released`.

    Args:
        state_dict (dict[str, Tensor]): Of a MOKD with a CNN's and a ViT's branch.
        branches (tuple[str, str]): Our names of the two. Defaults to ('cnn', 'vit').

    Returns:
        dict[str, dict[str, Tensor]]: The four networks, keys with the prefix ``module.``, and the
        loss modules.

    Raises:
        KeyError: If a branch is not in the state dict.
    """
    theirs = ('cnn', 'vit')
    checkpoint: dict[str, dict[str, Tensor]] = {}
    for their, ours, peer in zip(theirs, branches, branches[::-1], strict=True):
        for network in ('student', 'teacher'):
            prefix = f'branches.{ours}.{network}.'
            weights = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
            if not weights:
                found = sorted({k.split('.')[1] for k in state_dict if k.startswith('branches.')})
                raise KeyError(f'no branch {ours!r} in the checkpoint; it has {found}')
            checkpoint[f'{network}_{their}'] = {
                f'module.{_to_theirs(key)}': value[:, :, None, None]
                if key == 'search_head.projection.weight'
                else value
                for key, value in weights.items()
            }
        for module, head in _CENTRES.items():
            key = f'branches.{ours}.heads.{head.format(ours, peer)}.center'
            if key in state_dict:
                checkpoint[module.format(their)] = {'center': state_dict[key]}
    return checkpoint


def _unwrap(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix('module.'): value for key, value in state_dict.items()}


def _to_ours(key: str) -> str:
    in_block = _BLOCK.search(key)
    key = _rename(key, _RENAMES)
    for old, new in (_BLOCK_RENAMES if in_block else ()) + _LAST_RENAMES:
        key = key.replace(old, new)
    return key


def _to_theirs(key: str) -> str:
    in_block = _BLOCK.search(key)
    key = _rename(key, _REVERSED)
    for old, new in (_BLOCK_RENAMES if in_block else ()) + _LAST_RENAMES:
        key = key.replace(new, old)
    return key


def _rename(key: str, renames) -> str:
    for pattern, replacement in renames:
        renamed, count = re.subn('^' + pattern, replacement, key)
        if count:
            return renamed
    return key
