# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Mapping

from mmengine.logging import print_log
from torch import Tensor, nn

from mmmokd.utils.errors import CheckpointError
from mmmokd.utils.runner import get_ori_model


def name_some(names: list[str], limit: int = 3) -> str:
    """The first of some names, and how many more there are, for a message.

    Args:
        names (list[str]): Names, for example of parameters.
        limit (int): The most to write out. Defaults to 3.

    Returns:
        str: For example ``'a, b, c and 7 more'``.
    """
    rest = len(names) - limit
    return ', '.join(names[:limit]) + (f' and {rest} more' if rest > 0 else '')


def strip_module_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by their names in the bare model.

    Args:
        state_dict (Mapping[str, Tensor]): Weights by name, with or without the ``module.`` of DDP.

    Returns:
        dict[str, Tensor]: The same without it.
    """
    return {key.removeprefix('module.'): value for key, value in state_dict.items()}


def tie_shared(state_dict: dict[str, Tensor], model: nn.Module) -> None:
    """Let copies of one tensor of a model be one tensor again, which ``torch.save`` writes once.

    Copying a state dict, as from a GPU, copies what parts of a model share as often as it is named.

    Args:
        state_dict (dict[str, Tensor]): A copy of the model's; changed in place.
        model (nn.Module): The model, not wrapped.
    """
    first: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        owner = first.setdefault(id(tensor), name)
        if owner != name and owner in state_dict and name in state_dict:
            state_dict[name] = state_dict[owner]


def load_state_dict_strict(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    source: str,
    may_lack: Callable[[str], bool] | None = None,
) -> list[str]:
    """Load weights into a model, every one of whose weights must be given.

    mmengine's own loading only logs what is missing or has another shape, and continues with random
    weights. Counters of batches that a BN layer has seen may be missing, as they may for mmengine:
    checkpoints of other libraries lack them, and a BN layer with a momentum does not read them.

    Args:
        model (nn.Module): The model, wrapped (DDP) or not.
        state_dict (Mapping[str, Tensor]): Weights by name, with or without the ``module.`` of DDP.
        source (str): Where the weights come from, for the message.
        may_lack (Callable[[str], bool], optional): Which further weights may be missing, by name;
            they are logged. Defaults to None, no others.

    Returns:
        list[str]: Names in ``state_dict`` that the model does not have; they were not used.

    Raises:
        CheckpointError: If a weight of the model is missing or has another shape.
    """
    model = get_ori_model(model)
    weights = strip_module_prefix(state_dict)
    try:
        # Not through a comparison of keys: a module may rename or resize weights as it loads them.
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except (RuntimeError, AssertionError) as error:  # the latter of mmpretrain's ViT
        lines = str(error).splitlines()
        problems = [line.strip() for line in lines[1:] or lines]
        raise CheckpointError(
            f'{source} does not fit {type(model).__name__}: {name_some(problems, 2)}'
        ) from error
    # What is given, yet missing, was dropped by its module, which computes it again.
    missing = [k for k in missing if k not in weights and not k.endswith('num_batches_tracked')]
    if missing and may_lack is not None and all(map(may_lack, missing)):
        print_log(
            f'{type(model).__name__}: {name_some(missing)} are not in {source} and keep the values '
            'that they start with',
            logger='current',
        )
        return unexpected
    if missing:
        raise CheckpointError(
            f'{source} lacks {len(missing)} of the {len(model.state_dict())} weights of '
            f'{type(model).__name__}: {name_some(missing)}. It holds {len(weights)}'
            + (
                f', {len(unexpected)} unknown to the model: {name_some(unexpected)}'
                * bool(unexpected)
            )
            + '. Does it belong to another config?'
        )
    return unexpected
