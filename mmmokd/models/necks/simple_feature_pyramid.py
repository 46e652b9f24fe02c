# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmmokd.registry import MODELS
from mmmokd.utils.errors import ConfigError


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """The feature pyramid that `ViTDet <https://arxiv.org/abs/2203.16527>`_ makes from one map.

    A plain ViT has maps of one stride only, 16 for patches of 16 pixels. Strides 4 and 8 come from
    it by deconvolutions of stride 2, stride 32 by max-pooling; at each a 1x1 and a 3x3 convolution,
    both with a norm layer, follow. Further levels subsample the last one.

    Args:
        in_channels (int): Channels C of the map, a multiple of 4.
        out_channels (int): Channels of every level. Defaults to 256.
        num_outs (int): Levels, at least 4: strides 4, 8, 16, 32 and, for a map of stride 16, 64
            and so on. Defaults to 5.
        norm_cfg (dict): Normalization layers. Defaults to
            ``dict(type='mmpretrain.LN2d', eps=1e-6)``, LN over channels.
        init_cfg (dict, optional): Initialization config. Defaults to
            ``dict(type='Xavier', layer='Conv2d', distribution='uniform')``, as mmdet's FPN.

    Raises:
        ConfigError: If C is not a multiple of 4, or there are fewer than 4 levels.

    Example:
        >>> neck = SimpleFeaturePyramid(in_channels=384)
        >>> [level.shape[-1] for level in neck((torch.rand(1, 384, 14, 14),))]
        [56, 28, 14, 7, 4]
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        num_outs: int = 5,
        norm_cfg: dict = dict(type='mmpretrain.LN2d', eps=1e-6),  # noqa: B006
        init_cfg: dict | None = dict(type='Xavier', layer='Conv2d', distribution='uniform'),  # noqa: B006
    ) -> None:
        super().__init__(init_cfg)
        if in_channels % 4:
            raise ConfigError(f'in_channels must be a multiple of 4, but got {in_channels}')
        if num_outs < 4:
            raise ConfigError(f'num_outs must be at least 4, but got {num_outs}')
        self.num_outs = num_outs
        half, quarter = in_channels // 2, in_channels // 4
        self.rescales = nn.ModuleList(
            (
                nn.Sequential(
                    nn.ConvTranspose2d(in_channels, half, kernel_size=2, stride=2),
                    build_norm_layer(norm_cfg, half)[1],
                    nn.GELU(),
                    nn.ConvTranspose2d(half, quarter, kernel_size=2, stride=2),
                ),
                nn.ConvTranspose2d(in_channels, half, kernel_size=2, stride=2),
                nn.Identity(),
                nn.MaxPool2d(kernel_size=2, stride=2),
            )
        )
        conv = dict(norm_cfg=norm_cfg, act_cfg=None)
        self.convs = nn.ModuleList(
            nn.Sequential(
                ConvModule(width, out_channels, 1, **conv),
                ConvModule(out_channels, out_channels, 3, padding=1, **conv),
            )
            for width in (quarter, half, in_channels, in_channels)
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Make the levels.

        Args:
            inputs (Sequence[Tensor]): A backbone's maps; the last one is used, shape (B, C, H, W).

        Returns:
            tuple[Tensor]: ``num_outs`` maps, the largest first.
        """
        x = inputs[-1]
        outs = [conv(rescale(x)) for rescale, conv in zip(self.rescales, self.convs, strict=True)]
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], kernel_size=1, stride=2))
        return tuple(outs)
