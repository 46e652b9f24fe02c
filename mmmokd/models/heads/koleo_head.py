# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch
import torch.nn.functional as F
from torch import Tensor

from mmmokd.registry import MODELS
from mmmokd.structures import NetworkOutput, Views
from mmmokd.utils.errors import ConfigError

from ..losses import at_least_float32
from ..utils import check_number
from .base import BranchHead


@MODELS.register_module()
class KoLeoHead(BranchHead):
    """KoLeo regularizer: features of a batch spread over the sphere.

    The Kozachenko-Leonenko entropy estimator of `Spreading vectors for similarity search
    <https://arxiv.org/abs/1806.03198>`_, as in `DINOv2 <https://arxiv.org/abs/2304.07193>`_: for n
    L2-normalized features x_i of one view, ``-1/n sum_i log(min_{j != i} |x_i - x_j + eps| + eps)``,
    averaged over the global views. (DINOv2 adds up its two views: its weight of 0.1 is 0.2 here.)

    The neighbors are those of the batch of one process, as in DINOv2: the value depends on how many
    images a process has, and two processes are not one.

    Args:
        reads (str): ``'pooled'`` (the backbone's features) or a neck. Defaults to ``'pooled'``.
        eps (float): Keeps the logarithm and its gradient finite for two equal features. Defaults
            to 1e-8.
        loss_weight (float): Weight of the term. Defaults to 0.1.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: If ``eps`` is not a positive number.

    Example:
        >>> heads = dict(koleo=dict(type='mmmokd.KoLeoHead', loss_weight=0.1))
    """

    capturable = True

    def __init__(
        self,
        reads: str = 'pooled',
        eps: float = 1e-8,
        loss_weight: float = 0.1,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(reads, 'none', loss_weight, init_cfg)
        check_number('KoLeoHead', 'eps', eps)
        self.eps = eps

    def loss(self, student: NetworkOutput, teacher: NetworkOutput | None, views: Views) -> Tensor:
        """The weighted regularizer.

        Args:
            student (NetworkOutput): Of all views, the G global ones first.
            teacher (NetworkOutput, optional): Not used.
            views (Views): The views.

        Returns:
            Tensor: Scalar.

        Raises:
            ConfigError: If the batch has one image, which has no neighbor.
        """
        return self(student[self.reads][: len(views.globals)])

    def forward(self, features: Tensor) -> Tensor:
        """The weighted regularizer of features.

        Args:
            features (Tensor): Shape (G, B, C): neighbors are looked for within each of the G.

        Returns:
            Tensor: Scalar.

        Raises:
            ConfigError: If B is below 2.
        """
        if features.shape[1] < 2:
            raise ConfigError(
                'KoLeoHead needs at least 2 images per process, for each to have a neighbor, but '
                f'got {features.shape[1]}: use a larger batch_size, and drop_last=True'
            )
        with torch.autocast(features.device.type, enabled=False):
            x = F.normalize(at_least_float32(features), dim=-1)  # (G, B, C)
            with torch.no_grad():
                similarity = x @ x.transpose(1, 2)  # (G, B, B)
                similarity.diagonal(dim1=1, dim2=2).fill_(-2.0)  # below any cosine
                nearest = similarity.argmax(dim=-1, keepdim=True)  # (G, B, 1)
            neighbors = x.gather(1, nearest.expand_as(x))
            distances = F.pairwise_distance(x, neighbors, eps=self.eps)  # (G, B)
            return -self.loss_weight * (distances + self.eps).log().mean()
