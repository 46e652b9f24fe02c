# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Loading a backbone's weights, all of which must fit."""

import io
import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout

from torch import Tensor, nn

from mmmokd.utils.errors import CheckpointError
from mmmokd.utils.pos_embed import resize_square_pos_embed
from mmmokd.utils.state_dict import load_state_dict_strict, name_some
from mmmokd.weights.backbone_info import describe_weights

from .lora import is_lora, merge_lora
from .vit_names import VIT_NAMES, rename_vit, vit_library

# What a ViT of mmpretrain, or of mmseg, has on request, by its names and by DINOv2's.
_OPTIONS = (
    (
        re.compile(r'.*(\.gamma[12]\.weight|\.ls[12]\.gamma)'),
        'layer scales',
        'layer_scale_init_value=1e-5',
    ),
    (
        re.compile(r'.*\.w12\.weight'),
        'gated layers',
        "layer_cfgs=dict(ffn_type='swiglu_fused')",
    ),
    (re.compile(r'patch_embed\.projection\.bias'), 'a bias of patches', 'patch_bias=True'),
)
# Parts of a transformer that its other weights were trained with: features are wrong without them.
_NEEDED_PARTS = {
    'rope_embed': 'a rotary position embedding (DINOv3), which no ViT with absolute positions has',
    'storage_tokens': 'register tokens (DINOv3)',
    'register_tokens': "register tokens, as timm's vit_small_patch14_reg4_dinov2 has them",
    'reg_token': "register tokens, as timm's vit_small_patch14_reg4_dinov2 has them",
    'dist_token': "a distillation token, as mmpretrain's DistilledVisionTransformer has it",
    'norm_pre': 'a norm before the first block: pre_norm=True',
}
_RESNET = re.compile(r'layer[1-4]\.0\.conv1\.weight')
# What a file of a plain model may lack: of a ResNet, offsets of deformable convolutions and plugins;
# of a ViT a final norm, where another feature is read, and relative positions.
_EXTRAS = {
    'ResNet': re.compile(r'layer\d\.\d+\.(conv\d\.conv_offset|\w+_block)\..*'),
    'ViT': re.compile(r'(ln\d|norm|fc_norm)\.(weight|bias)|.*relative_position.*'),
}


def backbone_kind(weights: Mapping[str, Tensor]) -> str | None:
    """Tell which of the two common kinds a backbone's weights are of.

    Args:
        weights (Mapping[str, Tensor]): Weights by name.

    Returns:
        str | None: ``'ViT'``, ``'ResNet'``, or None.
    """
    if vit_library(weights) is not None:
        return 'ViT'
    return 'ResNet' if any(map(_RESNET.fullmatch, weights)) else None


def load_backbone(
    module: nn.Module, weights: Mapping[str, Tensor], source: str, extras: bool = False
) -> list[str]:
    """Load a backbone's weights into a backbone, all of which they must fit.

    A ViT's weights may have the names of another library (``VIT_NAMES``), and a position embedding
    of another size, which is resized; mmpretrain's wrapper of a timm model takes the weights of
    timm. The module may lack whole parts of the source, as a detector lacks the last stage or a
    segmentor the last norm, but must lack nothing in the parts it has: a ResNet-34 does not fit a
    ResNet-18, though it has all of its weights. Low-rank updates (LoRA) of the source are merged where
    the module has none, and begin at zero where the source has none.

    Args:
        module (nn.Module): The backbone, or a part of one, as a shared head of ``layer4``.
        weights (Mapping[str, Tensor]): Its weights by name.
        source (str): Where they are from, for the message.
        extras (bool): Whether a ResNet or a ViT may have what a plain one has not, and the source
            lacks, as deformable convolutions or another final norm. Defaults to False.

    Returns:
        list[str]: Names of weights that the module has no part for; they were not used.

    Raises:
        CheckpointError: If they do not fit; the message describes both sides.
    """
    if any(map(is_lora, weights)) and not any(map(is_lora, module.state_dict())):
        weights = merge_lora(weights)
    module, weights = _unwrap(module, weights, source)
    own = module.state_dict()
    _check_needed_parts(weights, own, type(module).__name__, source)
    weights = adapt_weights(weights, own, source)
    extra = _EXTRAS.get(backbone_kind(own) or '') if extras else None
    plain = not any(map(is_lora, weights))

    def may_lack(key: str) -> bool:
        return (plain and is_lora(key)) or (extra is not None and bool(extra.fullmatch(key)))

    try:
        unexpected = load_state_dict_strict(module, weights, source, may_lack)
        parts = {key.split('.')[0] for key in own}
        strange = [key for key in unexpected if key.split('.')[0] in parts]
        if strange:
            raise CheckpointError(
                f'{source} has {len(strange)} weights that {type(module).__name__} has no place '
                f'for: {name_some(strange)}'
            )
    except ValueError as error:
        text = str(error).rstrip('.')
        text += ' ' if text.endswith('?') else '. '
        raise CheckpointError(
            f'{text}The weights are of {describe_weights(weights)}, the model that they should go to '
            f'is {describe_weights(own)}{_hint(own, weights)}'
        ) from error
    return unexpected


def _unwrap(
    module: nn.Module, weights: Mapping[str, Tensor], source: str
) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """Of a wrapper of a timm model, the model, and weights by its names, if the weights are timm's."""
    inner = getattr(module, 'timm_model', None)
    if not isinstance(inner, nn.Module) or any(key.startswith('timm_model.') for key in weights):
        return module, weights
    own = inner.state_dict()
    if not all(key in weights and weights[key].shape == own[key].shape for key in own):
        # timm's own way to read its and others' files: sizes of position embeddings, registers.
        convert = getattr(sys.modules[type(inner).__module__], 'checkpoint_filter_fn', None)
        if convert is not None:
            _check_biases(weights, own, source)
            with redirect_stdout(io.StringIO()):  # of DINOv3's biases it prints one after the other
                weights = convert(dict(weights), inner)
    return inner, _rename_stages(weights, own)


def _check_biases(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    """Refuse biases of official DINOv3 that timm would leave out: not all of its models have them."""
    if 'storage_tokens' not in weights or any(key.endswith('attn.q_bias') for key in own):
        return
    for key in (key for key in weights if key.endswith('attn.qkv.bias')):
        query, _, value = weights[key].chunk(3)  # that of the key is masked, whatever stands there
        if query.any() or value.any():
            raise CheckpointError(
                f'{source} has biases of queries and values ({key}), which the timm model has not: '
                'take its namesake that has them, model_name=..._dinov3_qkvb'
            )


def _rename_stages(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's ``features_only`` says ``stages_0`` where the whole model says ``stages.0``."""
    places = {re.sub(r'_(?=\d+\.)', '.', key.removeprefix('model.')): key for key in own}
    plain = {key: re.sub(r'_(?=\d+\.)', '.', key.removeprefix('model.')) for key in weights}
    return {places.get(plain[key], key): value for key, value in weights.items()}


def _check_needed_parts(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str, source: str
) -> None:
    parts = {key.split('.')[0] for key in own}
    for key in weights:
        part = key.split('.')[0]
        if part in _NEEDED_PARTS and part not in parts:
            raise CheckpointError(
                f'{source} does not fit {name}: its model has {_NEEDED_PARTS[part]} ({key})'
            )


def _hint(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Name the argument of a ViT that makes it fit."""
    hints = []
    for pattern, what, argument in _OPTIONS:
        ours, theirs = (any(map(pattern.fullmatch, keys)) for keys in (own, weights))
        if theirs and not ours:
            hints.append(f'the weights have {what}: give the backbone {argument}')
        elif ours and not theirs:
            hints.append(f'only the model has {what}: leave {argument} out')
    return ''.join(f'; {hint}' for hint in hints)


def adapt_weights(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """Give a ViT's weights the names, and the size of position embedding, that a model has.

    Args:
        weights (Mapping[str, Tensor]): Weights by name.
        own (Mapping[str, Tensor]): The model's own weights.
        source (str): Where the weights are from, for the message.

    Returns:
        dict[str, Tensor]: The weights; as they were, if one side is not a ViT.
    """
    theirs, ours = vit_library(weights), vit_library(own)
    if theirs is None or ours is None:
        return dict(weights)
    adapted = rename_vit(weights, theirs, ours)
    for key in ('pos_embed', 'encoder.pos_embedding'):
        found, wanted = adapted.get(key), own.get(key)
        if found is None or wanted is None:
            continue
        class_token = VIT_NAMES[ours]['class_token']
        if class_token in adapted and class_token not in own:  # nor has it the position of one
            adapted[key] = found = found[:, 1:]
        if found.shape[1] != wanted.shape[1]:
            adapted[key] = resize_square_pos_embed(found, wanted.shape[1], source)
    return adapted
