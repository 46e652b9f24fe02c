# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import logging
from collections.abc import Sequence

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from torch import nn
from torch.utils.data import DataLoader

from mmmokd.datasets import LoadImage, MultiCrop, NeighborBags, iter_datasets, iter_transforms
from mmmokd.models.branches import (
    Branch,
    BranchNetwork,
    ViewPass,
    check_gradients,
    check_views,
    find_lonely_norms,
)
from mmmokd.models.data_preprocessors import MultiCropDataPreprocessor
from mmmokd.registry import HOOKS
from mmmokd.utils import get_ori_model
from mmmokd.utils.errors import ConfigError

from ..feature_writer import check_cached_data


@HOOKS.register_module()
class InputCheckHook(Hook):
    """Checks every branch on zero images before training begins.

    An image of every size that the pipelines make (``mmmokd.MultiCrop`` of the training set, or
    ``mmmokd.MultiCropDataPreprocessor``,
    ``CenterCrop`` of the validation set) passes through each branch. What would end the run at its
    first step, or at its first validation some epochs later, so ends it at once, with a message that
    names the branch, the backbone, the size and what to set. So does a batch of one image where a
    batch norm would be left with one value per channel; the last batch of an epoch is counted.
    Before a test its images' size is checked likewise. Weights, statistics and random numbers are
    untouched. Where several processes train, so does a backbone of which a part gets no gradient.
    A pipeline that makes its views by other means is not checked. Where a branch reads kept features
    (``cache``), they have to be of the views that the pipeline makes of these images.

    Raises:
        ConfigError: If a branch cannot take the views, or the smallest batch.
    """

    # After the hook that checks the data, before all that is long or moves weights.
    priority = 'HIGH'

    def before_train(self, runner) -> None:
        """Check sizes, then batches.

        Args:
            runner (Runner): The runner.

        Raises:
            ConfigError: If a branch cannot take the views, or the smallest batch, or several processes
                would wait for a gradient that does not come.
        """
        model, branches = get_ori_model(runner.model), _branches(runner.model)
        if not branches:
            return
        sets = [runner.train_dataloader.dataset]
        check_bags(sets[0], model)
        sets += [runner.val_loop.dataloader.dataset] if runner.val_loop is not None else []
        for dataset in sets:
            if notice := check_channel_order(dataset, model.data_preprocessor):
                runner.logger.log(logging.WARNING, notice)
        passes = {
            name: view_passes(
                sets[0], model.num_global_views, model.data_preprocessor, branch.views
            )
            for name, branch in branches.items()
        }
        check_cached_data(branches, sets[0], model.data_preprocessor)
        later = crop_sizes(sets[1]) if len(sets) > 1 else []
        for name, branch in branches.items():
            views = passes[name]
            seen = views[:1] if branch.frozen else views  # a teacher alone sees no local views
            network = branch.network('student')
            grids = check_views(name, network, [group.size for group in seen] + later)
            if views and not branch.frozen and _waits_for_gradients(runner.model):
                check_gradients(name, branch.student, views[0].size)
            if views and grids[views[0].size] == (1, 1) and _reads_maps(network):
                runner.logger.log(
                    logging.WARNING,
                    f'branch {name}: the map of the global views has one place only, so there is '
                    'nothing to search in it: give larger views, or a backbone of smaller stride',
                )
        if all(passes.values()):
            _check_smallest_batch(branches, passes, runner.train_dataloader)

    def before_test(self, runner) -> None:
        """Check the size of the test set's images.

        Args:
            runner (Runner): The runner.

        Raises:
            ConfigError: If a branch cannot take them.
        """
        dataset = runner.test_dataloader.dataset
        preprocessor = getattr(get_ori_model(runner.model), 'data_preprocessor', None)
        if notice := check_channel_order(dataset, preprocessor):
            runner.logger.log(logging.WARNING, notice)
        sizes = crop_sizes(dataset)
        for name, branch in _branches(runner.model).items():
            check_views(name, branch.network('teacher'), sizes)


def check_bags(dataset, model: nn.Module) -> None:
    """Make sure that batches have members of bags where, and only where, the algorithm takes them.

    Args:
        dataset (Dataset): The training set, wrapped or not.
        model (nn.Module): The algorithm.

    Raises:
        ConfigError: If they do not fit.
    """
    needed, name = getattr(model, 'needs_bags', False), type(model).__name__
    if needed != isinstance(dataset, NeighborBags):
        raise ConfigError(
            f'{name} takes images with members of their bags: train_dataloader.dataset must be a '
            f'mmmokd.NeighborBags around the dataset, but is {type(dataset).__name__}'
            if needed
            else f'{name} takes no members of bags: train_dataloader.dataset must be the dataset alone, '
            'without mmmokd.NeighborBags'
        )


def _waits_for_gradients(model: nn.Module) -> bool:
    """Check whether processes wait for a gradient of every parameter, as with DDP."""
    finds = getattr(model, 'find_unused_parameters', True) or getattr(model, 'static_graph', False)
    return not finds


def _branches(model: nn.Module) -> dict[str, Branch]:
    """The branches of a model, if it has any."""
    # The weights of one process alone are not a model under FSDP.
    if 'FullySharded' in type(model).__name__:
        return {}
    found = getattr(get_ori_model(model), 'branches', nn.ModuleDict())
    return {name: branch for name, branch in found.items() if isinstance(branch, Branch)}


def _reads_maps(network: BranchNetwork) -> bool:
    necks = [getattr(network, name) for name in network.neck_names]
    return any(getattr(neck, 'reads_maps', False) for neck in necks)


def view_passes(
    dataset,
    num_global_views: int,
    preprocessor: nn.Module | None = None,
    seen: Sequence[int] | None = None,
) -> list[ViewPass]:
    """The views that a training set's pipeline or a preprocessor makes, those of one pass together.

    Args:
        dataset (Dataset): The training set, wrapped or not.
        num_global_views (int): How many views, from the first, are global.
        preprocessor (nn.Module, optional): Data preprocessor of the model. Defaults to None.
        seen (Sequence[int], optional): Numbers of the views that a branch sees. Defaults to None, all
            of them.

    Returns:
        list[ViewPass]: The global views, then local ones of one size after the other; none if no
        ``MultiCrop`` and no ``MultiCropDataPreprocessor`` makes them, or several make different ones.
    """
    crops = [
        transform
        for inner in iter_datasets(dataset)
        for transform in iter_transforms(inner)
        if isinstance(transform, MultiCrop)
    ]
    if isinstance(preprocessor, MultiCropDataPreprocessor):
        crops.append(preprocessor)
    made = {
        tuple(group.size for group in crop.groups for _ in range(group.num)) for crop in crops
    }  # of each, the size of every view
    if len(made) != 1:
        return []
    sizes = made.pop()
    chosen = [i for i in (range(len(sizes)) if seen is None else seen) if i < len(sizes)]
    global_sizes = [sizes[i] for i in chosen if i < num_global_views]
    if not global_sizes:  # which the first step reports
        return []
    passes = [ViewPass(global_sizes[0], len(global_sizes))]
    for i, size in enumerate(sizes[i] for i in chosen if i >= num_global_views):
        if i and passes[-1].size == size:
            passes[-1] = passes[-1]._replace(num=passes[-1].num + 1)
        else:
            passes.append(ViewPass(size, 1))
    return passes


def crop_sizes(dataset) -> list[tuple[int, int]]:
    """Sizes of the images that a validation set's pipeline ends with, as far as it says so.

    Args:
        dataset (Dataset): The validation set, wrapped or not.

    Returns:
        list[tuple[int, int]]: (H, W), in pixels, of every ``CenterCrop``.
    """
    return [
        tuple(reversed(transform.crop_size))  # mmcv has the width first
        for inner in iter_datasets(dataset)
        for transform in iter_transforms(inner)
        if type(transform).__name__ == 'CenterCrop' and hasattr(transform, 'crop_size')
    ]


def check_channel_order(dataset, preprocessor: nn.Module | None) -> str | None:
    """Make sure that images are turned from BGR to RGB once, or not at all.

    Args:
        dataset (Dataset): A dataset, wrapped or not, with a :class:`~mmmokd.datasets.LoadImage`.
        preprocessor (nn.Module, optional): Data preprocessor of the model.

    Returns:
        str, optional: A warning if the model sees BGR, because nothing turns the channels round.

    Raises:
        ConfigError: If both the loader and the preprocessor turn them round.
    """
    turns = getattr(preprocessor, '_channel_conversion', None)
    orders = {
        transform.to_rgb
        for inner in iter_datasets(dataset)
        for transform in iter_transforms(inner)
        if isinstance(transform, LoadImage)
    }
    if turns is None or not orders:
        return None
    if turns and True in orders:
        raise ConfigError(
            'LoadImage(to_rgb=True) gives RGB images, and data_preprocessor.to_rgb=True would turn '
            'their channels round to BGR: set data_preprocessor.to_rgb=False'
        )
    if not turns and False in orders:
        return (
            'The model sees BGR images, for neither LoadImage nor the data_preprocessor has '
            'to_rgb=True. If that is not meant, set it in one of the two.'
        )
    return None


def one_image_batches(dataloader: DataLoader) -> str | None:
    """Find the batches of a training set that have one image, if any.

    Args:
        dataloader (DataLoader): The loader of one process.

    Returns:
        str, optional: ``'every batch'`` or ``'the last batch of an epoch'``.
    """
    sampler = dataloader.batch_sampler
    batch_size = dataloader.batch_size or getattr(sampler, 'batch_size', None)
    if not batch_size:
        return None
    if batch_size == 1:
        return 'every batch'
    drop_last = getattr(sampler, 'drop_last', False)
    endless = type(dataloader.sampler).__name__ == 'InfiniteSampler'
    if drop_last or endless or len(dataloader.sampler) % batch_size != 1:
        return None
    return 'the last batch of an epoch'


def _check_smallest_batch(
    branches: dict[str, Branch], passes: dict[str, list[ViewPass]], loader: DataLoader
) -> None:
    which = one_image_batches(loader)
    # Where processes have batches of their own, one that fails leaves the others waiting.
    anywhere = torch.tensor(float(which is not None))
    all_reduce(anywhere, 'max')
    if not anywhere:
        return
    which = which or 'the last batch of an epoch'
    num_images, world_size = len(loader.dataset), get_world_size()
    for name, branch in branches.items():
        if branch.frozen:  # in evaluation mode
            continue
        norms = find_lonely_norms(branch.student, passes[name], passes[name][0].num)
        if not norms:
            continue
        norm, (height, width) = norms[0]
        more = f' (and {len(norms) - 1} more)' if len(norms) > 1 else ''
        advice = (
            'Set train_dataloader.drop_last=True, another train_dataloader.batch_size'
            if which != 'every batch'
            else 'Set train_dataloader.batch_size to 2 or more'
        )
        raise ConfigError(
            f'branch {name}: {which} has one image ({num_images} images, batch size '
            f'{loader.batch_size}, {world_size} process{"es" * (world_size > 1)}), of whose views '
            f'of {height}x{width} the batch norm {norm}{more} gets one value per channel, which has '
            f'no variance. {advice}, or give more or larger views of that group (`num`, `size` of '
            'mmmokd.MultiCrop)'
        )
