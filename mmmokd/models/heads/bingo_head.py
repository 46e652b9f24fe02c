# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from torch import Tensor

from mmmokd.registry import MODELS
from mmmokd.structures import NetworkOutput, Views
from mmmokd.utils.errors import ConfigError

from ..losses import contrastive_cosines, info_nce
from ..utils import check_number
from .info_nce_head import QueueInfoNCEHead

NUM_QUERIES = 3  # the image, a member of its bag, and both mixed


@MODELS.register_module()
class BINGOHead(QueueInfoNCEHead):
    """BINGO: the images of a bag are close to each other in the teacher's space.

    The losses of `BINGO <https://arxiv.org/abs/2107.01691>`_ (section 3.3), as the authors' code
    has them. With queries of the student for an image a, a member p of its bag and a mixture of both
    (CutMix, of which a share m is of a), with keys of the teacher for other views of a and p, and
    InfoNCE I against a queue of keys::

        loss = (  w I(q_a, k_a) + (1 - w) I(q_a, k_p)
                + w I(q_p, k_p) + (1 - w) I(q_p, k_a)
                + m I(q_m, k_a) + (1 - m) I(q_m, k_p)) / 3

    In the first epochs w is 1: each image is compared with itself alone (intra-sample distillation),
    later with its bag as well (inter-sample distillation). The keys k_a become negatives.

    Args:
        queue_length (int): Number of negatives. Defaults to 65536.
        temperature (float): T. Defaults to 0.2.
        own_share (float): Weight w after the first epochs, from 0 to 1. Defaults to 0.5.
        warmup_epochs (int): How many epochs are the first. Defaults to 11, as in the authors' code.
        reads (str): Embedding of the student. Defaults to ``'projector'``.
        target_reads (str, optional): Embedding of the teacher. Defaults to None, as ``reads``.
        loss_weight (float): Weight of the term. Defaults to 1.0.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Attributes:
        queue (EmbeddingQueue): The negatives, column ``teacher``.

    Raises:
        ConfigError: If a value is out of range.
    """

    teacher = 'peers'  # in the place of the default of the class below
    capturable = False

    def __init__(
        self,
        queue_length: int = 65536,
        temperature: float = 0.2,
        own_share: float = 0.5,
        warmup_epochs: int = 11,
        reads: str = 'projector',
        target_reads: str | None = None,
        loss_weight: float = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            queue_length, temperature, reads, 'peers', target_reads, loss_weight, init_cfg
        )
        check_number('BINGOHead', 'own_share', own_share, zero=True)
        check_number('BINGOHead', 'warmup_epochs', warmup_epochs, zero=True)
        if own_share > 1:
            raise ConfigError(f'own_share of BINGOHead must be in [0, 1], but got {own_share}')
        self.final_own_share = own_share
        self.warmup_epochs = warmup_epochs
        self.set_epoch(0)

    def set_epoch(self, epoch: float) -> dict[str, float]:
        """Set ``own_share`` to that of an epoch; it is not part of the state.

        Args:
            epoch (float): Counted from 0.

        Returns:
            dict[str, float]: ``own_share``.
        """
        self.own_share = 1.0 if epoch < self.warmup_epochs else self.final_own_share
        return dict(own_share=self.own_share)

    def loss(self, student: NetworkOutput, teacher: NetworkOutput, views: Views) -> Tensor:
        """The weighted loss.

        Args:
            student (NetworkOutput): Of an image, a member of its bag, and both mixed.
            teacher (NetworkOutput): Of other views of the two.
            views (Views): What the student saw; ``mix_share`` of the mixed view is the image's.

        Returns:
            Tensor: Scalar.

        Raises:
            ConfigError: If the views are not those of bags, as :class:`BINGO` makes them.
        """
        if views.mix_share is None:
            raise ConfigError(
                'BINGOHead compares the images of bags, which the algorithm mmmokd.BINGO prepares'
            )
        keys = teacher[self.target_reads].detach()
        return self(student[self.reads], keys, views.mix_share)

    def forward(self, queries: Tensor, keys: Tensor, mix_share: Tensor | float) -> Tensor:
        """The weighted loss; in training mode the images' keys become negatives after it.

        Args:
            queries (Tensor): Embeddings by the student: of B images, members of their bags, and both
                mixed. Shape (3, B, C).
            keys (Tensor): By the teacher, of the images and the members, shape (2, B, C), without
                gradient.
            mix_share (Tensor | float): Share m of the image in the mixed view.

        Returns:
            Tensor: Scalar.
        """
        negatives = self.queue['teacher']
        shares = (self.own_share, 1 - self.own_share, mix_share)  # of the first key
        loss = 0
        for query, share in zip(queries, shares, strict=True):
            found = contrastive_cosines(query.expand_as(keys), keys, negatives)  # (2, B, 1 + K)
            own, others = (info_nce(each, self.temperature) for each in found)
            loss = loss + share * own + (1 - share) * others
        if self.training:
            self.queue.push(teacher=keys[0])
        return self.loss_weight * loss / NUM_QUERIES
