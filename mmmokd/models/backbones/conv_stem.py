# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmmokd.registry import MODELS
from mmmokd.utils.errors import ConfigError


@MODELS.register_module()
class ConvStem(BaseModule):
    """A ViT's patch projection as a stack of small convolutions.

    From `Early Convolutions Help Transformers See Better <https://arxiv.org/abs/2106.14881>`_:
    3x3 convolutions of stride 2, each with BN and ReLU, whose widths double up to the embedding's,
    and a 1x1 convolution. A ViT that is small or trained only briefly learns faster with it, for
    it need not find out what neighboring pixels have to do with each other.

    It takes the arguments of a convolution, so that mmpretrain's patch embedding builds it:
    ``patch_size=8, patch_cfg=dict(conv_type='mmmokd.ConvStem')``.

    Args:
        in_channels (int): Channels of the images.
        out_channels (int): Width C of the tokens, a multiple of ``stride / 2``.
        kernel_size (int | tuple[int, int]): Side of a patch, in pixels; the same as ``stride``.
        stride (int | tuple[int, int]): Pixels from one token to the next: 2, 4, 8, 16 or 32.
        padding (int | tuple[int, int]): 0; the patch embedding pads images to whole patches.
            Defaults to 0.
        dilation (int | tuple[int, int]): 1. Defaults to 1.
        bias (bool): Whether the 1x1 convolution has a bias. Defaults to True.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: If an argument has another value than these.

    Example:
        >>> ConvStem(3, 96, kernel_size=8, stride=8)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 96, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int],
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        kernel_size, stride, padding, dilation = (
            (value, value) if isinstance(value, int) else tuple(value)
            for value in (kernel_size, stride, padding, dilation)
        )
        side = stride[0]
        num_layers = side.bit_length() - 1
        if side not in (2, 4, 8, 16, 32) or stride != (side, side) or kernel_size != stride:
            raise ConfigError(
                f'ConvStem cuts square patches of 2, 4, 8, 16 or 32 pixels that do not overlap, '
                f'but got kernel_size={kernel_size}, stride={stride}'
            )
        if padding != (0, 0) or dilation != (1, 1):
            raise ConfigError(
                f'ConvStem takes padding 0 and dilation 1, but got {padding} and {dilation}'
            )
        if out_channels % (side // 2):
            raise ConfigError(
                f'ConvStem of stride {side} needs a width that is a multiple of {side // 2}, but '
                f'got out_channels={out_channels}'
            )
        widths = [in_channels, *(out_channels >> i for i in reversed(range(num_layers)))]
        layers: list[nn.Module] = []
        for width_in, width_out in zip(widths[:-1], widths[1:], strict=True):
            layers += [
                nn.Conv2d(width_in, width_out, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width_out),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(out_channels, out_channels, 1, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        """Embed patches.

        Args:
            x (Tensor): Images, shape (B, 3, H, W), sides a multiple of the stride.

        Returns:
            Tensor: Shape (B, C, H / stride, W / stride).
        """
        return self.layers(x)
