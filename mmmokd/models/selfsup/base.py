# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmmokd.structures import BranchLosses, NetworkOutput, Views
from mmmokd.utils.errors import ConfigError

from ..losses import prototype_cross_entropies
from .graph import BranchGraph, named


class BaseMultiBranch(BranchGraph):
    """Base class of algorithms that train several branches together.

    Branches are the nodes of a graph. An edge i <- j says that branch i learns from j's teacher, an
    edge i <- i is self-distillation. Loss heads sit on edges. A subclass lists its loss terms and
    necks as tables of configs, which a branch's config updates by name, and implements
    :meth:`loss`.

    Args:
        branches (dict[str, dict | None]): Config of each branch by name: the arguments of
            :class:`Branch`, of which ``backbone`` is needed, and

            - ``type``: another class of branch. Defaults to ``branch_type``.
            - ``cross_weight`` (float | dict[str, float]): Whom it learns from, and the weight of
              these terms: a number for all others, or a dict by peer. Defaults to 1.0.
            - ``heads``: updates the table of terms; None leaves a term out, a dict with a ``type``
              under another name adds one.
            - ``views`` (list[int]): Numbers of the views that it sees, from 0, if not all.
            - any other name: a neck; None leaves one of the table out.

            A branch that is None is left out.
        num_global_views (int): How many views, from the first, are global: those the teachers see.
            Defaults to 2.
        global_size (int | tuple[int, int], optional): Side, or (H, W), of the global views in
            pixels. Position embeddings of necks without ``grid_size`` are made for its map. None is
            the size that each backbone was made for. Defaults to 224.
        neck_defaults (dict, optional): Arguments of the table's necks, where their configs have none;
            updates those of the class. Defaults to None.
        data_preprocessor (dict, optional): Config of the data preprocessor. Defaults to
            mmpretrain's ``SelfSupDataPreprocessor`` without normalization.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Attributes:
        terms (dict[str, dict]): Config of each loss head by its term.
        necks (dict[str, dict]): Config of each neck by name; built where a head reads it.
        neck_defaults (dict): See above.
        left_out (tuple[str]): Names of the branches that are None.
        branch_type (str): ``type`` of a branch whose config has none.
        refused (dict[str, str]): Arguments of a branch that would have no effect here, or break what
            the algorithm compares, each with the reason.

    Raises:
        ConfigError: If there is no branch, a name contains a dot, fewer than one global view is asked
            for, or the branches do not fit each other along an edge.
    """

    _initialized = False

    def forward(self, inputs, data_samples=None, mode: str = 'tensor'):
        """Dispatch as mmengine's models do.

        Args:
            inputs (list[Tensor] | Tensor): Views for ``'loss'``, else images.
            data_samples (list, optional): Data samples, for heads that read them. Defaults to None.
            mode (str): ``'loss'`` or ``'tensor'``. Defaults to ``'tensor'``.

        Returns:
            dict[str, Tensor]: Losses, or the teachers' pooled features by branch.

        Raises:
            RuntimeError: For another mode.
            ConfigError: If weights that are frozen are random.
        """
        if mode == 'loss':
            self._check_initialized()
            return self.loss(inputs, data_samples)
        if mode == 'tensor':
            return self.extract_feat(inputs)
        raise RuntimeError(f"mode must be 'loss' or 'tensor', but got {mode!r}")

    def _check_initialized(self) -> None:
        # Not before the first step: load_from and resume bring weights after init_weights.
        if self._initialized:
            return
        for name, branch in self.branches.items():
            with named(name):
                branch.check_initialized()
        self._initialized = True

    def forward_teachers(
        self, views: Views, students: Mapping[str, NetworkOutput | None]
    ) -> dict[str, NetworkOutput]:
        """Run the teachers over the global views, as far as anything needs it.

        A teacher that no head learns from runs only if its batch norms keep statistics of its
        batches.

        Args:
            views (Views): The views.
            students (Mapping[str, NetworkOutput | None]): What the students gave, by branch; those of
                branches without a teacher are needed.

        Returns:
            dict[str, NetworkOutput]: By branch.
        """
        read = {p or name for name, _, p, head in self.heads_by_name() if head.teacher != 'none'}
        read |= {name for name, _, _, head in self.heads_by_name() if head.needs_own_teacher}
        return {
            name: branch.forward_teacher(views, students.get(name))
            for name, branch in self.branches.items()
            if name in read or (branch.ema and _has_batch_norm(branch.teacher))
        }

    def head_losses(
        self,
        students: Mapping[str, NetworkOutput | None],
        teachers: Mapping[str, NetworkOutput],
        views: Views,
    ) -> dict[str, Tensor]:
        """Compute the losses of the heads of some branches, or all.

        Cross-entropies of one student's output, at one temperature, are computed in one pass,
        without its logits; see :func:`~mmmokd.models.losses.prototype_cross_entropies`.

        Args:
            students (Mapping[str, NetworkOutput | None]): Of all views, by branch; of the branches
                that are to be trained.
            teachers (Mapping[str, NetworkOutput]): Of the global views, by branch.
            views (Views): The views.

        Returns:
            dict[str, Tensor]: By ``'{branch}.loss_{term}'`` or ``'{branch}.loss_{term}.{peer}'``.
        """
        losses: dict[str, Tensor] = {}
        targets = defaultdict(list)
        seen = {name: branch.see(views) for name, branch in self.branches.items()}
        for name, term, peer, head in self.heads_by_name():
            if name not in students:
                continue
            student, teacher, views = students[name], None, seen[name]
            if head.teacher != 'none':
                teacher = teachers[peer or name]
            key = f'{name}.loss_{term}' + (f'.{peer}' if peer else '')
            target = head.target(student, teacher, views)
            if target is None:
                more = dict(own_teacher=teachers[name]) if head.needs_own_teacher else {}
                losses[key] = head.loss(student, teacher, views, **more)
            else:
                losses[key] = None  # its place in the order
                targets[name, head.reads, head.student_temp].append((key, head, target))
        for (name, reads, temperature), entries in targets.items():
            found = prototype_cross_entropies(
                *students[name].prototype_input(reads),
                temperature,
                [target for _, _, target in entries],
            )
            for (key, head, target), loss in zip(entries, found, strict=True):
                losses[key] = head.finish(loss, target)
        return losses

    @abstractmethod
    def loss(self, inputs: list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """Compute the losses of all branches.

        Args:
            inputs (list[Tensor]): V views, each (B, 3, H, W), the global ones first.
            data_samples (list, optional): One data sample per image. Defaults to None.

        Returns:
            dict[str, Tensor]: By ``'{branch}.loss_{term}'`` or ``'{branch}.loss_{term}.{peer}'``.
        """

    def extract_feat(
        self, inputs: Tensor | list[Tensor], network: str = 'teacher'
    ) -> dict[str, Tensor]:
        """Compute the pooled features of every branch.

        Args:
            inputs (Tensor | list[Tensor]): Images, shape (B, 3, H, W), or views, of which the
                first is taken.
            network (str): ``'teacher'`` or ``'student'``; a branch with one network
                (``ema=False``, ``frozen=True``) gives that one's features for either. Defaults to
                ``'teacher'``.

        Returns:
            dict[str, Tensor]: Shape (B, C) for each branch.
        """
        images = inputs if isinstance(inputs, Tensor) else inputs[0]
        return {
            name: branch.network(network).extract(images).pooled
            for name, branch in self.branches.items()
        }

    def split_views(self, inputs: Sequence[Tensor], data_samples: list | None = None) -> Views:
        """Check the views and separate the global ones from the local ones.

        Args:
            inputs (Sequence[Tensor]): Views, each (B, 3, H, W), the global ones first.
            data_samples (list, optional): One data sample per image. Defaults to None.

        Returns:
            Views: Global views, local views and the data samples.

        Raises:
            ConfigError: If the views are too few, or not of one batch size, or the global ones not
                of one image size.
        """
        is_list = isinstance(inputs, list | tuple)
        local = [term for _, term, _, head in self.heads_by_name() if head.needs_local_views]
        last = max(max(branch.views or (0,)) for branch in self.branches.values())
        if not is_list or len(inputs) < max(self.num_global_views + bool(local), last + 1):
            more = f' and, for loss_{local[0]}, at least one local view' if local else ''
            more += f', {last + 1} views in all' if last >= self.num_global_views else ''
            raise ConfigError(
                f'{type(self).__name__} needs {self.num_global_views} global views{more}, as a list '
                'of tensors, the global views first; got '
                f'{len(inputs) if is_list else type(inputs).__name__}: '
                'does the pipeline make views (mmmokd.MultiCrop)?'
            )
        global_views = list(inputs[: self.num_global_views])
        if len({len(view) for view in inputs}) > 1 or len({v.shape for v in global_views}) > 1:
            raise ConfigError(
                f'views must have one batch size, and the {self.num_global_views} global ones one '
                f'image size, but got {[tuple(view.shape) for view in inputs]}'
            )
        return Views(global_views, list(inputs[self.num_global_views :]), data_samples)

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Add up the losses, as mmengine does, and keep each branch's sum.

        With mixed precision every branch has its own gradient scaler, and
        :class:`BranchOptimWrapperDict` needs the branch's own loss to scale: the total carries them
        as :class:`BranchLosses`.

        Args:
            losses (dict[str, Tensor]): From :meth:`loss`.

        Returns:
            tuple[Tensor, dict[str, Tensor]]: The total and what is logged.
        """
        total, log_vars = super().parse_losses(losses)
        for name, term, peer, head in self.heads_by_name():
            for key, value in head.metrics.items():
                log_vars['.'.join(filter(None, (name, term, peer, key)))] = value
        sums = {
            name: sum(loss for key, loss in losses.items() if key.startswith(f'{name}.loss_'))
            for name, branch in self.branches.items()
            if not branch.frozen
        }
        return BranchLosses(sums).attach_to(total), log_vars


def _has_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in network.modules())
