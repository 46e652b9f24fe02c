# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from mmengine.runner import autocast
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmmokd.evaluation.block_tokens import watch_block_tokens
from mmmokd.utils import get_ori_model
from mmmokd.utils.errors import DataError

from .batches import read_inputs, read_labels
from .gather import gather_by_index, sample_order
from .networks import check_gives_maps, find_networks

IterCallback = Callable[[int, dict], None]


@torch.no_grad()
def extract_features(
    model: nn.Module,
    dataloader: DataLoader,
    networks: Sequence[str] = ('teacher',),
    fp16: bool = False,
    on_all_ranks: bool = True,
    before_iter: IterCallback | None = None,
    after_iter: IterCallback | None = None,
    last_blocks: int | None = None,
    maps: bool = False,
) -> tuple[dict[str, Tensor], Tensor] | None:
    """Features and labels of a whole dataset, in the dataset's order, over any number of processes.

    The model is in evaluation mode meanwhile; every module's own mode is restored after it. What
    the sampler pads is dropped by index: each image is in the result exactly once.

    Args:
        model (nn.Module): An mmengine model with ``extract_feat``, wrapped (DDP) or not: MOKD, or a
            self-supervised model or classifier of mmpretrain.
        dataloader (DataLoader): One labeled view of each image in a fixed order: a sampler as
            ``dict(type='DefaultSampler', shuffle=False)``.
        networks (Sequence[str]): Networks to evaluate of a model with branches; other models have
            one. Defaults to ('teacher', ). See :func:`find_networks`.
        fp16 (bool): Whether to run the model under autocast; features are float32 all the same.
            Defaults to False.
        on_all_ranks (bool): Whether every process is to get the result, or rank 0 alone, which
            saves the others' memory. Defaults to True.
        before_iter (Callable, optional): Called with index and batch of each iteration before it.
        after_iter (Callable, optional): The same, after it.
        last_blocks (int, optional): Of a network with a class token, the number of last blocks to
            take it after (:func:`watch_block_tokens`). Defaults to None, the pooled feature alone,
            without an axis of blocks.
        maps (bool): Whether to give the branches' last feature maps as well, of h * w * C numbers
            each, by ``'{branch}.{network}.map'``. Defaults to False.

    Returns:
        tuple[dict[str, Tensor], Tensor] | None: Features (N, C), or with ``last_blocks``
        (N, b, C), by ``'{branch}.{network}'`` or ``'backbone'``, and labels (N, ), int64, on the
        CPU; None on ranks without a result. b is at most ``last_blocks``, 1 for a CNN; the last
        block, which is the pooled feature, is last.

    Raises:
        DataError: If the dataset is empty or not labeled, the order of its images is not known,
            the model's features are not one vector for each image, or not always of one shape, or
            it gives no maps.
    """
    model = get_ori_model(model)
    if maps:
        check_gives_maps(model)
    order = sample_order(dataloader)
    extract = partial(
        batch_features, model, networks=networks, last_blocks=last_blocks or 1, maps=maps
    )
    with evaluation_mode(model):
        store = _extract_share(extract, dataloader, len(order), fp16, before_iter, after_iter)
    merged = gather_by_index(store, order, len(dataloader.dataset), on_all_ranks)
    if merged is None:
        return None
    labels = merged.pop('labels')
    if last_blocks is None:
        merged = {name: values.flatten(1) for name, values in merged.items()}
    return merged, labels


def _extract_share(
    extract: Callable[[dict], dict[str, Tensor]],
    dataloader: DataLoader,
    size: int,
    fp16: bool,
    before_iter: IterCallback | None,
    after_iter: IterCallback | None,
) -> dict[str, Tensor]:
    """Features, and 'labels', of the ``size`` images that this process's sampler gives."""
    store: dict[str, Tensor] = {}
    done = 0
    for index, batch in enumerate(dataloader):
        if before_iter is not None:
            before_iter(index, batch)
        labels = read_labels(batch, dataloader)
        rows = slice(done, done + len(labels))
        with autocast(enabled=fp16):
            features = extract(batch)
        for name, values in (*features.items(), ('labels', labels)):
            if name not in store:
                # Allocated once: a list of batches would need twice the memory to be joined.
                store[name] = torch.empty(size, *values.shape[1:], dtype=values.dtype)
            _put(store[name], rows, values, name)
        done = rows.stop
        if after_iter is not None:
            after_iter(index, batch)
    if done != size:
        raise DataError(f'the dataloader gave {done} images where its sampler has {size}')
    return store


def _put(store: Tensor, rows: slice, values: Tensor, name: str) -> None:
    if store.shape[1:] != values.shape[1:]:  # else the assignment could broadcast
        raise DataError(
            f'features {name!r} are of shape {tuple(store.shape[1:])} for one batch and '
            f'{tuple(values.shape[1:])} for another'
        )
    store[rows] = values.cpu()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and every module back in its own mode afterwards.

    Args:
        model (nn.Module): Any module.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            # Not ``train()``: it would override modules that are kept in another mode on purpose.
            module.training = training


def batch_features(
    model: nn.Module,
    batch: dict,
    networks: Sequence[str],
    last_blocks: int = 1,
    maps: bool = False,
) -> dict[str, Tensor]:
    """Features of a batch by name.

    Args:
        model (nn.Module): An unwrapped mmengine model with ``extract_feat``.
        batch (dict): A batch of the dataloader.
        networks (Sequence[str]): See :func:`extract_features`.
        last_blocks (int): See :func:`extract_features`. Defaults to 1.
        maps (bool): See :func:`extract_features`. Defaults to False.

    Returns:
        dict[str, Tensor]: Shape (B, b, C) for each, float32.

    Raises:
        DataError: If the images are not one tensor, or the features not one vector an image.
    """
    inputs = read_inputs(model, batch)
    found = {}
    for name, network in find_networks(model, networks).items():
        watched = last_blocks > 1 and network.backbone is not None
        watch = watch_block_tokens(network.backbone, last_blocks) if watched else nullcontext()
        with watch as record:
            features = network.extract(inputs)
        pooled = features.pooled.float()
        found[name] = pooled[:, None] if record is None else record.take(pooled)
        if maps:
            found[f'{name}.map'] = features.tokens.flatten(1).float()[:, None]
    return found
