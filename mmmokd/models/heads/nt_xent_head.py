# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from itertools import combinations

import torch
from torch import Tensor

from mmmokd.registry import MODELS
from mmmokd.structures import NetworkOutput, Views
from mmmokd.utils.errors import ConfigError

from ..losses import nt_xent
from ..utils import check_number, first_row, gather_with_grad
from .base import BranchHead


@MODELS.register_module()
class NTXentHead(BranchHead):
    """The contrastive loss of `SimCLR <https://arxiv.org/abs/2002.05709>`_, NT-Xent.

    A student's feature of one view is to be found, among those of all views of all images of the
    batch, by that of another view of the same image. No teacher takes part. The images of all processes
    are compared with each other: two processes are one. (Under gradient accumulation each micro-batch
    is a batch of its own.) With more than two views, the loss is the
    mean over the pairs of views. The share of the features whose most similar one is the right one is
    logged as ``'{branch}.{term}.accuracy'``, in percent.

    Args:
        reads (str): The neck whose output is compared, or ``'pooled'``. Defaults to
            ``'projector'``.
        temperature (float): Defaults to 0.5.
        all_views (bool): Whether local views are compared as well as the global ones. Defaults to
            False.
        loss_weight (float): Weight of the term. Defaults to 1.0.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: If the temperature is not a positive number.

    Example:
        >>> simclr = dict(
        ...     type='NonLinearNeck', hid_channels=512, out_channels=128, with_avg_pool=False,
        ...     with_last_bn=False, with_last_bias=True, norm_cfg=dict(type='BN1d'))
        >>> branch = dict(
        ...     simclr=simclr,  # a further neck, for a term of MOKD in place of L_sm
        ...     heads=dict(
        ...         sm=None, cm=None, simclr=dict(type='mmmokd.NTXentHead', reads='simclr')))
    """

    capturable = True

    def __init__(
        self,
        reads: str = 'projector',
        temperature: float = 0.5,
        all_views: bool = False,
        loss_weight: float = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(reads, 'none', loss_weight, init_cfg)
        check_number('NTXentHead', 'temperature', temperature)
        self.temperature = temperature
        self.all_views = all_views

    def loss(self, student: NetworkOutput, teacher: NetworkOutput | None, views: Views) -> Tensor:
        """Compute the weighted loss.

        Args:
            student (NetworkOutput): Of all views, the G global ones first.
            teacher (NetworkOutput, optional): Not used.
            views (Views): The views.

        Returns:
            Tensor: Scalar.

        Raises:
            ConfigError: If there are fewer than two views to compare, or fewer than two images.
        """
        features = student[self.reads]
        return self(features if self.all_views else features[: len(views.globals)])

    def forward(self, features: Tensor) -> Tensor:
        """Compute the weighted loss of features.

        Args:
            features (Tensor): Shape (V, B, C).

        Returns:
            Tensor: Scalar.

        Raises:
            ConfigError: If V is below 2, or all processes have fewer than two images.
        """
        num_views, batch = features.shape[:2]
        if num_views < 2:
            raise ConfigError(
                f'NTXentHead compares two views of an image, but a branch sees {num_views} '
                f'{"" if self.all_views else "global "}view'
            )
        everything = gather_with_grad(features.transpose(0, 1)).transpose(0, 1)  # (V, N, C)
        with torch.autocast(features.device.type, enabled=False):
            found = [
                nt_xent(
                    features[v],
                    features[w],
                    self.temperature,
                    everything=(everything[v], everything[w]),
                    start=first_row(batch),
                )
                for v, w in combinations(range(num_views), 2)
            ]
        losses, accuracies = zip(*found, strict=True)
        self.metrics = {'accuracy': sum(accuracies) / len(found)}
        return self.loss_weight * sum(losses) / len(found)
