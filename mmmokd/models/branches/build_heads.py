# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Mapping

from mmengine.model import ModuleDict

from mmmokd.registry import MODELS
from mmmokd.utils.errors import ConfigError

from ..heads import BranchHead
from .backbone import class_of, has_argument
from .network import BranchNetwork
from .terms import head_argument


def build_heads(
    cfgs: Mapping[str, dict], network: BranchNetwork, peers: Mapping[str, float]
) -> ModuleDict:
    """Build the loss heads of a branch.

    Args:
        cfgs (Mapping[str, dict]): Full config of each head by its term.
        network (BranchNetwork): Of the branch, whose widths a head takes where its config has none.
        peers (Mapping[str, float]): Whom the branch learns from, with the weights.

    Returns:
        ModuleDict: By term a head or, of one with ``teacher='peers'``, a dict of heads by peer.

    Raises:
        ConfigError: If one is not a :class:`BranchHead`, or masks patches that the backbone has not.
    """
    return ModuleDict({term: _build(term, cfg, network, peers) for term, cfg in cfgs.items()})


def _build(
    term: str, cfg: dict, network: BranchNetwork, peers: Mapping[str, float]
) -> BranchHead | ModuleDict:
    cls = class_of(cfg)
    if isinstance(cls, type) and not issubclass(cls, BranchHead):
        raise ConfigError(
            f'heads.{term}: {cls.__name__} is not a loss head of a branch (BranchHead)'
        )
    reads = head_argument(cfg, 'reads')
    widths = dict(in_channels=reads, out_channels=reads, token_channels='tokens')
    for key, of in widths.items():
        if key not in cfg and has_argument(cls, key):
            cfg = dict(cfg, **{key: network.width(of)})
    if getattr(cls, 'masks_patches', False):
        network.check_masks_patches()
    if head_argument(cfg, 'teacher') != 'peers':
        return MODELS.build(cfg)
    # Every head has a state of its own, such as a center.
    return ModuleDict({peer: MODELS.build({'loss_weight': w, **cfg}) for peer, w in peers.items()})
