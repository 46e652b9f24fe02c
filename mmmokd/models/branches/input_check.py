# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Checks of a branch with images of zeros, before training."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmengine.dist import get_world_size
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmmokd.structures import BackboneFeatures, NetworkOutput
from mmmokd.utils.errors import ConfigError
from mmmokd.utils.state_dict import name_some

from .backbone import FOR_SIZES, PAD_SMALL_MAP, STRICT, describe_backbone
from .inference import in_evaluation, native_size

# Sides that are tested for the message when views of some size cannot pass: near it, in pixels.
STEPS = (14, 16, 32)
NUM_NAMED = 3
CHANNELS = 3  # of every view that mmmokd.MultiCrop makes


class ViewPass(NamedTuple):
    """Views that a student sees in one pass.

    Attributes:
        size (tuple[int, int]): Their (H, W), in pixels.
        num (int): Their number for each image.
    """

    size: tuple[int, int]
    num: int


class LonelyNorm(NamedTuple):
    """A batch norm to which a batch of one image gives one value per channel.

    Attributes:
        name (str): Its name in the network.
        size (tuple[int, int]): (H, W) of the views with which it happens, in pixels.
    """

    name: str
    size: tuple[int, int]


def check_views(
    name: str, network: nn.Module, sizes: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], tuple[int, int]]:
    """Pass an RGB image of zeros of each size through a branch's network, in evaluation mode.

    Weights, buffers, modes and random numbers stay as they are.

    Args:
        name (str): Name of the branch, for messages.
        network (BranchNetwork): The branch's student or teacher.
        sizes (Sequence[tuple[int, int]]): (H, W) of the images, in pixels.

    Returns:
        dict[tuple[int, int], tuple[int, int]]: The map's (h, w) by size.

    Raises:
        ConfigError: If the network cannot take images of a size, or its parts do not fit each
            other; the message names branch, backbone, size and, if one helps, the argument.
    """
    sizes = list(dict.fromkeys(sizes))
    grids = {}
    with in_evaluation(network):
        for size in sizes:
            try:
                features = _extract(network, size)
            except Exception as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                others = [other for other in sizes if other != size]
                raise ConfigError(_explain(name, network, size, others, error)) from error
            try:
                _project(network, features)
            except (RuntimeError, ValueError, AssertionError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                raise ConfigError(
                    f'branch {name}: its necks cannot take what '
                    f'{describe_backbone(network.backbone_cfg)} gives of images of '
                    f'{_by(size)}: {_one_line(error)}'
                ) from error
            grids[size] = features.grid
    return grids


def find_unread_parameters(network: nn.Module, size: tuple[int, int]) -> list[str]:
    """Parameters of a backbone that would train, but that no gradient reaches.

    One image of zeros passes forward and backward, in evaluation mode; nothing is changed.

    Args:
        network (BranchNetwork): A branch's student.
        size (tuple[int, int]): (H, W) of the image, in pixels.

    Returns:
        list[str]: Names of the parameters; none if the backbone has no backward pass in evaluation
        mode, as a recurrent one on a GPU.
    """
    params = {n: p for n, p in network.backbone.named_parameters() if p.requires_grad}
    if not params:
        return []
    with in_evaluation(network), torch.enable_grad():
        features = _extract(network, size)
        read = features.pooled.sum() + features.tokens.sum()
        try:
            grads = torch.autograd.grad(read, list(params.values()), allow_unused=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return []
    return [name for name, grad in zip(params, grads, strict=True) if grad is None]


def check_gradients(name: str, network: nn.Module, size: tuple[int, int]) -> None:
    """Refuse a backbone of which a part gets no gradient, on which several processes would wait.

    Args:
        name (str): Name of the branch, for the message.
        network (BranchNetwork): The branch's student.
        size (tuple[int, int]): (H, W) of the global views, in pixels.

    Raises:
        ConfigError: If no gradient reaches a parameter.
    """
    unread = find_unread_parameters(network, size)
    if unread:
        raise ConfigError(
            f'branch {name}: no gradient reaches {len(unread)} parameters of the backbone '
            f'{describe_backbone(network.backbone_cfg)} ({name_some(unread)}), for which several '
            'processes would wait. Set find_unused_parameters=True in the config, or an adapter of '
            'the branch that reads what they give'
        )


def find_lonely_norms(
    network: nn.Module, groups: Sequence[ViewPass], num_global_views: int
) -> list[LonelyNorm]:
    """Batch norms that a batch of one image leaves with one value per channel, which they refuse.

    Args:
        network (BranchNetwork): A branch's student, in training mode.
        groups (Sequence[ViewPass]): What passes through it at once, the global views first.
        num_global_views (int): How many views the teacher, a network of the same kind, sees at once.

    Returns:
        list[LonelyNorm]: The norms, in the order in which they are met.
    """
    world_size = get_world_size()
    names = {
        module: name
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm)
        and module.training
        and not (world_size > 1 and isinstance(module, nn.SyncBatchNorm))
    }
    pooled = tuple(
        f'{name}.'
        for name in network.neck_names
        if not getattr(getattr(network, name), 'reads_maps', False)
    )
    values: dict[nn.Module, int] = {}  # of one view, per channel

    def count(norm: nn.Module, args: tuple) -> None:
        values[norm] = args[0].numel() // args[0].shape[1]

    handles = [norm.register_forward_pre_hook(count) for norm in names]
    passes = [ViewPass(groups[0].size, num_global_views), *groups]  # the teacher's, the student's
    total = sum(group.num for group in groups)
    found: dict[str, LonelyNorm] = {}
    try:
        with in_evaluation(network):
            for i, group in enumerate(passes if names else ()):
                values.clear()
                _project(network, _extract(network, group.size))
                for norm, number in values.items():
                    # A neck of the pooled features sees the views of all passes at once.
                    num = total if i and names[norm].startswith(pooled) else group.num
                    if number * num == 1:
                        found.setdefault(names[norm], LonelyNorm(names[norm], group.size))
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())


def _extract(network: nn.Module, size: tuple[int, int]) -> BackboneFeatures:
    weight = next(network.parameters())
    return network.extract(weight.new_zeros(1, CHANNELS, *size))


def _project(network: nn.Module, features: BackboneFeatures) -> None:
    """Run every neck, and what others search in it."""
    output = NetworkOutput(network, [features], batch=1)
    for name in network.neck_names:
        neck = output.neck(name)
        if getattr(neck, 'embeds_maps', False):
            neck(output.embedded(name)[0], neck(features.pooled, mode='query'))
        else:
            output[name]


def _explain(
    name: str,
    network: nn.Module,
    size: tuple[int, int],
    others: list[tuple[int, int]],
    error: Exception,
) -> str:
    """Why images of a size do not pass, and what to do about it."""
    cfg = network.backbone_cfg
    if isinstance(error, ValueError) and 'backbone' in str(error):
        return f'branch {name}: {_one_line(error)}'
    message = (
        f'branch {name}: the backbone {describe_backbone(cfg)} cannot take images of '
        f'{_by(size)}: {_one_line(error)}.'
    )
    wanted = dict(FOR_SIZES, **{STRICT: False, PAD_SMALL_MAP: True})
    off = [f'{k}={v}' for k, v in wanted.items() if k in cfg and bool(cfg[k]) != v]
    if off:
        return f'{message} Set {" and ".join(off)} in model.branches.{name}.backbone'
    near = _nearest_sizes(network, size, others)
    known = f'it takes {", ".join(map(_by, near))}' if near else 'no size near it was found to pass'
    return (
        f'{message} Of the sizes tested, {known}. Give views of sizes that it takes (`size` in the '
        f'groups of mmmokd.MultiCrop), or model.branches.{name}.backbone another img_size or type'
    )


def _nearest_sizes(
    network: nn.Module, size: tuple[int, int], others: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Sizes that do pass: of the other views', of the config's and of round ones near a size."""
    side = max(size)
    rounded = {step * (side // step + more) for step in STEPS for more in (0, 1)}
    sizes = {(r, r) for r in rounded if r} | set(others)
    given = network.backbone_cfg.get('img_size', 224)
    sizes |= {native_size(network.backbone)} | (
        {(given, given)} if isinstance(given, int) else set()
    )
    passed = []
    for candidate in sorted(sizes - {size}, key=lambda found: abs(max(found) - side)):
        try:
            _extract(network, candidate)
        except Exception:  # whatever it is, this size is none to be named
            continue
        passed.append(candidate)
    return passed[:NUM_NAMED]


def _by(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'


def _one_line(error: Exception) -> str:
    text = ' '.join(str(error).split()).rstrip('.')
    return text or f'{type(error).__name__} in its own code'
