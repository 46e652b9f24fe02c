# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmpretrain.models import SelfSupDataPreprocessor
from mmpretrain.structures import DataSample
from torch import Tensor

from mmmokd.registry import MODELS
from mmmokd.structures import ViewGroup, ViewSampler
from mmmokd.utils.errors import ConfigError, DataError

from .image_bank import ImageBank
from .view_passes import lay_out, load_kernels, make_views, plan_passes, to_device

STREAM = 0x6D6F6B64  # sets these random numbers apart from others of the same seed


@MODELS.register_module()
class MultiCropDataPreprocessor(SelfSupDataPreprocessor):
    """Multi-crop on the device, in place of :class:`~mmmokd.datasets.MultiCrop` in the data workers.

    The same groups of views, with the same distributions, made for a whole batch at once: a crop
    and its resize are two matrix products, all other steps follow Pillow's on 8-bit images, whole
    levels after each step. With equal parameters the views differ from the plain ones by 0.3 levels on
    average. No step waits for the device, and no loop runs over images.

    The loader sends uint8 images of one size, as :class:`~mmmokd.datasets.FitCanvas` makes them, or,
    with ``keep_images``, their numbers alone. In evaluation (``training=False``) images, or views,
    are normalized as by ``SelfSupDataPreprocessor``.

    This package's tools take ``groups`` from the ``mmmokd.MultiCrop`` of a config that has none here,
    and adapt its loader: ``data_preprocessor.type=mmmokd.MultiCropDataPreprocessor`` is the whole
    switch.

    Random numbers are drawn on the CPU, for each iteration by the run's seed, the rank and the number
    of the iteration, which ``DeviceViewsHook`` gives: a resumed run draws what the uninterrupted one
    would have drawn, also within an epoch. Without the hook they follow from PyTorch's seed and the
    number of calls.

    Args:
        groups (Sequence[dict | ViewGroup], optional): Groups of views, the global ones first; a dict
            has what :class:`~mmmokd.structures.ViewGroup` takes. Defaults to None, see above.
        keep_images (bool): Whether the training images are kept in the memory of the device: for
            datasets that hold images of one size as arrays, as CIFAR, in
            :class:`~mmmokd.datasets.IndexedImages`. Defaults to False.
        mean (Sequence[float], optional): Mean of R, G, B, or of all three, in levels. Defaults to
            None, no normalization.
        std (Sequence[float], optional): Standard deviation, likewise. Defaults to None.
        to_rgb (bool): Whether the images are BGR. Defaults to False: they are RGB, as
            ``LoadImage(to_rgb=True)`` gives them.
        non_blocking (bool): Whether not to wait for the transfer of images, which needs
            ``pin_memory=True`` in the dataloader. Defaults to True.

    Raises:
        ConfigError: If a group has an unknown, missing or wrong value.

    Example:
        >>> groups = [dict(num=2, size=32, scale=(0.5, 1.0)), dict(num=4, size=16, scale=(0.1, 0.5))]
        >>> preprocessor = MultiCropDataPreprocessor(groups)
        >>> batch = dict(inputs=torch.zeros(8, 3, 40, 50, dtype=torch.uint8), data_samples=None)
        >>> [tuple(view.shape) for view in preprocessor(batch, training=True)['inputs']][1:3]
        [(8, 3, 32, 32), (8, 3, 16, 16)]
    """

    def __init__(
        self,
        groups: Sequence[dict | ViewGroup] | None = None,
        keep_images: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        to_rgb: bool = False,
        non_blocking: bool = True,
    ) -> None:
        super().__init__(mean=mean, std=std, to_rgb=to_rgb, non_blocking=non_blocking)
        self.groups = [] if groups is None else ViewGroup.from_configs(groups)
        self.keep_images = bool(keep_images)  # None of a config is False
        self.bank: ImageBank | None = None
        self._passes = plan_passes(self.groups)
        self._sampler = ViewSampler(self.groups) if self.groups else None
        self._seed: int | None = None
        self._iteration = 0

    @property
    def num_views(self) -> int:
        """int: Number of views that come from one image."""
        return sum(group.num for group in self.groups)

    def set_iteration(self, seed: int, iteration: int) -> None:
        """Choose the random numbers of the next batch.

        Args:
            seed (int): The run's.
            iteration (int): Number of the iteration, from 0, counted through all epochs.
        """
        self._seed, self._iteration = seed, iteration

    def fill_bank(self, images: Tensor, labels: Tensor | None) -> ImageBank:
        """Keep a dataset's images on the device from now on.

        Args:
            images (Tensor): Shape (N, 3, H, W), uint8, in the order that ``to_rgb`` says.
            labels (Tensor, optional): Class ids, -1 where none is known. Shape (N, ), int64.

        Returns:
            ImageBank: What is kept.

        Raises:
            DataError: If they do not fit.
        """
        self.bank = ImageBank(images, labels, self.device)
        return self.bank

    @torch.no_grad()
    def forward(self, data: dict, training: bool = False) -> dict:
        """Make the views of a batch, or normalize images.

        Args:
            data (dict): ``inputs``: uint8 images (B, 3, H, W) or, of kept images, numbers (B, ),
                int64; in evaluation images or a list of views. ``data_samples``: a list or None;
                ``img_shape`` and ``ori_shape`` of each, if there, are the part of an image that is
                not padding and its size before it was reduced.
            training (bool): Whether to make views. Defaults to False.

        Returns:
            dict: ``inputs``, a list of V views (B, 3, h, w), float32, normalized, in the order of
            the groups, or what was normalized; ``data_samples``, their labels on the device.

        Raises:
            ConfigError: If there are no groups, or ``inputs`` are views already.
            DataError: If ``inputs`` are neither 8-bit images nor numbers of kept ones.
        """
        if not training:
            return super().forward(data, training)
        images, samples, sizes, scales = self._read(data)
        if self._channel_conversion:
            images = images.flip(2)
        device = images.device
        params = self._sampler.draw(sizes, self._generator())
        kernels = load_kernels(device)
        arrays = [
            lay_out(params, each.views, scales, fused=kernels is not None) for each in self._passes
        ]
        # Levels and sums of weights are exact enough in half precision, and a GPU is fast in it.
        images = images.to(
            torch.float16 if device.type == 'cuda' else torch.float32,
            memory_format=torch.contiguous_format,
        )
        views: list = [None] * self.num_views
        with torch.autocast(device.type, enabled=False):
            for each, drawn in zip(self._passes, to_device(arrays, device), strict=True):
                made = make_views(images, drawn, each.size, each.interpolation, kernels)
                for number, view in zip(each.views, self._finish(made, len(images)), strict=True):
                    views[number] = view
        return dict(inputs=views, data_samples=samples)

    def _finish(self, views: Tensor, batch: int) -> Sequence[Tensor]:
        """Normalize views (B * n, h, 3, w), and give each by itself: n of (B, 3, h, w)."""
        views = views.view(batch, -1, *views.shape[1:]).permute(1, 0, 3, 2, 4)  # (n, B, 3, h, w)
        if not self._enable_normalize:
            return views.contiguous().unbind()
        normalized = torch.empty(views.shape, device=views.device)
        return torch.sub(views, self.mean, out=normalized).div_(self.std).unbind()

    def _generator(self) -> torch.Generator:
        seed = torch.initial_seed() if self._seed is None else self._seed
        key = (STREAM, seed, get_rank(), self._iteration)
        state = np.random.SeedSequence([number % 2**64 for number in key])
        # Without a hook, the next call is another iteration; with it, this is overwritten.
        self._iteration += 1
        return torch.Generator().manual_seed(int(state.generate_state(1, np.uint64)[0]))

    def _read(self, data: dict) -> tuple[Tensor, Any, np.ndarray, np.ndarray]:
        """Images (B, H, 3, W), data samples, sizes before any reduction, and the reductions."""
        if not self.groups:
            raise ConfigError(
                'data_preprocessor has no groups of views: give it those of mmmokd.MultiCrop (the '
                "package's own tools take them from the train_dataloader's pipeline)"
            )
        inputs, samples = data['inputs'], data.get('data_samples')
        if isinstance(inputs, list) and not self.keep_images:
            raise ConfigError(
                'the pipeline makes views, and the data_preprocessor is to make them: leave '
                'mmmokd.MultiCrop out of the pipeline, and let batches be made by '
                "collate_fn=dict(type='default_collate')"
            )
        if self.keep_images:
            return self._read_bank(inputs)
        if inputs.dtype != torch.uint8 or inputs.dim() != 4 or inputs.shape[1] != 3:
            raise DataError(
                'MultiCropDataPreprocessor needs images as uint8 of shape (B, 3, H, W), but got '
                f'shape {tuple(inputs.shape)}, {inputs.dtype}'
            )
        canvas = tuple(inputs.shape[2:])
        shown = np.array([_shape_of(sample, 'img_shape', canvas) for sample in samples or ()])
        shown = shown if len(shown) else np.tile(canvas, (len(inputs), 1))
        sizes = [_shape_of(sample, 'ori_shape', None) for sample in samples or ()]
        sizes = shown if None in sizes or not sizes else np.array(sizes)
        images = inputs.to(self.device, non_blocking=self._non_blocking)
        samples = move_labels(samples, self.device)
        return images.permute(0, 2, 1, 3), samples, sizes, shown / sizes

    def _read_bank(self, inputs: Any) -> tuple[Tensor, Any, np.ndarray, np.ndarray]:
        indices = inputs[0] if isinstance(inputs, list) else inputs
        if not isinstance(indices, Tensor) or indices.dtype != torch.int64 or self.bank is None:
            found = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
            raise ConfigError(
                'data_preprocessor.keep_images needs numbers of images from a train_dataloader whose '
                'dataset is mmmokd.IndexedImages, and default_hooks.device_views, but got '
                f'{found}, and {"a" if self.bank else "no"} bank of images'
            )
        indices = indices.reshape(-1)
        pinned = indices.pin_memory() if self.device.type == 'cuda' else indices
        on_device = pinned.to(self.device, non_blocking=True)
        sizes = np.tile(self.bank.size, (len(indices), 1))
        samples = self.bank.samples(indices, on_device)
        return self.bank.take(on_device), samples, sizes, np.ones_like(sizes)


def _shape_of(sample: DataSample, name: str, default: Any) -> Any:
    shape = sample.metainfo.get(name) if isinstance(sample, DataSample) else None
    return default if shape is None else tuple(shape[:2])


def move_labels(samples: list | None, device: torch.device) -> list | None:
    """Bring the labels of a batch to a device in one transfer that nothing waits for.

    Args:
        samples (list[DataSample], optional): Data samples of a batch; changed in place.
        device (torch.device): Where to.

    Returns:
        list[DataSample] | None: The samples; those with other tensors than labels are moved one by
        one.
    """
    if not samples or device.type == 'cpu':
        return samples
    others = {key for sample in samples for key in sample.keys()} - {'gt_label'}
    if others:
        return [sample.to(device, non_blocking=True) for sample in samples]
    labeled = [sample for sample in samples if 'gt_label' in sample]
    if not labeled:
        return samples
    labels = torch.cat([sample.gt_label for sample in labeled])
    moved = labels.pin_memory().to(device, non_blocking=True)
    counts = [len(sample.gt_label) for sample in labeled]
    for sample, label in zip(labeled, moved.split(counts), strict=True):
        sample.set_field(label, 'gt_label', dtype=Tensor)
    return samples
