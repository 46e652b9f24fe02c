# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

import torch
from mmengine.model import ModuleDict
from torch import Tensor

from mmmokd.registry import MODELS
from mmmokd.structures import NetworkOutput, Views
from mmmokd.utils.errors import ConfigError

from ..branches import BranchNetwork
from ..branches.seen_views import group_by_size
from ..heads.contrastive_head import BaseContrastiveHead, Similarities
from ..utils import EmbeddingQueue, check_counts
from .by_branch import BaseByBranch
from .student_views import check_student_views, select_views


@MODELS.register_module()
class MCL(BaseByBranch):
    """Mutual Contrastive Learning.

    Implements `MCL <https://arxiv.org/abs/2104.12565>`_ (AAAI 2022) for two or more models of any
    architecture. Each is a `MoCo <https://arxiv.org/abs/1911.05722>`_ with a queue of its EMA
    teacher's embeddings. Of model i and each peer j it adds up

    - VCL, MoCo's own loss: q_i against k_i and i's queue;
    - soft-VCL: the distribution of q_i over i's keys follows that of q_j over j's;
    - ICL: q_i against k_j and j's queue;
    - soft-ICL: the distribution of q_i over j's keys follows that of q_j over i's.

    With one branch it is MoCo.

    The queues are filled once per optimizer step with the keys of all processes; see
    :class:`~mmmokd.models.utils.EmbeddingQueue`. All losses are computed before a branch is trained,
    because each learns from the others' queries.

    A query and its positive key are of the same batch, the queue's keys of others, so a batch norm
    can tell them apart by its statistics. MoCo shuffles the images of a teacher over the GPUs.
    ``key_groups`` does so within a process: a teacher sees its views in so many random groups,
    whose batch norms take statistics of their own. With 1 they are those of its batch, and with
    SyncBN, which the configs set, of all GPUs' batches: each image has a small share in them.

    Args:
        branches (dict[str, dict | None]): Config of each branch by name; see
            :class:`BaseMultiBranch`. A backbone is enough.
        queue_length (int): Number of keys in each branch's queue. Defaults to 65536.
        student_views (str): Which views are queries. ``'first'``: the first of two, the second is
            the key, as in the paper. ``'globals'``: both, each with the other as its key; both keys
            go into the queue. ``'all'``: local views as well, each with every global view. Defaults
            to ``'first'``.
        key_groups (int): Into how many random groups the keys' images are split for the teachers'
            batch norms. Defaults to 1.
        **kwargs: See :class:`BaseMultiBranch`; ``neck_defaults`` is ``out_channels=128`` (width of
            the embeddings).

    Raises:
        ConfigError: See :class:`BaseMultiBranch`; also if there are fewer than two global views,
            terms read several necks or a neck does not tell its width.

    Example:
        >>> model = dict(
        ...     type='mmmokd.MCL',
        ...     branches=dict(
        ...         cnn=dict(backbone=dict(type='ResNet', depth=50)),
        ...         small=dict(backbone=dict(type='ResNet', depth=18))))
    """

    terms = dict(
        vcl=dict(type='mmmokd.ContrastiveHead', reads='projector', teacher='own'),
        soft_vcl=dict(type='mmmokd.SoftContrastiveHead', reads='projector'),
        icl=dict(type='mmmokd.ContrastiveHead', reads='projector', teacher='peers'),
        soft_icl=dict(type='mmmokd.SoftContrastiveHead', reads='projector', interactive=True),
    )
    necks = dict(projector=dict(type='mmpretrain.LinearNeck', norm_cfg=None))
    neck_defaults = dict(out_channels=128)
    refused = dict(
        views='all branches see the views that student_views and num_global_views of the model name',
        cache='queries and keys are different views, whose features are computed in each step',
    )

    def __init__(
        self,
        branches: dict[str, dict | None],
        queue_length: int = 65536,
        student_views: str = 'first',
        key_groups: int = 1,
        **kwargs,
    ) -> None:
        super().__init__(branches, **kwargs)
        check_student_views('MCL', student_views)
        check_counts('MCL', key_groups=key_groups)
        if self.num_global_views < 2 or (student_views == 'first' and self.num_global_views > 2):
            raise ConfigError(
                f'MCL with student_views={student_views!r} contrasts '
                f'{"two" if student_views == "first" else "at least two"} global views, but '
                f'num_global_views is {self.num_global_views}'
            )
        self.student_views = student_views
        self.key_groups = key_groups
        self.reads, names = self._find_contrasted()
        if key_groups > 1:  # drawn by the host in each step
            for _, _, _, head in self.heads_by_name():
                head.capturable = False
        self.queues = ModuleDict(
            {name: self._build_queue(name, queue_length) for name in self.branches if name in names}
        )

    def _find_contrasted(self) -> tuple[str, set[str]]:
        """The neck that gives the embeddings, and the branches whose embeddings are compared."""
        ends = [
            (head.reads, {name, peer or name})
            for name, _, peer, head in self.heads_by_name()
            if isinstance(head, BaseContrastiveHead)
        ]
        reads = {read for read, _ in ends}
        if len(reads) != 1:
            raise ConfigError(
                'the contrastive terms of MCL must read one neck, of which a branch has one queue, '
                f'but got {", ".join(sorted(reads)) or "no such term"}'
            )
        return reads.pop(), set().union(*(names for _, names in ends))

    def _build_queue(self, name: str, length: int) -> EmbeddingQueue:
        width = self.branches[name].network().width(self.reads)
        if width is None:
            raise ConfigError(
                f'branch {name}: {self.reads} does not tell its width, of which the queue is made: '
                'give it out_channels'
            )
        return EmbeddingQueue(length, dict(keys=width))

    def losses_by_branch(
        self, inputs: list[Tensor], data_samples: list | None = None
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Compute the losses of all branches, and give those of one after the other; see :meth:`loss`.

        Args:
            inputs (list[Tensor]): V views, each (B, 3, H, W), the global ones first.
            data_samples (list, optional): One data sample per image. Defaults to None.

        Yields:
            tuple[str, dict[str, Tensor]]: Name of a branch that learns, and its losses: VCL and, for
            each of its peers, soft-VCL, ICL and soft-ICL with their weight applied; further terms
            likewise.
        """
        views = self.split_views(inputs, data_samples)
        queries, keys, pairs = self._choose(views)
        students, teachers = {}, {}
        similarities = Similarities(pairs)
        for name, branch in self.branches.items():
            groups = group_by_size(queries.globals, queries.locals)
            # Of a frozen branch the frozen network, which takes no gradient.
            students[name] = branch.network('student')(groups, len(inputs[0]))
            teachers[name] = self._embed_keys(branch.network('teacher'), keys)
            if name in self.queues:
                queue = self.queues[name]['keys']
                similarities.add(name, students[name], teachers[name], self.reads, queue)
        losses = self.head_losses(students, teachers, queries)
        if self.training:
            for name, queue in self.queues.items():
                queue.push(keys=teachers[name][self.reads].flatten(0, 1))
        # What a branch learns from others carries no gradient, and is computed: it can be trained.
        for name, branch in self.branches.items():
            if branch.student is not None:
                of_branch = [key for key in losses if key.startswith(f'{name}.loss_')]
                yield name, {key: losses.pop(key) for key in of_branch}

    def _choose(self, views: Views) -> tuple[Views, list[Tensor], list[tuple[int, int]]]:
        """The queries' views, the keys' views, and which of them are positive pairs."""
        if self.student_views == 'first':
            return select_views(views, 'first', read=2), views.globals[1:], [(0, 0)]
        queries = select_views(views, self.student_views)
        num_keys = len(views.globals)
        num_queries = num_keys + len(queries.locals)
        pairs = [(v, g) for v in range(num_queries) for g in range(num_keys) if v != g]
        return queries, views.globals, pairs

    @torch.no_grad()
    def _embed_keys(self, teacher: BranchNetwork, views: list[Tensor]) -> NetworkOutput:
        """Run a teacher over the keys' views, each group of images by itself."""
        batch = len(views[0])
        if self.key_groups == 1 or not self.training:
            return teacher([views], batch)
        if batch < 2 * self.key_groups:
            raise ConfigError(
                f'key_groups={self.key_groups} of MCL needs at least 2 images per group, but a '
                f'process has {batch}'
            )
        order = torch.randperm(batch)  # of the seed, whatever the device
        groups = [rows.to(views[0].device) for rows in order.chunk(self.key_groups)]
        passes = [teacher.extract(torch.cat([view[rows] for view in views])) for rows in groups]
        back = order.argsort().to(views[0].device)

        def join(parts: list[Tensor]) -> Tensor:  # each (G * images of the group, ...)
            by_view = [part.unflatten(0, (len(views), -1)) for part in parts]
            return torch.cat(by_view, dim=1)[:, back].flatten(0, 1)

        features = passes[0]._replace(
            pooled=join([each.pooled for each in passes]),
            tokens=join([each.tokens for each in passes]),
        )
        return teacher([views], batch, [features])  # by its call, which hooks see
