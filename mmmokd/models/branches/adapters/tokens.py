# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from typing import Any

import torch
from torch import nn

from mmmokd.registry import MODELS
from mmmokd.structures import BackboneFeatures
from mmmokd.utils.errors import ConfigError

from ...utils import check_counts
from .base import BackboneAdapter, pick_output
from .grid import infer_grid

POSITIONS = ('first', 'middle', 'last')


@MODELS.register_module()
class TokenAdapter(BackboneAdapter):
    """Read a sequence of tokens, as transformers and state space models give it.

    The patches' tokens are laid on the grid that one stride makes of the image. The extra tokens,
    a class token and registers, stand in front of them, behind them or, as the class token of
    `Vision Mamba <https://arxiv.org/abs/2401.09417>`_, in their middle.

    Args:
        num_extra_tokens (int): Number of class, distillation and register tokens. Defaults to 1.
        position (str): Where they stand: ``'first'``, ``'middle'`` (behind the first half of the
            patches, rounded down) or ``'last'``. Defaults to ``'first'``.
        class_token (int, optional): Which of the extra tokens is the pooled feature. None pools by
            the mean over the patches. Defaults to 0, or to None without extra tokens.
        index (int | str): Which output is the sequence: its place in a tuple or list, or its key in
            a dict. Defaults to -1, the last one.
        channels_first (bool): Whether the sequence is (B, C, N) instead of (B, N, C). Defaults to
            False.
        pooled_index (int | str, optional): Which output is the pooled feature (B, C). Defaults to
            None, the class token or the mean.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: If ``position`` is unknown or that class token does not exist; in a pass, if an
            output does not exist, has another number of dimensions, or its patches form no grid.

    Example:
        >>> adapter = TokenAdapter(position='middle')
        >>> features = adapter(torch.rand(2, 197, 192), nn.Identity(), (224, 224))
        >>> features.pooled.shape, features.tokens.shape, features.grid
        (torch.Size([2, 192]), torch.Size([2, 196, 192]), (14, 14))
    """

    def __init__(
        self,
        num_extra_tokens: int = 1,
        position: str = 'first',
        class_token: int | None = 0,
        index: int | str = -1,
        channels_first: bool = False,
        pooled_index: int | str | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_counts('TokenAdapter', least=0, num_extra_tokens=num_extra_tokens)
        if position not in POSITIONS:
            raise ConfigError(
                f'position of TokenAdapter must be one of {", ".join(map(repr, POSITIONS))}, but got '
                f'{position!r}'
            )
        if not num_extra_tokens and class_token == 0:
            class_token = None
        if class_token is not None and not 0 <= class_token < num_extra_tokens:
            raise ConfigError(
                f'class_token of TokenAdapter must be below num_extra_tokens={num_extra_tokens} or '
                f'None, but got {class_token!r}'
            )
        self.num_extra_tokens = num_extra_tokens
        self.position = position
        self.class_token = class_token
        self.index = index
        self.channels_first = channels_first
        self.pooled_index = pooled_index

    def read(
        self, output: Any, backbone: nn.Module, image_size: tuple[int, int]
    ) -> BackboneFeatures:
        """Read a sequence.

        Args:
            output (Any): What the backbone returned.
            backbone (nn.Module): The backbone.
            image_size (tuple[int, int]): The (H, W) of the images, in pixels.

        Returns:
            BackboneFeatures: Pooled feature, the patches' tokens and their grid.
        """
        found = pick_output(output, self.index, 3, self, backbone)
        if self.channels_first:
            found = found.transpose(1, 2)  # (B, N, C)
        num_patches = found.shape[1] - self.num_extra_tokens
        grid = infer_grid(
            num_patches,
            image_size,
            type(backbone).__name__,
            f'of {found.shape[1]} tokens, num_extra_tokens={self.num_extra_tokens} of the '
            'TokenAdapter are left out',
        )
        before = {'first': 0, 'middle': num_patches // 2, 'last': num_patches}[self.position]
        front, extra, back = found.split(
            [before, self.num_extra_tokens, num_patches - before], dim=1
        )
        tokens = torch.cat([front, back], dim=1)
        if self.pooled_index is not None:
            pooled = pick_output(output, self.pooled_index, 2, self, backbone)
        else:
            pooled = tokens.mean(dim=1) if self.class_token is None else extra[:, self.class_token]
        return BackboneFeatures(pooled, tokens, grid)
