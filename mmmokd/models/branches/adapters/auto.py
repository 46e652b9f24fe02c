# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from typing import Any

from torch import Tensor, nn

from mmmokd.registry import MODELS
from mmmokd.structures import BackboneFeatures
from mmmokd.utils.errors import ConfigError

from .base import BackboneAdapter, describe_output
from .grid import infer_grid

GRID_ADVICE = (
    'if a class or register token is among them that the backbone does not count in '
    '`num_extra_tokens` or `num_prefix_tokens`, set the `adapter` of the branch, a '
    'mmmokd.TokenAdapter with num_extra_tokens'
)


@MODELS.register_module()
class AutoAdapter(BackboneAdapter):
    """Find pooled feature, tokens and grid by :func:`adapt_features`, the default of a branch."""

    def read(
        self, output: Any, backbone: nn.Module, image_size: tuple[int, int]
    ) -> BackboneFeatures:
        """Read whatever :func:`adapt_features` can.

        Args:
            output (Any): What the backbone returned.
            backbone (nn.Module): The backbone, to count its class and register tokens.
            image_size (tuple[int, int]): The (H, W) of the images, in pixels.

        Returns:
            BackboneFeatures: Pooled feature, tokens and grid.

        Raises:
            ConfigError: If the output holds no map or token sequence that can be read.
        """
        return adapt_features(output, backbone, image_size)


def adapt_features(output, backbone: nn.Module, image_size: tuple[int, int]) -> BackboneFeatures:
    """Find pooled feature, tokens and grid in a backbone's output.

    Read are: a 4-d map, channels first or (where the backbone says so) last; a token sequence
    with or without class, register or distillation tokens in front; a pair of such a map or
    sequence and a class token; and a tuple or list of these, of which the last is taken, as
    mmpretrain's ``out_indices`` give them. Class and register tokens are counted by the backbone's
    ``num_extra_tokens`` (mmpretrain) or ``num_prefix_tokens`` (timm); a backbone with neither has
    one if it has a ``cls_token``.

    Args:
        output (Tensor | list | tuple): What the backbone returned.
        backbone (nn.Module): The backbone itself.
        image_size (tuple[int, int]): The (H, W) of the images.

    Returns:
        BackboneFeatures: Pooled feature, tokens and grid.

    Raises:
        ConfigError: If the output holds no map or token sequence that can be read.
    """
    name = type(backbone).__name__
    found, class_token = _last_output(output, name)
    if found.dim() == 4:
        if _channels_last(backbone):
            found = found.permute(0, 3, 1, 2)
        grid = (found.shape[2], found.shape[3])
        tokens = found.flatten(2).transpose(1, 2)  # (B, N, C)
        pooled = tokens.mean(dim=1) if class_token is None else class_token
        return BackboneFeatures(pooled, tokens, grid)

    num_extra, has_class_token = count_extra_tokens(backbone)
    if class_token is not None:
        num_extra = 0
    tokens = found[:, num_extra:]
    if class_token is None:
        class_token = found[:, 0] if has_class_token else tokens.mean(dim=1)
    return BackboneFeatures(
        class_token, tokens, infer_grid(tokens.shape[1], image_size, name, GRID_ADVICE)
    )


def _last_output(output, name: str) -> tuple[Tensor, Tensor | None]:
    """The last map or token sequence, and the class token that came as its pair, if any."""
    if _is_map_and_class_token(output):
        return output[0], output[1]
    if isinstance(output, list | tuple) and len(output):
        return _last_output(output[-1], name)
    if isinstance(output, Tensor) and output.dim() in (3, 4):
        return output, None
    raise ConfigError(
        f'the backbone {name} gave {describe_output(output)}, but a branch needs its last map '
        '(B, C, h, w) or its tokens (B, N, C), to pool and to search. In mmpretrain, ask for the last '
        "stage by `out_indices`, of a transformer for `out_type='raw'` (or 'featmap'), of a ConvNeXt "
        'for `gap_before_final_norm=False`; in timm, set `features_only=True`. For any other output '
        'that holds them, set the `adapter` of the branch'
    )


def _is_map_and_class_token(output) -> bool:
    return (
        isinstance(output, list | tuple)
        and len(output) == 2
        and all(isinstance(x, Tensor) for x in output)
        and output[0].dim() in (3, 4)
        and output[1].dim() == 2
    )


def inner_model(backbone: nn.Module) -> nn.Module:
    """The model itself: mmpretrain's wrappers of timm and Hugging Face keep it one level down.

    Args:
        backbone (nn.Module): A backbone, wrapped or not.

    Returns:
        nn.Module: What is wrapped.
    """
    for attribute in ('timm_model', 'model'):
        inner = getattr(backbone, attribute, None)
        if isinstance(inner, nn.Module):
            return inner
    return backbone


def _channels_last(backbone: nn.Module) -> bool:
    return str(getattr(inner_model(backbone), 'output_fmt', '')).upper().endswith('NHWC')


def count_extra_tokens(backbone: nn.Module) -> tuple[int, bool]:
    """Count the tokens in front of the map's, and look for a class token among them.

    Args:
        backbone (nn.Module): A backbone, wrapped or not.

    Returns:
        tuple[int, bool]: Number of tokens, and whether the first is a class token.
    """
    inner = inner_model(backbone)
    has_class_token = getattr(inner, 'cls_token', None) is not None
    for attribute in ('num_extra_tokens', 'num_prefix_tokens'):
        count = getattr(inner, attribute, None)
        if isinstance(count, int):
            return count, count > 0 and has_class_token
    return int(has_class_token), has_class_token
