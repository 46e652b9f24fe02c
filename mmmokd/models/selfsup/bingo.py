# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

import torch
from torch import Tensor

from mmmokd.registry import MODELS
from mmmokd.structures import Views
from mmmokd.utils.errors import ConfigError

from ..utils import check_number
from .offline import BaseOffline


@MODELS.register_module()
class BINGO(BaseOffline):
    """BINGO: bags of images that are alike for a frozen teacher become compact in a student.

    Implements `BINGO <https://arxiv.org/abs/2107.01691>`_ (ICLR 2022). The frozen teacher encodes
    the keys of InfoNCE. A batch has B images, then as many members of their bags, one for each: their
    nearest neighbors in the teacher's space, by :class:`~mmmokd.datasets.NeighborBags`. The student
    sees the first view of both, and the image with a box out of the member (CutMix); the teacher
    sees the second view of both. See :class:`BINGOHead` for the loss.

    Args:
        branches (dict[str, dict | None]): See :class:`BaseOffline`.
        cutmix_alpha (float): The share of the image in the mixed view is drawn from a Beta
            distribution with both parameters equal to it, once per batch. Defaults to 2.0, as in
            the authors' code.
        **kwargs: See :class:`BaseOffline`, which has an example.

    Raises:
        ConfigError: See :class:`BaseOffline`; also if the global views are not two.
    """

    terms = dict(bag=dict(type='mmmokd.BINGOHead', reads='projector'))
    necks = dict(projector=dict(type='mmpretrain.MoCoV2Neck', with_avg_pool=False))
    neck_defaults = dict(hid_channels=2048)
    compares_two_views = True
    needs_bags = True  # read by InputCheckHook
    refused = dict(
        views='students see the first view, teachers the second, of images and members of their bags',
        cache='a teacher sees other members of the bags in each epoch',
    )

    def __init__(
        self,
        branches: dict[str, dict | None],
        cutmix_alpha: float = 2.0,
        **kwargs,
    ) -> None:
        check_number('BINGO', 'cutmix_alpha', cutmix_alpha)
        super().__init__(branches, **kwargs)
        self.cutmix_alpha = cutmix_alpha

    def losses_by_branch(
        self, inputs: list[Tensor], data_samples: list | None = None
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Compute the losses of one student after the other; see :meth:`loss`.

        Args:
            inputs (list[Tensor]): Two views, each (2 B, 3, H, W): of B images, then of a member of
                each one's bag.
            data_samples (list, optional): One data sample per image, of which the first B are passed
                to heads. Defaults to None.

        Yields:
            tuple[str, dict[str, Tensor]]: Name of a branch that learns, and its losses.

        Raises:
            ConfigError: If the batch is not one of bags.
        """
        views = self.split_views(inputs, data_samples)
        if len(views.globals[0]) % 2:
            raise ConfigError(
                'BINGO takes images and as many members of their bags in a batch, as '
                f'mmmokd.NeighborBags makes it, but got {len(views.globals[0])} images'
            )
        queries, keys = (list(view.chunk(2)) for view in views.globals)  # image, member
        mixed, share = cutmix(*queries, self.cutmix_alpha)
        samples = None if data_samples is None else data_samples[: len(mixed)]
        seen = Views(queries, [mixed], samples, share)
        teachers = self.forward_teachers(Views(keys, []), {})
        for name, branch in self.branches.items():
            if branch.student is not None:
                yield name, self.head_losses({name: branch.forward_student(seen)}, teachers, seen)


def cutmix(images: Tensor, others: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Put a box of other images into images, the same box in all.

    `CutMix <https://arxiv.org/abs/1905.04899>`_. Random numbers and box stay on the device, so that
    nothing waits for it.

    Args:
        images (Tensor): Shape (B, 3, H, W).
        others (Tensor): Where the box is from, shape (B, 3, H, W).
        alpha (float): Both parameters of the Beta distribution of the images' share, before the box
            is cut at the border.

    Returns:
        tuple[Tensor, Tensor]: New images, and the share of their area that is of ``images``, scalar.
    """
    device = images.device
    concentration = torch.full((), alpha, device=device)
    drawn = torch.distributions.Beta(concentration, concentration, validate_args=False).sample()
    inside = []
    for length in images.shape[2:]:
        center = (torch.rand((), device=device) * length).floor()
        half = ((1 - drawn).sqrt() * length).floor().div(2, rounding_mode='floor')
        places = torch.arange(length, device=device)
        inside.append((places >= center - half) & (places < center + half))
    box = inside[0][:, None] & inside[1]  # (H, W)
    return torch.where(box, others, images), 1 - box.to(drawn.dtype).mean()
