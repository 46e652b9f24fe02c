# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from typing import Any

from torch import nn

from mmmokd.registry import MODELS
from mmmokd.structures import BackboneFeatures

from .base import BackboneAdapter, pick_output


@MODELS.register_module()
class FeatureMapAdapter(BackboneAdapter):
    """Read one feature map, as CNNs and hierarchical transformers give it.

    Args:
        index (int | str): Which output is the map: its place in a tuple or list, or its key in a
            dict. Defaults to -1, the last one.
        channels_last (bool): Whether the map is (B, h, w, C) instead of (B, C, h, w). Defaults to
            False.
        pooled_index (int | str, optional): Which output is the pooled feature (B, C). Defaults to
            None, the mean over the map.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: In a pass, if an output does not exist or has another number of dimensions.

    Example:
        >>> adapter = FeatureMapAdapter(channels_last=True)
        >>> features = adapter([torch.rand(2, 7, 7, 96)], nn.Identity(), (224, 224))
        >>> features.pooled.shape, features.tokens.shape, features.grid
        (torch.Size([2, 96]), torch.Size([2, 49, 96]), (7, 7))
    """

    def __init__(
        self,
        index: int | str = -1,
        channels_last: bool = False,
        pooled_index: int | str | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.index = index
        self.channels_last = channels_last
        self.pooled_index = pooled_index

    def read(
        self, output: Any, backbone: nn.Module, image_size: tuple[int, int]
    ) -> BackboneFeatures:
        """Read a map.

        Args:
            output (Any): What the backbone returned.
            backbone (nn.Module): The backbone.
            image_size (tuple[int, int]): The (H, W) of the images, in pixels.

        Returns:
            BackboneFeatures: The map's mean, or the output that is the pooled feature, the map as
            tokens and its grid.
        """
        found = pick_output(output, self.index, 4, self, backbone)
        if not self.channels_last:
            found = found.permute(0, 2, 3, 1)  # (B, h, w, C)
        tokens = found.flatten(1, 2)
        pooled = tokens.mean(dim=1)
        if self.pooled_index is not None:
            pooled = pick_output(output, self.pooled_index, 2, self, backbone)
        return BackboneFeatures(pooled, tokens, tuple(found.shape[1:3]))
