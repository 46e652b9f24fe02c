# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmmokd.models.branches.adapters import count_extra_tokens, inner_model

# Where transformers keep their blocks, and the norm that ends them: mmpretrain's ViT, DeiT and BEiT
# first, then timm's and some further ones of mmpretrain. timm's models that were made to pool by the
# mean keep an identity as `norm` and norm what they give by `fc_norm`.
BLOCKS = ('layers', 'blocks')
FINAL_NORMS = ('ln1', 'norm', 'fc_norm')
# Of the feature's largest value. Two ways to one number differ by rounding, a class token and
# another token or their mean by much more.
TOLERANCE = 0.02


class BlockTokens:
    """Class tokens of a backbone's last blocks, recorded during its forward pass.

    Args:
        norm (nn.Module): The norm after the last block.
        num_blocks (int): Number of blocks that are watched.
    """

    def __init__(self, norm: nn.Module, num_blocks: int) -> None:
        self.norm = norm
        self.num_blocks = num_blocks
        self._found: list[Tensor] = []

    def _keep(self, module: nn.Module, args: tuple, output) -> None:
        if isinstance(output, Tensor) and output.dim() == 3:
            self._found.append(output[:, 0])

    def take(self, pooled: Tensor) -> Tensor:
        """The tokens of the forward pass that has just ended, which are then forgotten.

        Args:
            pooled (Tensor): The backbone's pooled feature of that pass, shape (B, C).

        Returns:
            Tensor: Shape (B, b, C), b of the last blocks, the last one last: each block's first
            token after the final norm, of the last block ``pooled`` itself. b is 1, and ``pooled``
            all there is, if the last block's first token is not the pooled feature: the backbone
            pools another way, or has its class token elsewhere.
        """
        found, self._found = self._found, []
        if found and len(found) == self.num_blocks and found[-1].shape == pooled.shape:
            tokens = [self.norm(token).to(pooled) for token in found]
            # Not <=: features that are not finite keep their shape, and are reported as such later.
            if not (tokens[-1] - pooled).abs().max() > TOLERANCE * pooled.abs().max():
                return torch.stack([*tokens[:-1], pooled], dim=1)
        return pooled[:, None]


@contextmanager
def watch_block_tokens(backbone: nn.Module, last_blocks: int) -> Iterator[BlockTokens]:
    """Keep the class tokens of a backbone's last blocks, in every forward pass meanwhile.

    As in `DINO <https://arxiv.org/abs/2104.14294>`_, whose linear classifier reads a ViT's class
    token after each of the last four blocks, all through the final LayerNorm. Nothing is computed
    again: the blocks are watched (forward hooks) in the pass that gives the pooled feature.

    Args:
        backbone (nn.Module): Any backbone, for example a ViT of mmpretrain or timm. One without a
            class token or a list of blocks gives its pooled feature only.
        last_blocks (int): How many blocks to watch, all if there are fewer.

    Yields:
        BlockTokens: To be asked, by ``take``, after each forward pass.
    """
    _, has_class_token = count_extra_tokens(backbone)
    backbone = inner_model(backbone)
    lists = (getattr(backbone, name, None) for name in BLOCKS)
    blocks = next((x for x in lists if isinstance(x, nn.ModuleList | nn.Sequential)), ())
    norms = (getattr(backbone, name, None) for name in FINAL_NORMS)
    norm = next((n for n in norms if not isinstance(n, nn.Identity | None)), nn.Identity())
    watched = list(blocks)[-last_blocks:] if has_class_token else []
    record = BlockTokens(norm, len(watched))
    handles = [block.register_forward_hook(record._keep) for block in watched]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()
