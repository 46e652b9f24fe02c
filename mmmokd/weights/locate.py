# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Search for a backbone's weights in a file of another project."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from mmmokd.utils.errors import CheckpointError
from mmmokd.utils.state_dict import name_some

from .vit_names import VIT_NAMES, join_chunks, rename_vit, vit_library

# What is called how in the files of a project; all of it is required. The first that fits is told
# in the log.
_SOURCES = {
    'DINOv3': (r'(.*\.)?rope_embed\.',),
    'VISSL': (r'classy_state_dict\.|(.*\.)?_feature_blocks\.',),
    'DINOv2': (r'(.*\.)?mask_token$', r'(.*\.)?blocks\.(\d+\.)+ls1\.gamma'),
    'MoCo v3': (r'(base|momentum)_encoder\.',),
    'MoCo': (r'encoder_q\.', r'encoder_k\.'),
    'SwAV': (r'prototypes\.', r'projection_head\.'),
    'DINO': (r'student\.(backbone|head)\.', r'teacher\.(backbone|head)\.'),
    'PyTorch Lightning': (r'pytorch-lightning_version$',),
}
# Which of several networks to take: the one that the file's project evaluates. That is the teacher
# of DINO and of its kin, and the average of weights, but not the slow encoder of MoCo or BYOL.
_PREFERRED = {'teacher', 'ema'}
_OTHERS = ({'student'}, {'momentum', 'target', 'k'})


class Found(NamedTuple):
    """A backbone's weights in a file.

    Attributes:
        weights (dict[str, Tensor]): Weights by the rest of their names.
        prefix (str): What their names in the file begin with; '' for all of the file.
        others (list[str]): Prefixes that would have done as well.
    """

    weights: dict[str, Tensor]
    prefix: str
    others: list[str]


def name_source(keys: Iterable[str]) -> str:
    """Name the project that wrote a file.

    Args:
        keys (Iterable[str]): Names of weights, and of what else lies beside them in the file.

    Returns:
        str: For example ``'DINOv2'``; '' for a file that is not known.
    """
    keys = list(keys)
    for name, patterns in _SOURCES.items():
        if all(any(map(re.compile(pattern).match, keys)) for pattern in patterns):
            return name
    return ''


def find_backbone(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> Found:
    """Find the weights of a model in a file that has them below some name.

    Args:
        weights (Mapping[str, Tensor]): The file's weights.
        own (Mapping[str, Tensor]): The model's own; of a ViT, the file may have another library's
            names.
        source (str): The file, for the message.

    Returns:
        Found: The weights below the name that has most of them; all, if none has any.

    Raises:
        CheckpointError: If several names have as many and it is not known which to take.
    """
    library = vit_library(own)
    wanted = set(own)
    if library is not None:
        weights = join_chunks(weights)
        wanted = {key for other in VIT_NAMES for key in rename_vit(own, library, other)}
    counts: Counter[str] = Counter()
    for key in weights:
        ends = [0, *(match.end() for match in re.finditer(r'\.', key))]
        counts.update(key[:end] for end in ends if key[end:] in wanted)
    most = max(counts.values(), default=0)
    prefixes = [prefix for prefix, count in counts.items() if count == most]
    best = min(map(_rank, prefixes), default=0)
    chosen = [prefix for prefix in prefixes if _rank(prefix) == best]
    if not chosen or '' in chosen:
        return Found(dict(weights), '', [])
    if len(chosen) > 1:
        raise CheckpointError(
            f'{source} has the weights of several models: give one of the prefixes '
            f'{name_some([repr(prefix) for prefix in prefixes], 8)}'
        )
    [prefix] = chosen
    found = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
    return Found(found, prefix, [other or 'state_dict' for other in prefixes if other != prefix])


def _rank(prefix: str) -> int:
    words = set(re.split(r'[._]', prefix))
    if words & _PREFERRED:
        return 0
    return next((i for i, others in enumerate(_OTHERS, 2) if words & others), 1)
