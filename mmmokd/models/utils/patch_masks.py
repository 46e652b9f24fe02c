# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Random masks over the patches of a batch of images, as masked image modeling takes them."""

import math

import torch
from torch import Tensor

# Of a block, as in BEiT: the range of its height / width, and how often in a row one may not fit.
MIN_ASPECT = 0.3
MAX_FAILURES = 10


def draw_patch_masks(
    num_images: int,
    grid: tuple[int, int],
    ratio: tuple[float, float] = (0.1, 0.5),
    prob: float = 0.5,
    blocks: bool = True,
) -> Tensor:
    """Draw a mask for each image, those of `iBOT <https://arxiv.org/abs/2111.07832>`_.

    An image is masked with a probability, in a share of its patches that is drawn uniformly. The
    patches are chosen at random or, as in `BEiT <https://arxiv.org/abs/2106.08254>`_, in rectangular
    blocks, which may overlap; blocks may leave a mask smaller than was drawn, where no other fits.
    At least one image of a batch is masked, and each that is has at least one masked patch.

    Numbers are drawn from PyTorch's generator of the CPU. All images are drawn at once.

    Args:
        num_images (int): Number n of images.
        grid (tuple[int, int]): Number (h, w) of patches along the sides.
        ratio (tuple[float, float]): Range of the share of patches. Defaults to (0.1, 0.5).
        prob (float): Probability that an image is masked. Defaults to 0.5.
        blocks (bool): Whether to mask blocks, instead of single patches. Defaults to True.

    Returns:
        Tensor: True for masked patches, shape (n, h * w), on the CPU.

    Example:
        >>> masks = draw_patch_masks(64, (14, 14))
        >>> masks.sum(dim=1)  # 0 of half of the images, 20 to 98 of the others
    """
    num_patches = grid[0] * grid[1]
    chosen = torch.rand(num_images) < prob
    chosen[torch.randint(num_images, ())] |= not chosen.any()
    share = ratio[0] + (ratio[1] - ratio[0]) * torch.rand(num_images)
    counts = (share * num_patches).long().clamp(1, num_patches) * chosen
    # In a random order, the first ones; of blocks, that of an image in which no block would fit.
    order = torch.rand(num_images, num_patches).argsort(dim=1).argsort(dim=1)
    if not blocks:
        return order < counts[:, None]
    masks = _draw_blocks(counts, grid).flatten(1)
    empty = masks.any(dim=1).logical_not() & chosen
    return masks | ((order == 0) & empty[:, None])


def _draw_blocks(counts: Tensor, grid: tuple[int, int]) -> Tensor:
    """Rectangles of at most so many patches in total, (n, h, w)."""
    height, width = grid
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    smallest = (min(grid) // 3) ** 2
    masks = torch.zeros(len(counts), height, width, dtype=torch.bool)
    failures = torch.zeros_like(counts)
    while True:
        left = counts - masks.flatten(1).sum(dim=1)
        active = (left > 0) & (failures < MAX_FAILURES)
        if not active.any():
            return masks
        area, aspect, y, x = torch.rand(4, len(counts))
        area = smallest + (left - smallest) * area
        aspect = (math.log(MIN_ASPECT) * (1 - 2 * aspect)).exp()
        h, w = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
        fits = active & (h < height) & (w < width)
        top, first = (y * (height - h + 1)).long(), (x * (width - w + 1)).long()
        top, first, h, w = (each[:, None, None] for each in (top, first, h, w))
        block = (rows >= top) & (rows < top + h) & (columns >= first) & (columns < first + w)
        added = (block & ~masks).flatten(1).sum(dim=1)
        fits &= (added > 0) & (added <= left)
        masks |= block & fits[:, None, None]
        failures = torch.where(fits, 0, failures + 1)
