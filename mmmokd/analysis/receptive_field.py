# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Effective receptive field: the pixels that the center of a feature map depends on."""

from collections.abc import Callable

import torch
from torch import Tensor

from mmmokd.utils.errors import ConfigError

TWO_SIGMA = 1 - 0.9545  # of the peak, from which Luo et al. count a pixel


def effective_receptive_field(
    to_map: Callable[[Tensor], Tensor],
    images: Tensor,
    num_directions: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Effective receptive field of the center of a feature map.

    The absolute gradient of the map's center with respect to the images, averaged over images and
    their channels (`Understanding the Effective Receptive Field <https://arxiv.org/abs/1701.04128>`_,
    Luo et al., section 2). The center has C channels. Their sum would be of no use: after a final
    LayerNorm it is nearly constant. So the gradient is that of the center's component in random
    directions, Gaussian and another for each image; its expected size is proportional to the
    norm of the Jacobian's column, by how much the pixel moves the whole feature.

    Args:
        to_map (Callable): Gives the map (B, C, h, w) of images; each image's own, as a network in
            evaluation mode does.
        images (Tensor): Shape (B, 3, H, W), as the network takes them.
        num_directions (int): Random directions for each image, each a backward pass. With many
            images one is enough. Defaults to 1.
        generator (torch.Generator, optional): Of the directions, on the CPU. Defaults to None,
            PyTorch's default.

    Returns:
        Tensor: Shape (H, W), float64, on the CPU, at least 0; only ratios have a meaning. The
        center of a map of an even size is the place after the middle, (h // 2, w // 2).

    Raises:
        ConfigError: If ``to_map`` gives no map, or one that does not depend on the images.
    """
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        found = to_map(images)
        if found.ndim != 4 or len(found) != len(images):
            raise ConfigError(
                f'a receptive field is that of a map (B, C, h, w) with B={len(images)}, but got '
                f'{tuple(found.shape)}'
            )
        if not found.requires_grad:
            raise ConfigError('the map does not depend on the images by a gradient')
        center = found[:, :, found.shape[2] // 2, found.shape[3] // 2]  # (B, C)
    field = torch.zeros(images.shape[2:], dtype=torch.float64)
    for number in range(num_directions):
        directions = torch.randn(center.shape, generator=generator, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(
            center, images, directions.to(center), retain_graph=number + 1 < num_directions
        )
        field += gradient.abs().mean(dim=(0, 1)).double().cpu() / num_directions
    return field


def receptive_area(field: Tensor, fraction: float = TWO_SIGMA) -> float:
    """Share of an image's pixels that are in an effective receptive field.

    Args:
        field (Tensor): From :func:`effective_receptive_field`, or a mean of several, shape (H, W).
        fraction (float): The least value of a pixel that is in it, as a fraction of the largest.
            Defaults to 0.0455, with which a Gaussian is cut off at about two and a half standard
            deviations; Luo et al. count the pixels above it.

    Returns:
        float: From 0 to 1.

    Raises:
        ConfigError: If the field is nowhere positive, or not finite.
    """
    field = _check_field(field)
    return (field >= fraction * field.max()).double().mean().item()


def receptive_radius(field: Tensor, share: float) -> float:
    """Radius of the disk that contains a share of an effective receptive field's mass.

    The disk lies around the center of mass: strided convolutions shift the field of a place from
    where the place is in the image.

    Args:
        field (Tensor): From :func:`effective_receptive_field`, or a mean of several, shape (H, W).
        share (float): Share of the mass, over 0 and at most 1.

    Returns:
        float: In pixels, the least distance of a pixel's center with which the disk is complete.

    Raises:
        ConfigError: If the field is nowhere positive, or not finite, or the share out of range.
    """
    if not 0 < share <= 1:
        raise ConfigError(f'share must be over 0 and at most 1, but got {share}')
    field = _check_field(field)
    field = field / field.sum()
    rows, columns = (torch.arange(size, dtype=torch.float64) for size in field.shape)
    row, column = (field.sum(dim=1) * rows).sum(), (field.sum(dim=0) * columns).sum()
    distances = torch.hypot((rows - row)[:, None], columns - column).flatten()
    distances, order = distances.sort()
    mass = field.flatten()[order].cumsum(dim=0)
    # Rounding may leave the whole mass a little below 1.
    first = torch.searchsorted(mass, share * (1 - 1e-12)).clamp(max=len(mass) - 1)
    return distances[first].item()


def _check_field(field: Tensor) -> Tensor:
    field = field.double().cpu()
    if field.ndim != 2 or not torch.isfinite(field).all() or not field.max() > 0:
        raise ConfigError(
            'a receptive field has shape (H, W) and finite values, some of them positive, but got '
            f'{tuple(field.shape)} with a largest value of {field.max().item():g}'
        )
    return field
