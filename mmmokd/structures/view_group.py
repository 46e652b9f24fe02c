# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from numbers import Integral, Real
from typing import Any

from mmmokd.utils.errors import ConfigError

INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'box', 'hamming', 'lanczos')


@dataclass(frozen=True)
class ViewGroup:
    """Random views of one kind that multi-crop training takes of each image.

    Args:
        size (int | tuple[int, int]): One number for square views, or (height, width), in pixels; kept
            as (height, width).
        scale (tuple[float, float]): Range of the crop's share of the image's area, in (0, 1].
        num (int): Number of views. Defaults to 1.
        ratio (tuple[float, float]): Range of width / height of the crop. Defaults to (3/4, 4/3).
        interpolation (str): ``'nearest'``, ``'bilinear'``, ``'bicubic'``, ``'box'``, ``'hamming'``
            or ``'lanczos'``. Defaults to ``'bicubic'``.
        flip (float): Probability of a horizontal flip. Defaults to 0.5.
        color_jitter (tuple[float, float, float, float]): Strength of brightness, contrast,
            saturation and hue. Defaults to (0.4, 0.4, 0.2, 0.1).
        color_jitter_prob (float): Its probability. Defaults to 0.8.
        grayscale (float): Probability of grayscale. Defaults to 0.2.
        blur (float): Probability of Gaussian blur. Defaults to 0.5.
        blur_radius (tuple[float, float]): Range of its radius (standard deviation), in pixels,
            drawn uniformly for each view. Defaults to (0.1, 2.0).
        solarize (float): Probability of solarization. Defaults to 0.0.

    Raises:
        ConfigError: If a value is out of range; names it.

    Example:
        >>> ViewGroup(size=(128, 256), scale=(0.25, 1.0)).size
        (128, 256)
    """

    size: int | tuple[int, int]
    scale: tuple[float, float]
    num: int = 1
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = 'bicubic'
    flip: float = 0.5
    color_jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    color_jitter_prob: float = 0.8
    grayscale: float = 0.2
    blur: float = 0.5
    blur_radius: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0

    def __post_init__(self) -> None:
        for name, (is_right, expected) in _RULES.items():
            value = getattr(self, name)
            if not is_right(value):
                raise ConfigError(f'{name} must be {expected}, got {value!r}.')
        size = self.size
        size = (size, size) if isinstance(size, Integral) else tuple(size)
        object.__setattr__(self, 'size', size)
        for name in ('scale', 'ratio', 'color_jitter', 'blur_radius'):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @classmethod
    def from_configs(cls, groups: Sequence[Mapping[str, Any] | ViewGroup]) -> list[ViewGroup]:
        """Build the groups that a config lists.

        Args:
            groups (Sequence[dict | ViewGroup]): At least one.

        Returns:
            list[ViewGroup]: The groups, in their order.

        Raises:
            ConfigError: If there is no group, or a group has an unknown, missing or wrong value; names
                its place.
        """
        if not isinstance(groups, Sequence) or len(groups) == 0:
            raise ConfigError(f'groups must be a list of at least one dict, got {groups!r}.')
        return [
            group if isinstance(group, cls) else cls._from_config(f'groups[{index}]', group)
            for index, group in enumerate(groups)
        ]

    @classmethod
    def _from_config(cls, place: str, group: Mapping[str, Any]) -> ViewGroup:
        if not isinstance(group, Mapping):
            raise ConfigError(f'{place} must be a dict, got {group!r}.')
        known = {field.name: field.default is MISSING for field in fields(cls)}
        unknown = sorted(set(group) - set(known), key=str)
        if unknown:
            raise ConfigError(f'{place} has the unknown keys {unknown}; known are {list(known)}.')
        missing = [name for name, needed in known.items() if needed and name not in group]
        if missing:
            raise ConfigError(f'{place} lacks {missing}.')
        try:
            return cls(**group)
        except ValueError as error:
            raise ConfigError(f'{place}: {error}') from error


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 1


def _is_size(value: Any) -> bool:
    pair = isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_count, value))
    return pair or _is_count(value)


def _is_probability(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_range(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(map(_is_number, value))
        and value[0] <= value[1]
    )


def _is_jitter(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 4
        and all(_is_number(each) and each >= 0 for each in value)
        and value[3] <= 0.5
    )


_PROBABILITY = (_is_probability, 'a probability in [0, 1]')
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = dict(
    num=(_is_count, 'a whole number >= 1'),
    size=(_is_size, 'a whole number >= 1, or two: (height, width)'),
    scale=(lambda x: _is_range(x) and 0 < x[0] and x[1] <= 1, '(low, high) in (0, 1]'),
    ratio=(lambda x: _is_range(x) and x[0] > 0, '(low, high), positive'),
    interpolation=(lambda x: x in INTERPOLATIONS, f'one of {INTERPOLATIONS}'),
    flip=_PROBABILITY,
    color_jitter=(
        _is_jitter,
        '(brightness, contrast, saturation, hue), none negative, hue at most 0.5',
    ),
    color_jitter_prob=_PROBABILITY,
    grayscale=_PROBABILITY,
    blur=_PROBABILITY,
    blur_radius=(lambda x: _is_range(x) and x[0] >= 0, '(low, high), not negative'),
    solarize=_PROBABILITY,
)
