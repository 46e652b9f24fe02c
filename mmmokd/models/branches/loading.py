# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Weights that a branch begins with: which network an ``init_cfg`` is for, and what must be loaded."""

from mmmokd.utils.errors import ConfigError
from mmmokd.utils.state_dict import name_some
from mmmokd.weights.loaded import loaded_names, pretrained_entries
from mmmokd.weights.lora import is_lora

from .network import BranchNetwork

NETWORKS = ('student', 'teacher')
# Arguments with which backbones of timm, torchvision and Hugging Face load weights by themselves.
OWN_WEIGHTS = ('pretrained', 'checkpoint_path', 'weights', 'name_or_path')


def names_network(init_cfg: dict | list[dict] | None) -> bool:
    """Check whether an ``init_cfg`` loads a student or teacher of a checkpoint.

    Args:
        init_cfg (dict | list[dict], optional): As a branch's config has it.

    Returns:
        bool: If a prefix in it ends with one.
    """
    prefixes = [entry.get('prefix') or '' for entry in pretrained_entries(init_cfg)]
    return any(prefix.rstrip('.').endswith(NETWORKS) for prefix in prefixes)


def check_loaded(network: BranchNetwork, frozen: bool) -> None:
    """Make sure that the weights of a network that stay as they are were loaded.

    Args:
        network (BranchNetwork): The network.
        frozen (bool): Whether all of it is frozen; else its backbone may be, or have low-rank updates.

    Raises:
        ConfigError: If some were loaded neither by an ``init_cfg`` nor from a checkpoint; names them.
    """
    if frozen:
        what, fixed = 'the frozen branch would teach noise', ''
    elif network.frozen_backbone:
        what, fixed = (
            'the necks would learn from noise, for their backbone is frozen',
            'backbone.',
        )
    elif network.has_lora:
        what, fixed = 'lora would adapt noise', 'backbone.'
    else:
        return
    loaded = loaded_names(network)
    if any(network.backbone_cfg.get(key) for key in OWN_WEIGHTS):
        loaded |= {f'backbone.{name}' for name in network.backbone.state_dict()}
    # Other buffers are constants, such as the indices of windows.
    names = [name for name, _ in network.named_parameters() if not is_lora(name)]
    names += [n for n in network.state_dict() if n.endswith(('running_mean', 'running_var'))]
    random = [n for n in names if n.startswith(fixed) and n not in loaded]
    if random:
        raise ConfigError(
            f'{what}: {len(random)} of its weights are random '
            f'({name_some(random)}). Load them: init_cfg of the branch (Pretrained, with a prefix '
            "such as 'branches.NAME.teacher.') loads backbone and necks, init_cfg of its "
            'backbone the backbone alone, load_from or resume the whole model'
        )
