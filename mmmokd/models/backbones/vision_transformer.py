# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch
from mmpretrain.models.backbones import VisionTransformer as _VisionTransformer
from torch import Tensor, nn

from mmmokd.registry import MODELS
from mmmokd.utils.errors import ConfigError
from mmmokd.utils.pos_embed import resize_pos_embed_2d

from ..utils import trunc_normal_linears_


@MODELS.register_module()
class VisionTransformer(_VisionTransformer):
    """mmpretrain's ViT with DINO's initialization and its way of resizing position embeddings.

    The parameters have mmpretrain's names and shapes, so weights pass between the two. What
    differs: linears and the class token start truncated-normal (0.02) with zero biases, the
    position embedding is resized in its own precision and, on request, with DINO's scale factors,
    and the output is ``'raw'`` by default, the class token followed by the patch tokens, which
    is what a MOKD branch reads.

    Args:
        pos_embed_scale_offset (float, optional): Added to the wanted grid when the scale factor is
            computed: ``(n + offset) / m``. 0.1 is what DINO and the official MOKD do, None
            resizes to the exact size. Defaults to 0.1.
        norm_outputs (bool): Whether every output passes the final LayerNorm, as in DINO's linear
            evaluation of the last four layers; otherwise that of the last layer alone does.
            Defaults to False.
        out_type (str): As mmpretrain's. Defaults to ``'raw'``.
        **kwargs: As mmpretrain's ``VisionTransformer``; ``arch`` is ``'deit-tiny'``,
            ``'deit-small'``, ``'deit-base'`` for ViT-Tiny, -Small, -Base.

    Raises:
        ConfigError: If ``norm_outputs`` is set and ``final_norm`` is not.
    """

    def __init__(
        self,
        *args,
        pos_embed_scale_offset: float | None = 0.1,
        norm_outputs: bool = False,
        out_type: str = 'raw',
        **kwargs,
    ) -> None:
        super().__init__(*args, out_type=out_type, **kwargs)
        if norm_outputs and not self.final_norm:
            raise ConfigError('norm_outputs=True needs the final LayerNorm: final_norm=True')
        self.pos_embed_scale_offset = pos_embed_scale_offset
        self.norm_outputs = norm_outputs

    def init_weights(self) -> None:
        if self.is_init:
            return
        super().init_weights()
        if isinstance(self.init_cfg, dict) and self.init_cfg.get('type') == 'Pretrained':
            return
        trunc_normal_linears_(self.modules())
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    def train(self, mode: bool = True) -> 'VisionTransformer':
        """Set the mode; what ``frozen_stages`` freezes stays in evaluation mode.

        Args:
            mode (bool): Whether to train. Defaults to True.

        Returns:
            VisionTransformer: Itself, which mmpretrain's own does not give.
        """
        super().train(mode)
        if self.frozen_stages > 0:
            self._freeze_stages()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs of the layers named by ``out_indices``.

        Args:
            x (Tensor): Images, shape (B, 3, H, W).

        Returns:
            tuple[Tensor]: One per index, formatted as ``out_type`` says: for ``'raw'``
            (B, num_extra_tokens + N, C).
        """
        x, grid = self.patch_embed(x)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = x + resize_pos_embed_2d(
            self.pos_embed,
            self.patch_resolution,
            grid,
            self.pos_embed_scale_offset,
            self.num_extra_tokens,
        )
        x = self.pre_norm(self.drop_after_pos(x))
        outs = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i == len(self.layers) - 1 and self.final_norm:
                x = self.ln1(x)
            if i in self.out_indices:
                normed = self.norm_outputs and i < len(self.layers) - 1
                outs.append(self._format_output(self.ln1(x) if normed else x, grid))
        return tuple(outs)
