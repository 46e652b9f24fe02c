# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Names of a plain ViT's weights in each library."""

import re
from collections.abc import Iterable, Mapping
from functools import cache

from torch import Tensor

# {n} is a block's number, {leaf} 'weight' or 'bias'. timm's names are DINO's, and the authors'.
VIT_NAMES = {
    'mmpretrain': dict(
        class_token='cls_token',
        pos_embed='pos_embed',
        patch='patch_embed.projection.{leaf}',
        norm='ln1.{leaf}',
        norm1='layers.{n}.ln1.{leaf}',
        qkv='layers.{n}.attn.qkv.{leaf}',
        proj='layers.{n}.attn.proj.{leaf}',
        norm2='layers.{n}.ln2.{leaf}',
        fc1='layers.{n}.ffn.layers.0.0.{leaf}',
        fc2='layers.{n}.ffn.layers.1.{leaf}',
    ),
    'mmseg': dict(
        class_token='cls_token',
        pos_embed='pos_embed',
        patch='patch_embed.projection.{leaf}',
        norm='ln1.{leaf}',
        norm1='layers.{n}.ln1.{leaf}',
        qkv='layers.{n}.attn.attn.in_proj_{leaf}',
        proj='layers.{n}.attn.attn.out_proj.{leaf}',
        norm2='layers.{n}.ln2.{leaf}',
        fc1='layers.{n}.ffn.layers.0.0.{leaf}',
        fc2='layers.{n}.ffn.layers.1.{leaf}',
    ),
    'timm': dict(
        class_token='cls_token',
        pos_embed='pos_embed',
        patch='patch_embed.proj.{leaf}',
        norm='norm.{leaf}',
        norm1='blocks.{n}.norm1.{leaf}',
        qkv='blocks.{n}.attn.qkv.{leaf}',
        proj='blocks.{n}.attn.proj.{leaf}',
        norm2='blocks.{n}.norm2.{leaf}',
        fc1='blocks.{n}.mlp.fc1.{leaf}',
        fc2='blocks.{n}.mlp.fc2.{leaf}',
    ),
    'torchvision': dict(
        class_token='class_token',
        pos_embed='encoder.pos_embedding',
        patch='conv_proj.{leaf}',
        norm='encoder.ln.{leaf}',
        norm1='encoder.layers.encoder_layer_{n}.ln_1.{leaf}',
        qkv='encoder.layers.encoder_layer_{n}.self_attention.in_proj_{leaf}',
        proj='encoder.layers.encoder_layer_{n}.self_attention.out_proj.{leaf}',
        norm2='encoder.layers.encoder_layer_{n}.ln_2.{leaf}',
        fc1='encoder.layers.encoder_layer_{n}.mlp.0.{leaf}',
        fc2='encoder.layers.encoder_layer_{n}.mlp.3.{leaf}',
    ),
}
# Of blocks with layer scales, or with DINOv2-giant's gated layers; a library that is not here has none.
BLOCK_EXTRAS = {
    'mmpretrain': dict(
        scale1='layers.{n}.attn.gamma1.weight',
        scale2='layers.{n}.ffn.gamma2.weight',
        gate='layers.{n}.ffn.w12.{leaf}',
        gated='layers.{n}.ffn.w3.{leaf}',
    ),
    'timm': dict(
        scale1='blocks.{n}.ls1.gamma',
        scale2='blocks.{n}.ls2.gamma',
        gate='blocks.{n}.mlp.w12.{leaf}',
        gated='blocks.{n}.mlp.w3.{leaf}',
    ),
}
# Any other weight of a block.
BLOCK_NAMES = {
    'mmpretrain': 'layers.{n}.{rest}',
    'mmseg': 'layers.{n}.{rest}',
    'timm': 'blocks.{n}.{rest}',
    'torchvision': 'encoder.layers.encoder_layer_{n}.{rest}',
}


_CHUNK = re.compile(r'(^|.*\.)blocks\.\d+\.(?=\d+\.(?:norm1|norm2|attn|mlp|ls1|ls2)\.)')


@cache
def name_pattern(template: str) -> re.Pattern:
    """Pattern of the names that a template stands for.

    Args:
        template (str): A name with ``{n}`` and ``{s}`` for numbers, ``{leaf}`` for 'weight' or
            'bias', and ``{rest}`` for any end of a name.

    Returns:
        re.Pattern: To be matched in full; its groups are the template's fields.
    """
    pattern = re.escape(template)
    fields = (('s', r'\d+'), ('n', r'\d+'), ('leaf', 'weight|bias'), ('rest', '.+'))
    for field, values in fields:
        pattern = pattern.replace(rf'\{{{field}\}}', f'(?P<{field}>{values})')
    return re.compile(pattern)


def rename(name: str, names: Mapping[str, str]) -> str:
    """Give a weight another name.

    Args:
        name (str): The name that it has.
        names (Mapping[str, str]): Templates (:func:`name_pattern`) of new names by those of old
            ones; the first that fits is taken.

    Returns:
        str: The new name, or the old one if no template fits.
    """
    for old, new in names.items():
        if found := name_pattern(old).fullmatch(name):
            return new.format(**found.groupdict())
    return name


def vit_library(keys: Iterable[str]) -> str | None:
    """Tell whose names a ViT's weights have.

    Args:
        keys (Iterable[str]): Names of weights.

    Returns:
        str | None: A key of ``VIT_NAMES``; None if they are not those of a ViT.
    """
    keys = set(keys)
    for library, names in VIT_NAMES.items():
        first = (names['patch'], names['qkv'])
        if all(template.format(n=0, leaf='weight') in keys for template in first):
            return library
    return None


def join_chunks(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Number a ViT's blocks one after the other, as DINOv2's training does not.

    It keeps them in chunks, ``blocks.CHUNK.BLOCK.attn.*``, with the number of the block itself.

    Args:
        weights (Mapping[str, Tensor]): Weights by name.

    Returns:
        dict[str, Tensor]: The weights, without the numbers of chunks.
    """
    return {_CHUNK.sub(r'\1blocks.', key): value for key, value in weights.items()}


def rename_vit(weights: Mapping[str, Tensor], source: str, target: str) -> dict[str, Tensor]:
    """Give a ViT's weights another library's names.

    Args:
        weights (Mapping[str, Tensor]): Weights by the names of ``source``.
        source (str): A key of ``VIT_NAMES``.
        target (str): A key of ``VIT_NAMES``.

    Returns:
        dict[str, Tensor]: The same weights; those without a name in ``source``, as a classifier's,
        keep theirs, but in a block of ``target`` if they are of one: it shows there that they are
        left over.
    """
    parts = VIT_NAMES[source]
    names = {template: VIT_NAMES[target][part] for part, template in parts.items()}
    extras = BLOCK_EXTRAS.get(target, {})
    names |= {
        template: extras[part]
        for part, template in BLOCK_EXTRAS.get(source, {}).items()
        if part in extras
    }
    names[BLOCK_NAMES[source]] = BLOCK_NAMES[target]
    return {rename(key, names): value for key, value in weights.items()}
