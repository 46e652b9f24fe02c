# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmmokd.registry import MODELS
from mmmokd.structures import NetworkOutput, Views
from mmmokd.utils.errors import ConfigError

from ..losses import contrastive_cosines, info_nce, similarity_kl
from ..utils import check_number
from .base import BranchHead


class Similarities:
    """Cosines of every branch's queries with every branch's keys and queue, in one step.

    Those of a pair of branches are computed when a term first asks for them.

    Args:
        pairs (Sequence[tuple[int, int]]): Which query's view is compared with which key's, as a
            positive.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]]) -> None:
        self.views, self.keys = zip(*pairs, strict=True)
        self._branches: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        self._kept: dict[tuple[str, str], Tensor] = {}

    def add(
        self, name: str, student: NetworkOutput, teacher: NetworkOutput, reads: str, queue: Tensor
    ) -> None:
        """Add a branch, and let the terms find it in its outputs.

        Args:
            name (str): Of the branch.
            student (NetworkOutput): Whose embeddings are the queries.
            teacher (NetworkOutput): Whose embeddings are the keys.
            reads (str): The neck that gives the embeddings.
            queue (Tensor): The keys of earlier steps, shape (K, C).
        """
        self._branches[name] = student[reads], teacher[reads], queue
        for output in (student, teacher):
            output.once(f'{reads}.contrast', lambda: Contrast(self, name))

    def cosines(self, queries: str, keys: str) -> Tensor:
        """Cosines of a branch's queries with a branch's keys.

        Args:
            queries (str): Name of the first.
            keys (str): Name of the second.

        Returns:
            Tensor: Shape (P, B, 1 + K) for P pairs of views: the positive key's first.
        """
        if (queries, keys) not in self._kept:
            own = self._branches[queries][0]  # (V, B, C)
            others, queue = self._branches[keys][1:]  # (G, B, C), (K, C)
            self._kept[queries, keys] = contrastive_cosines(
                torch.stack([own[v] for v in self.views]),
                torch.stack([others[g] for g in self.keys]),
                queue,
            )
        return self._kept[queries, keys]


class Contrast(NamedTuple):
    """A branch's part in the similarities of a step.

    Attributes:
        similarities (Similarities): Of all branches.
        name (str): Of the branch.
    """

    similarities: Similarities
    name: str

    def with_keys_of(self, other: 'Contrast') -> Tensor:
        """Cosines of this branch's queries with another's, or its own, keys, (P, B, 1 + K)."""
        return self.similarities.cosines(self.name, other.name)


class BaseContrastiveHead(BranchHead):
    """Reads the similarities of two branches.

    Args:
        reads (str): The neck that gives the embeddings. Defaults to ``'projector'``.
        teacher (str): See :class:`BranchHead`. Defaults to ``'own'``.
        temperature (float): T, by which cosines are divided. Defaults to 0.07.
        loss_weight (float): Weight of the term. Defaults to 1.0.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: If the temperature is not positive, or ``teacher`` is ``'none'``.
    """

    needs_teacher = True
    capturable = True

    def __init__(
        self,
        reads: str = 'projector',
        teacher: str = 'own',
        temperature: float = 0.07,
        loss_weight: float = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(reads, teacher, loss_weight, init_cfg)
        check_number(type(self).__name__, 'temperature', temperature)
        self.temperature = temperature

    def connect(self, student: nn.Module, teacher: nn.Module) -> None:
        """Refuse embeddings that have no cosine; see :class:`BranchHead`."""
        widths = [network.width(self.reads) for network in (student, teacher)]
        if widths[0] != widths[1]:
            raise ConfigError(
                f'the embeddings of both models ({self.reads}) are compared, so they need one '
                f'width (out_channels), but got {widths[0]} and {widths[1]}'
            )

    def contrasts(self, *outputs: NetworkOutput) -> list[Contrast]:
        """The similarities that the algorithm gave for outputs.

        Args:
            *outputs (NetworkOutput): Of students and teachers.

        Returns:
            list[Contrast]: One for each.

        Raises:
            ConfigError: If the algorithm gives no similarities of what the head reads.
        """
        return [output.once(f'{self.reads}.contrast', self._refuse) for output in outputs]

    def _refuse(self) -> None:
        raise ConfigError(
            f'{type(self).__name__} with reads={self.reads!r} needs similarities with a queue, which '
            'the algorithm does not compute: it is a term of mmmokd.MCL'
        )


@MODELS.register_module()
class ContrastiveHead(BaseContrastiveHead):
    """InfoNCE of a student's queries with keys and queue of its own teacher, or of a peer's.

    The vanilla and the interactive contrastive term, VCL and ICL, of `MCL
    <https://arxiv.org/abs/2104.12565>`_: -log softmax(q k+ / T), the positive k+ among the queue of
    the branch that k+ is of. The share of queries that are nearest to their positive key is logged
    as ``'{branch}.{term}.accuracy'``, in percent.

    Args:
        reads (str): See :class:`BaseContrastiveHead`. Defaults to ``'projector'``.
        teacher (str): ``'own'`` (VCL) or ``'peers'`` (ICL). Defaults to ``'own'``.
        temperature (float): T. Defaults to 0.07.
        loss_weight (float): Weight of the term. Defaults to 1.0.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: See :class:`BaseContrastiveHead`.
    """

    def loss(self, student: NetworkOutput, teacher: NetworkOutput, views: Views) -> Tensor:
        """The weighted loss.

        Args:
            student (NetworkOutput): Of the queries' views.
            teacher (NetworkOutput): Of the keys' views.
            views (Views): Not used.

        Returns:
            Tensor: Scalar.

        Raises:
            ConfigError: If the algorithm gives no similarities.
        """
        own, of = self.contrasts(student, teacher)
        cosines = own.with_keys_of(of)
        with torch.no_grad():
            nearest = cosines.argmax(dim=-1) == 0
            self.metrics = dict(accuracy=100 * nearest.float().mean())
        return self.loss_weight * info_nce(cosines, self.temperature)


@MODELS.register_module()
class SoftContrastiveHead(BaseContrastiveHead):
    """A student's distribution over keys follows that of a peer's student.

    The soft terms of `MCL <https://arxiv.org/abs/2104.12565>`_: KL(p_j || p_i), times the softening
    squared, of softmax(cosines / (T softening)). p_j carries no gradient.

    - Soft-VCL: each model's queries with its own keys. Both queues hold the same images in the same
      order.
    - Soft-ICL (``interactive=True``): each model's queries with the other's keys.

    Args:
        interactive (bool): Whether the queries meet the other's keys. Defaults to False.
        softening (float): Temperature of the distillation, on top of T. Defaults to 3.0.
        reads (str): See :class:`BaseContrastiveHead`. Defaults to ``'projector'``.
        teacher (str): ``'peers'``; of a branch itself there is nothing to learn. Defaults to
            ``'peers'``.
        temperature (float): T. Defaults to 0.07.
        loss_weight (float): Weight of the term. Defaults to 1.0.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: See :class:`BaseContrastiveHead`; also if ``teacher`` is not ``'peers'`` or the
            softening is not positive.
    """

    def __init__(
        self,
        interactive: bool = False,
        softening: float = 3.0,
        reads: str = 'projector',
        teacher: str = 'peers',
        temperature: float = 0.07,
        loss_weight: float = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(reads, teacher, temperature, loss_weight, init_cfg)
        check_number('SoftContrastiveHead', 'softening', softening)
        if teacher != 'peers':
            raise ConfigError(
                "SoftContrastiveHead learns from other branches: teacher must be 'peers', but got "
                f'{teacher!r}'
            )
        self.interactive = interactive
        self.softening = softening

    def loss(self, student: NetworkOutput, teacher: NetworkOutput, views: Views) -> Tensor:
        """The weighted loss.

        Args:
            student (NetworkOutput): Of the queries' views.
            teacher (NetworkOutput): Of the keys' views, of the peer.
            views (Views): Not used.

        Returns:
            Tensor: Scalar.

        Raises:
            ConfigError: If the algorithm gives no similarities.
        """
        own, peer = self.contrasts(student, teacher)
        ends = (peer, own) if self.interactive else (own, peer)
        cosines, target = own.with_keys_of(ends[0]), peer.with_keys_of(ends[1])
        return self.loss_weight * similarity_kl(cosines, target, self.temperature, self.softening)
