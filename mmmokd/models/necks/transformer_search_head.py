# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import Tensor, nn

from mmmokd.registry import MODELS
from mmmokd.structures import BackboneFeatures
from mmmokd.utils.errors import ConfigError
from mmmokd.utils.pos_embed import resize_pos_embed_2d

from ..utils import (
    build_prototype_layer,
    check_counts,
    check_number,
    trunc_normal_linears_,
)


class SearchBlock(TransformerEncoderLayer):
    """A block of a ViT, which can take a query in front of each map.

    Args:
        See mmpretrain's ``TransformerEncoderLayer``; without dropout of the attention.
    """

    def forward(self, tokens: Tensor, query: Tensor | None = None) -> Tensor:
        """Pass maps through the block, with queries once for each; what is equal for all once.

        Queries, keys and values of a map's tokens, and the attention among them, do not depend on
        the query in front of them. With that one more key, of score s, attention over the map's, of
        log-sum-exp z, becomes a mean of two values with the weight sigmoid(s - z).

        Args:
            tokens (Tensor): Maps, shape (B, N, D).
            query (Tensor, optional): Shape (Q * B, D), the maps' order repeated Q times. Defaults to
                None.

        Returns:
            Tensor: Shape (B, N, D); with queries what the maps with a query in front would give,
            shape (Q * B, N + 1, D).
        """
        if query is None:
            return super().forward(tokens)
        attn = self.attn
        attended = self._attend(tokens, query)
        x = _with_queries(tokens, query)
        x = x + attn.out_drop(attn.gamma1(attn.proj_drop(attn.proj(attended))))
        return self.ffn(self.ln2(x), identity=x)

    def _attend(self, tokens: Tensor, query: Tensor) -> Tensor:
        batch, num, width = tokens.shape
        attn = self.attn
        queries = query.view(-1, batch, width).transpose(0, 1)  # (B, Q, D)
        rows = torch.cat((tokens, queries), dim=1)
        qkv = attn.qkv(self.ln1(rows)).unflatten(2, (3, attn.num_heads, attn.head_dims))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, N + Q, d)
        q = q * attn.head_dims**-0.5
        own_k, own_v = k[:, :, num:], v[:, :, num:]
        scores = q @ k[:, :, :num].transpose(2, 3)  # (B, H, N + Q, N)
        log_sums = scores.logsumexp(dim=-1, keepdim=True)
        shared = scores.softmax(dim=-1).to(v.dtype) @ v[:, :, :num]  # (B, H, N + Q, d)
        own_scores = q[:, :, :num] @ own_k.transpose(
            2, 3
        )  # of each token with each query, (B, H, N, Q)
        weight = (own_scores - log_sums[:, :, :num]).sigmoid().to(v.dtype).unsqueeze(-1)
        of_map = torch.lerp(shared[:, :, :num].unsqueeze(3), own_v.unsqueeze(2), weight)
        own_scores = (q[:, :, num:] * own_k).sum(dim=-1, keepdim=True)  # of each query with itself
        weight = (own_scores - log_sums[:, :, num:]).sigmoid().to(v.dtype)
        of_query = torch.lerp(shared[:, :, num:], own_v, weight)
        attended = torch.cat((of_query.unsqueeze(2), of_map), dim=2)  # (B, H, N + 1, Q, d)
        return attended.permute(3, 0, 2, 1, 4).reshape(-1, num + 1, width)


@MODELS.register_module()
class TransformerSearchHead(BaseModule):
    """The transformer search head ("T-Head") of `MOKD <https://arxiv.org/abs/2304.06461>`_.

    It reads a backbone's map as tokens. Without a query it describes the map; with a query, another
    model's feature, it searches the map for what matches the query: the query token stands in front
    of the map's tokens, passes the blocks with them, and is dropped before the mean.

    Three steps, so that a map is embedded once however many queries search it: ``'embed'`` the
    tokens, ``'features'`` of them (with a query or without), ``'prototypes'`` of the result. The
    module is called for each, with a mode, so that wrappers of it (FSDP, ``torch.compile``,
    activation checkpointing) see every pass.

    Args:
        in_channels (int): Channels C of the backbone's tokens.
        embed_dims (int): Search width D. Branches that search each other share it.
        out_channels (int): Number K of prototypes.
        grid_size (int | tuple[int, int]): The (h, w) that the position embedding is made for; it is
            resized for others. MOKD uses 7 for a ResNet, 14 for a ViT/16.
        projection (bool, optional): Whether tokens and query pass a 1x1 convolution C -> D first, as
            a CNN's do. Without, C must be D. Defaults to None: where C is not D.
        num_layers (int): Transformer blocks. Defaults to 3.
        num_heads (int): Attention heads. Defaults to 6.
        mlp_ratio (float): Hidden width of the blocks' MLPs over D. Defaults to 4.
        pos_embed_scale_offset (float, optional): See :func:`resize_pos_embed_2d`.
            Defaults to 0.1, as in the official code.
        norm_cfg (dict): Normalization layers. Defaults to ``dict(type='LN', eps=1e-6)``.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: If a number is none, or too small, D is not a multiple of the heads, or
            ``projection`` is off and C is not D.

    Example:
        >>> head = TransformerSearchHead(512, 192, 1024, grid_size=7)
        >>> features = BackboneFeatures(torch.rand(2, 512), torch.rand(2, 49, 512), (7, 7))
        >>> tokens = head([features], mode='embed')
        >>> query = head(torch.rand(2, 512), mode='query')
        >>> head(tokens).shape, head(tokens, query).shape
        (torch.Size([2, 1024]), torch.Size([2, 1024]))
    """

    # Read by NetworkOutput: what the module is called with.
    reads_maps = True
    embeds_maps = True
    gives_prototypes = True

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        out_channels: int,
        grid_size: int | tuple[int, int],
        projection: bool | None = None,
        num_layers: int = 3,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        pos_embed_scale_offset: float | None = 0.1,
        norm_cfg: dict = dict(type='LN', eps=1e-6),  # noqa: B006
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_counts(
            'the search head',
            in_channels=in_channels,
            embed_dims=embed_dims,
            out_channels=out_channels,
            num_heads=num_heads,
        )
        check_counts('the search head', least=0, num_layers=num_layers)
        check_number('the search head', 'mlp_ratio', mlp_ratio)
        self.grid_size = _as_grid(grid_size)
        if embed_dims % num_heads:
            raise ConfigError(
                f'embed_dims={embed_dims} of the search head is not a multiple of '
                f'num_heads={num_heads}'
            )
        if projection is None:
            projection = in_channels != embed_dims
        if not projection and in_channels != embed_dims:
            raise ConfigError(
                f'a search head without projection needs in_channels == embed_dims, but got '
                f'{in_channels} and {embed_dims}; set projection=True'
            )
        self.in_channels = in_channels
        self.embed_dims = embed_dims
        self.out_channels = out_channels
        self.pos_embed_scale_offset = pos_embed_scale_offset

        # On tokens a 1x1 convolution is a linear layer; both start from the same distribution.
        self.projection = nn.Linear(in_channels, embed_dims) if projection else nn.Identity()
        self.pos_embed = nn.Parameter(
            torch.zeros(1, self.grid_size[0] * self.grid_size[1], embed_dims)
        )
        self.blocks = nn.ModuleList(
            SearchBlock(
                embed_dims,
                num_heads,
                feedforward_channels=int(embed_dims * mlp_ratio),
                norm_cfg=norm_cfg,
            )
            for _ in range(num_layers)
        )
        self.norm = build_norm_layer(norm_cfg, embed_dims)[1]
        self.last_layer = build_prototype_layer(embed_dims, out_channels)

    def init_weights(self) -> None:
        if not self.is_init:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
            trunc_normal_linears_(self.blocks.modules())
        super().init_weights()

    def embed(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Bring a backbone's tokens to the search width and add the position embedding.

        Args:
            tokens (Tensor): Shape (B, N, C).
            grid (tuple[int, int]): The tokens' (h, w), N = h * w.

        Returns:
            Tensor: Shape (B, N, D).
        """
        pos_embed = resize_pos_embed_2d(
            self.pos_embed, self.grid_size, grid, self.pos_embed_scale_offset
        )
        return self.projection(tokens) + pos_embed

    def query(self, pooled: Tensor) -> Tensor:
        """The query that this branch feeds to the search heads of others.

        The projection of the pooled feature: for a map, pooling and the 1x1 convolution commute;
        without a projection the class token itself.

        Args:
            pooled (Tensor): Shape (B, C).

        Returns:
            Tensor: Shape (B, D).
        """
        return self.projection(pooled)

    def encode(self, tokens: Tensor, query: Tensor | None = None) -> Tensor:
        """Let the tokens, and the query with them, attend to each other.

        Args:
            tokens (Tensor): Embedded tokens, shape (B, N, D).
            query (Tensor, optional): Shape (Q * B, D), Q queries a map, the maps' order repeated Q
                times. Defaults to None, no query.

        Returns:
            Tensor: Mean of the map's tokens, shape (B, D), with queries (Q * B, D).
        """
        if query is not None:
            num_queries, rest = divmod(query.shape[0], tokens.shape[0])
            if rest or query.shape[-1] != tokens.shape[-1]:
                raise ConfigError(
                    f'queries of shape {tuple(query.shape)} cannot search {tokens.shape[0]} maps '
                    f'of width {tokens.shape[-1]}: their number must be a multiple of the maps, '
                    'their width the same'
                )
        blocks = list(self.blocks)
        if query is not None:
            query = query.to(tokens.dtype)
            if blocks:
                tokens = blocks.pop(0)(tokens, query)
            else:
                tokens = _with_queries(tokens, query)
        for block in blocks:
            tokens = block(tokens)
        if query is not None:
            tokens = tokens[:, 1:]
        return self.norm(tokens).mean(dim=1)

    def forward(
        self,
        inputs: Tensor | Sequence[Tensor] | Sequence[BackboneFeatures],
        query: Tensor | None = None,
        mode: str = 'logits',
    ) -> Tensor | list[Tensor]:
        """Run one of the steps, or all.

        Args:
            inputs (Tensor | Sequence[Tensor] | Sequence[BackboneFeatures]): For ``'logits'`` and
                ``'features'`` embedded tokens of shape (B, N, D), of one pass or of several, or
                passes' features; for ``'embed'`` passes' features; for ``'query'`` pooled features,
                shape (B, C); for ``'prototypes'`` what ``'features'`` gave, shape (B, D).
            query (Tensor, optional): For ``'logits'`` and ``'features'`` of one pass, shape
                (Q * B, D). Defaults to None.
            mode (str): ``'logits'``, one of its steps ``'embed'``, ``'features'`` and
                ``'prototypes'``, or ``'query'``. Defaults to ``'logits'``.

        Returns:
            Tensor | list[Tensor]: Logits of all passes, shape (B, K), with queries (Q * B, K);
            embedded tokens of each pass, shape (B, N, D); features of all passes, (B, D), with
            queries (Q * B, D); or queries, shape (B, D).

        Raises:
            ConfigError: For another mode.
        """
        if mode == 'query':
            return self.query(inputs)
        if mode == 'prototypes':
            return self.last_layer(inputs)
        if mode not in ('embed', 'features', 'logits'):
            raise ConfigError(
                "mode must be 'logits', 'embed', 'features', 'prototypes' or 'query', but got "
                f'{mode!r}'
            )
        maps = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        maps = [
            each if isinstance(each, Tensor) else self.embed(each.tokens, each.grid)
            for each in maps
        ]
        if mode == 'embed':
            return maps
        encoded = [self.encode(tokens, query) for tokens in maps]
        features = torch.cat(encoded) if len(encoded) > 1 else encoded[0]
        return features if mode == 'features' else self.last_layer(features)


def _with_queries(tokens: Tensor, query: Tensor) -> Tensor:
    """Maps, (B, N, D), with a query in front, (Q * B, N + 1, D)."""
    tokens = tokens.repeat(len(query) // len(tokens), 1, 1)
    return torch.cat((query.unsqueeze(1), tokens), dim=1)


def _as_grid(grid_size: int | tuple[int, int]) -> tuple[int, int]:
    """A grid's (h, w), of one number for both or of the two."""
    sides = tuple(grid_size) if isinstance(grid_size, list | tuple) else (grid_size, grid_size)
    if len(sides) != 2:
        raise ConfigError(
            f'grid_size of the search head must be one number or (h, w), but got {grid_size!r}'
        )
    for side in sides:
        check_counts('the search head', grid_size=side)
    return sides
