# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math

from mmmokd.utils.errors import ConfigError


def infer_grid(
    num_tokens: int, image_size: tuple[int, int], name: str, advice: str
) -> tuple[int, int]:
    """Find the (h, w) with h * w tokens that one stride makes of an image.

    Args:
        num_tokens (int): Tokens of the map, without class and register tokens.
        image_size (tuple[int, int]): The (H, W) of the image, in pixels.
        name (str): Name of the backbone, for the message.
        advice (str): What to do about tokens that form no grid, for the message.

    Returns:
        tuple[int, int]: The map's (h, w).

    Raises:
        ConfigError: If no stride makes that many tokens.
    """
    height, width = image_size
    grids = [(h, num_tokens // h) for h in range(1, num_tokens + 1) if num_tokens % h == 0]
    grids = [(h, w) for h, w in grids if _has_one_stride(h, height, w, width)]
    if not grids:
        raise ConfigError(
            f'the backbone {name} gave {num_tokens} tokens for images of {height}x{width}, which '
            f'form no grid of that shape: {advice}'
        )
    return min(grids, key=lambda grid: abs(math.log(grid[0] * width / (grid[1] * height))))


def _has_one_stride(h: int, height: int, w: int, width: int) -> bool:
    """Check for a stride, in pixels, that makes h and w of the sides, both rounded down or both up."""
    down = max(height / (h + 1), width / (w + 1)) < min(height / h, width / w)
    up = max(height / h, width / w) < min(
        height / (h - 1) if h > 1 else math.inf, width / (w - 1) if w > 1 else math.inf
    )
    return down or up
