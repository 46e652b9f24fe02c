# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from abc import ABCMeta, abstractmethod
from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmmokd.structures import BackboneFeatures
from mmmokd.utils.errors import ConfigError

KINDS = {4: 'a map of 4 dimensions', 3: 'tokens (B, N, C)', 2: 'a pooled feature (B, C)'}


class BackboneAdapter(BaseModule, metaclass=ABCMeta):
    """Read pooled feature, tokens and grid from a backbone's output.

    A subclass implements :meth:`read` and is registered in ``MODELS``; a branch takes it as
    ``adapter=dict(type=...)``. What ``read`` returns is checked in every pass.

    Args:
        init_cfg (dict, optional): Initialization config, for an adapter with parameters. Defaults
            to None.
    """

    @abstractmethod
    def read(
        self, output: Any, backbone: nn.Module, image_size: tuple[int, int]
    ) -> BackboneFeatures:
        """Read a backbone's output.

        Args:
            output (Any): What ``backbone(images)`` returned.
            backbone (nn.Module): The backbone, to look up what its output does not tell.
            image_size (tuple[int, int]): The (H, W) of the images, in pixels.

        Returns:
            BackboneFeatures: ``pooled`` (B, C), ``tokens`` (B, N, C) and ``grid`` (h, w), where N is
            h * w.
        """

    def forward(
        self, output: Any, backbone: nn.Module, image_size: tuple[int, int]
    ) -> BackboneFeatures:
        """Read a backbone's output and check what was read.

        Args:
            output (Any): What ``backbone(images)`` returned.
            backbone (nn.Module): The backbone.
            image_size (tuple[int, int]): The (H, W) of the images, in pixels.

        Returns:
            BackboneFeatures: Pooled feature, tokens and grid.

        Raises:
            ConfigError: If the output cannot be read, or what was read does not fit together.
        """
        features = self.read(output, backbone, tuple(image_size))
        wrong = _find_mismatch(features)
        if wrong:
            raise ConfigError(
                f'the adapter {type(self).__name__} read {wrong} from the output of the backbone '
                f'{type(backbone).__name__} for images of {image_size[0]}x{image_size[1]}, but a '
                'branch needs pooled (B, C), tokens (B, h * w, C) and grid (h, w)'
            )
        return features


def _find_mismatch(features: Any) -> str | None:
    """Describe what is wrong with the result of an adapter; None if nothing is."""
    if not isinstance(features, tuple) or len(features) != 3:
        return f'{describe_output(features)} instead of BackboneFeatures'
    pooled, tokens, grid = features
    if not isinstance(grid, tuple | list) or [type(side) for side in grid] != [int, int]:
        return f'grid {grid!r}'
    if not isinstance(pooled, Tensor) or pooled.dim() != 2:
        return f'pooled {describe_output(pooled)}'
    if not isinstance(tokens, Tensor) or tokens.dim() != 3:
        return f'tokens {describe_output(tokens)}'
    if tokens.shape[0] != pooled.shape[0] or tokens.shape[1] != grid[0] * grid[1]:
        return f'pooled {tuple(pooled.shape)}, tokens {tuple(tokens.shape)} and grid {tuple(grid)}'
    return None


def describe_output(output: Any) -> str:
    """Describe an output in a message.

    Args:
        output (Any): What a backbone or an adapter returned.

    Returns:
        str: The shape of a tensor, the type of anything else, with lengths and keys.
    """
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    if isinstance(output, Mapping):
        return f'{type(output).__name__} with {", ".join(map(repr, output))}'
    if isinstance(output, list | tuple) and output:
        return f'{type(output).__name__} of {", ".join(map(describe_output, output))}'
    return type(output).__name__


def pick_output(
    output: Any, index: int | str, num_dims: int, adapter: BackboneAdapter, backbone: nn.Module
) -> Tensor:
    """Pick one of a backbone's outputs.

    Args:
        output (Any): What the backbone returned; a tensor is its only output.
        index (int | str): Place in a tuple or list, or key in a dict.
        num_dims (int): Dimensions of the wanted tensor: 4 for a map, 3 for tokens, 2 for a vector.
        adapter (BackboneAdapter): Who asks, for the message.
        backbone (nn.Module): The backbone, for the message.

    Returns:
        Tensor: The output.

    Raises:
        ConfigError: If the output does not exist, or is another kind of tensor.
    """
    outputs = (output,) if isinstance(output, Tensor) else output
    try:
        found = outputs[index]
    except (LookupError, TypeError):
        found = None
    if isinstance(found, Tensor) and found.dim() == num_dims:
        return found
    raise ConfigError(
        f'the adapter {type(adapter).__name__} reads {KINDS[num_dims]} from output {index!r} of the '
        f'backbone {type(backbone).__name__}, but the backbone gave {describe_output(output)}'
    )
