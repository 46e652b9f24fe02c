# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from mmmokd.registry import MODELS
from mmmokd.structures import BackboneFeatures
from mmmokd.utils.errors import ConfigError

from .base import BackboneAdapter, describe_output, pick_output


@MODELS.register_module()
class PyramidAdapter(BackboneAdapter):
    """Fuse the maps of a pyramid: bring them to one grid and concatenate their channels.

    It serves backbones whose information is spread over several maps, such as HRNet, whose last map
    alone leaves the others' last layers without a gradient. Larger maps are averaged, smaller ones
    interpolated bilinearly.

    Args:
        indices (Sequence[int | str], optional): Which outputs are fused: places in a tuple or list,
            or keys in a dict. Defaults to None, all outputs of a tuple or list.
        grid_index (int | str): The output whose grid the others are brought to. Defaults to -1, the
            last one.
        channels_last (bool): Whether the maps are (B, h, w, C) instead of (B, C, h, w). Defaults to
            False.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: In a pass, if an output does not exist or is not a map.

    Example:
        >>> maps = torch.rand(2, 16, 14, 14), torch.rand(2, 32, 7, 7)
        >>> features = PyramidAdapter()(maps, nn.Identity(), (224, 224))
        >>> features.pooled.shape, features.tokens.shape, features.grid
        (torch.Size([2, 48]), torch.Size([2, 49, 48]), (7, 7))
    """

    def __init__(
        self,
        indices: Sequence[int | str] | None = None,
        grid_index: int | str = -1,
        channels_last: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.indices = indices
        self.grid_index = grid_index
        self.channels_last = channels_last

    def read(
        self, output: Any, backbone: nn.Module, image_size: tuple[int, int]
    ) -> BackboneFeatures:
        """Read and fuse several maps.

        Args:
            output (Any): What the backbone returned.
            backbone (nn.Module): The backbone.
            image_size (tuple[int, int]): The (H, W) of the images, in pixels.

        Returns:
            BackboneFeatures: The mean over the fused map, the fused map as tokens, its grid.
        """
        indices = self.indices
        if indices is None:
            if not isinstance(output, list | tuple):
                raise ConfigError(
                    f'the adapter PyramidAdapter reads several maps, but the backbone '
                    f'{type(backbone).__name__} gave {describe_output(output)}: set its out_indices, '
                    'or indices of the adapter'
                )
            indices = range(len(output))
        grid = tuple(self._pick(output, self.grid_index, backbone).shape[2:])
        maps = [_resize(self._pick(output, index, backbone), grid) for index in indices]
        tokens = torch.cat(maps, dim=1).flatten(2).transpose(1, 2)  # (B, h * w, C)
        return BackboneFeatures(tokens.mean(dim=1), tokens, grid)

    def _pick(self, output: Any, index: int | str, backbone: nn.Module) -> Tensor:
        found = pick_output(output, index, 4, self, backbone)
        return found.permute(0, 3, 1, 2) if self.channels_last else found


def _resize(found: Tensor, grid: tuple[int, int]) -> Tensor:
    if found.shape[2] >= grid[0] and found.shape[3] >= grid[1]:
        return F.adaptive_avg_pool2d(found, grid)
    return F.interpolate(found, size=grid, mode='bilinear', align_corners=False)
