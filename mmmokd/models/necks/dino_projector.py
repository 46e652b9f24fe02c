# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmmokd.registry import MODELS
from mmmokd.utils.errors import ConfigError

from ..utils import build_prototype_layer, check_counts, trunc_normal_linears_


@MODELS.register_module()
class DINOProjector(BaseModule):
    """The projection head of `DINO <https://arxiv.org/abs/2104.14294>`_.

    Linear-GELU-Linear-GELU-Linear to a bottleneck, L2 normalization, and a weight-normalized linear
    layer onto the prototypes. With ``norm_cfg`` the hidden layers are Linear-norm-GELU.

    Args:
        in_channels (int): Channels C of the pooled feature.
        out_channels (int): Number K of prototypes.
        hid_channels (int): Width of the hidden layers. Defaults to 2048.
        bottleneck_channels (int): Width of the normalized bottleneck. Defaults to 256.
        num_layers (int): Linear layers before the prototypes, at least 1. Defaults to 3.
        train_gain (bool): Whether the prototypes' gain is trained. MOKD freezes it at 1 in the
            CNN's projector. Defaults to True.
        norm_cfg (dict, optional): Normalization between a hidden layer and its GELU.
            ``dict(type='BN1d')`` takes away the direction that all features share, which helps
            where a run is too short to unlearn it; a batch then needs at least two images.
            Defaults to None, no normalization, as in MOKD.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: If a number of channels or layers is not a whole number of at least 1.

    Example:
        >>> projector = DINOProjector(in_channels=512, out_channels=1024)
        >>> projector(torch.rand(4, 512)).shape
        torch.Size([4, 1024])
    """

    # Read by NetworkOutput: the module has a `last_layer` of prototypes, and the modes of its steps.
    gives_prototypes = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hid_channels: int = 2048,
        bottleneck_channels: int = 256,
        num_layers: int = 3,
        train_gain: bool = True,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_counts(
            'DINOProjector',
            in_channels=in_channels,
            out_channels=out_channels,
            hid_channels=hid_channels,
            bottleneck_channels=bottleneck_channels,
            num_layers=num_layers,
        )
        self.in_channels = in_channels
        self.out_channels = out_channels
        widths = [in_channels] + [hid_channels] * (num_layers - 1) + [bottleneck_channels]
        layers: list[nn.Module] = []
        for width_in, width_out in zip(widths[:-2], widths[1:-1], strict=True):
            layers.append(nn.Linear(width_in, width_out))
            if norm_cfg is not None:
                layers.append(build_norm_layer(norm_cfg, width_out)[1])
            layers.append(nn.GELU())
        self.mlp = nn.Sequential(*layers, nn.Linear(*widths[-2:]))
        self.last_layer = build_prototype_layer(bottleneck_channels, out_channels, train_gain)

    def init_weights(self) -> None:
        if not self.is_init:
            trunc_normal_linears_(self.mlp)
        super().init_weights()

    def forward(self, x: Tensor | tuple[Tensor, ...], mode: str = 'logits') -> Tensor:
        """Project pooled features onto the prototypes.

        Args:
            x (Tensor | tuple[Tensor]): Shape (B, C), or a tuple of which the last is that, as
                backbones of mmpretrain give it; for ``'prototypes'`` what ``'features'`` gave.
            mode (str): ``'logits'``, or one of its two steps: ``'features'`` (the bottleneck) and
                ``'prototypes'``. Defaults to ``'logits'``.

        Returns:
            Tensor: Logits, shape (B, K), or the bottleneck's features, (B, D).

        Raises:
            ConfigError: For another mode.
        """
        if mode not in ('logits', 'features', 'prototypes'):
            raise ConfigError(
                f"mode must be 'logits', 'features' or 'prototypes', but got {mode!r}"
            )
        if isinstance(x, list | tuple):
            x = x[-1]
        if mode != 'prototypes':
            x = F.normalize(self.mlp(x), dim=-1)
        return x if mode == 'features' else self.last_layer(x)
