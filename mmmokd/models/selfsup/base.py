# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import inspect
from abc import ABCMeta, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModel, ModuleDict
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmmokd.registry import MODELS
from mmmokd.structures import BranchLosses, NetworkOutput, Views
from mmmokd.structures.network_output import FEATURES
from mmmokd.utils.errors import ConfigError
from mmmokd.weights.loaded import watch_plain_modules

from ..branches import Branch
from ..branches.backbone import class_of, has_argument
from ..branches.terms import (
    check_trained,
    outputs_read,
    reads_trained,
    resolve_heads,
    resolve_necks,
    resolve_peers,
    with_sources,
)
from ..heads import BranchHead
from ..losses import prototype_cross_entropies
from ..utils import StepGraph, check_counts
from .checks import (
    check_branch,
    check_global_size,
    check_names,
    check_refused,
    check_seen_views,
    check_statistics,
    describe_branch,
)

# Arguments of a branch that its config does not have: `cross_weight` is resolved to `peers`.
RESOLVED = ('self', 'peers', 'global_size')
LABELS = dict(out_channels='prototypes (out_channels)')


class BaseMultiBranch(BaseModel, metaclass=ABCMeta):
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
        step_graph (StepGraph, optional): Runs training steps as CUDA graphs; set by
            :class:`AccelerationHook`.

    Raises:
        ConfigError: If there is no branch, a name contains a dot, fewer than one global view is asked
            for, or the branches do not fit each other along an edge.
    """

    terms: Mapping[str, dict] = {}
    necks: Mapping[str, dict] = {}
    neck_defaults: Mapping[str, Any] = {}
    branch_type = 'mmmokd.Branch'
    refused: Mapping[str, str] = {}

    def __init__(
        self,
        branches: dict[str, dict | None],
        num_global_views: int = 2,
        global_size: int | tuple[int, int] | None = 224,
        neck_defaults: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        preprocessor = dict(data_preprocessor or {})
        preprocessor.setdefault('type', 'mmpretrain.SelfSupDataPreprocessor')
        if has_argument(class_of(preprocessor), 'non_blocking'):
            preprocessor.setdefault('non_blocking', True)  # the step does not wait for its images
        check_statistics(preprocessor)
        with _scope():
            super().__init__(data_preprocessor=MODELS.build(preprocessor), init_cfg=init_cfg)
        check_counts(type(self).__name__, num_global_views=num_global_views)
        check_names(branches)
        self.left_out = tuple(name for name, cfg in branches.items() if cfg is None)
        self.num_global_views = num_global_views
        self.global_size = global_size
        self.neck_defaults = {**self.neck_defaults, **(neck_defaults or {})}
        check_global_size(global_size)
        with _scope():
            self._check_neck_defaults(branches)
            self.branches = self._build_branches(branches)
        self._check_edges()
        check_seen_views(self.branches, num_global_views, self.heads_by_name())
        self._connect_heads()
        self._initialized = False
        self.step_graph: StepGraph | None = None
        watch_plain_modules(self)

    def _build_branches(self, cfgs: dict[str, dict | None]) -> ModuleDict:
        """Resolve the graph, then build its nodes."""
        peers, heads = {}, {}
        for name, cfg in cfgs.items():
            if cfg is not None:
                with _named(name):
                    check_branch(
                        cfg, self._arguments(cfg) if isinstance(cfg, dict) else [], self.necks
                    )
                    check_refused(cfg, type(self).__name__, self.refused)
                    peers[name], heads[name] = self._resolve_edges(name, cfg, cfgs)
        read = outputs_read(peers, heads)
        built = {}
        for name in peers:
            own = reads_trained(heads[name], peers[name])
            trained, needed = (
                with_sources(self.necks, cfgs[name], names) for names in (own, read[name])
            )
            with _named(name):
                check_trained(trained, needed, cfgs[name].get('frozen') is True)
                built[name] = self._build_branch(name, cfgs[name], peers[name], heads[name], needed)
        for name, branch in built.items():
            print_log(f'Branch {name}: {describe_branch(branch)}.', logger='current')
        return ModuleDict(built)

    def _resolve_edges(
        self, name: str, cfg: dict, cfgs: Mapping[str, dict | None]
    ) -> tuple[dict[str, float], dict[str, dict]]:
        """Whom a branch learns from, and by which heads."""
        weight = cfg.get('cross_weight')
        if cfg.get('frozen') is not True:
            peers = resolve_peers(name, 1.0 if weight is None else weight, cfgs)
            return peers, resolve_heads(self.terms, cfg.get('heads'), bool(peers))
        given = [key for key in ('heads', 'cross_weight', 'ema') if cfg.get(key)]
        if given:
            raise ConfigError(
                f'it is frozen and does not learn, so {" and ".join(given)} would have no effect: '
                f'leave that out ({", ".join(f"{key}=None" for key in given)})'
            )
        return {}, {}

    def _build_branch(
        self, name: str, cfg: dict, peers: dict, heads: dict, read: set[str]
    ) -> Branch:
        arguments = self._arguments(cfg)
        own = {key: value for key, value in cfg.items() if key in arguments}
        own.pop('cross_weight', None)
        own = {key: value for key, value in own.items() if value is not None}
        given = {key: value for key, value in cfg.items() if key not in arguments}
        necks = resolve_necks(self.necks, self.neck_defaults, given, read)
        resolved = dict(own, heads=heads, peers=peers, global_size=self.global_size, **necks)
        return MODELS.build({'type': self.branch_type, **resolved})

    def _arguments(self, cfg: dict) -> list[str]:
        """List what a branch's config may have besides necks: its class's arguments."""
        cls = class_of({'type': cfg.get('type') or self.branch_type}) or Branch
        names = ['type', 'cross_weight']
        for base in (base for base in inspect.getmro(cls) if issubclass(base, Branch)):
            parameters = inspect.signature(base.__init__).parameters.values()
            names += [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        return [name for name in dict.fromkeys(names) if name not in RESOLVED]

    def _check_neck_defaults(self, cfgs: Mapping[str, dict | None]) -> None:
        """Refuse defaults that no neck of the table takes."""
        branches = [cfg for cfg in cfgs.values() if isinstance(cfg, dict)]
        given = [cfg.get(name) for cfg in branches for name in self.necks]
        necks = [cfg for cfg in given if isinstance(cfg, dict) and 'type' in cfg]
        necks += self.necks.values()
        for key in self.neck_defaults:
            if not any(has_argument(class_of(cfg), key) for cfg in necks):
                raise ConfigError(
                    f'neck_defaults: none of {", ".join(self.necks) or "no necks"} takes {key}'
                )

    def _check_edges(self) -> None:
        """Refuse branches that differ, along an edge, in what a head compares."""
        for name, term, peer, head in self.heads_by_name():
            read = ((name, 'student', head.reads), (peer, 'teacher', head.target_reads))
            if peer is None or any(reads in FEATURES for _, _, reads in read):
                continue
            ends = {
                end: getattr(self.branches[end].network(network), reads)
                for end, network, reads in read
            }
            for key in head.must_agree:
                values = {end: getattr(neck, key, None) for end, neck in ends.items()}
                if len(set(values.values())) > 1:
                    label = LABELS.get(key, f'search width ({head.reads}.{key})')
                    raise ConfigError(
                        f'branch {name} learns from {peer} (heads.{term}), so both need the same '
                        f'{label}, but got {values}'
                    )

    def _connect_heads(self) -> None:
        for name, term, peer, head in self.heads_by_name():
            student, teacher = self.branches[name].network(), None
            if head.teacher != 'none':
                teacher = self.branches[peer or name].network('teacher')
            with _named(f'{name}, heads.{term}'):
                head.connect(student, teacher)

    def heads_by_name(self) -> Iterator[tuple[str, str, str | None, BranchHead]]:
        """All loss heads, in the order of the losses.

        Yields:
            tuple[str, str, str | None, BranchHead]: Branch, term, peer or None, and head.
        """
        for name, branch in self.branches.items():
            for term, peer, head in branch.terms():
                yield name, term, peer, head

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
            with _named(name):
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

    def train_step(
        self, data: dict | tuple | list, optim_wrapper: OptimWrapper | OptimWrapperDict
    ) -> dict[str, Tensor]:
        """Train on a batch, one branch after the other where that is possible.

        A branch's feature maps are then freed before the next branch's are made. It is possible if
        the algorithm has :meth:`losses_by_branch` and each branch an optimizer of its own. A model
        that is wrapped, as for several processes, trains all branches at once.

        Args:
            data (dict | tuple | list): A batch of the data loader.
            optim_wrapper (OptimWrapper | OptimWrapperDict): Of the model, or of each branch.

        Returns:
            dict[str, Tensor]: What is logged.
        """
        if not self.trains_by_branch(optim_wrapper):
            return super().train_step(data, optim_wrapper)
        self._check_initialized()
        with optim_wrapper.optim_context(self):
            data = self.data_preprocessor(data, True)
        inputs, data_samples = data['inputs'], data.get('data_samples')
        if self.step_graph is not None:
            graph = partial(self._run_branches, optim_wrapper, learn=_backward)
            log_vars = self.step_graph(graph, inputs)
            if log_vars is not None:
                optim_wrapper.step_after_backward()  # with gradients of all branches
                return log_vars
        return self._run_branches(optim_wrapper, inputs, data_samples, learn=_update)

    def _run_branches(
        self,
        optim_wrapper: OptimWrapperDict,
        inputs: list[Tensor],
        data_samples: list | None = None,
        *,
        learn: Callable[[OptimWrapper, Tensor], None],
    ) -> dict[str, Tensor]:
        """Compute the losses of one branch after the other, and let it learn."""
        with optim_wrapper.optim_context(self):
            steps = self.losses_by_branch(inputs, data_samples)
        found: dict[str, Tensor] = {}
        while True:
            with optim_wrapper.optim_context(self):
                name, losses = next(steps, (None, None))
            if name is None:
                break
            total, _ = self.parse_losses(losses)
            found.update((key, loss.detach()) for key, loss in losses.items())
            del losses
            learn(optim_wrapper[name], total)
            del total
        return self.parse_losses(found)[1]

    def trains_by_branch(self, optim_wrapper: OptimWrapper | OptimWrapperDict) -> bool:
        """Check whether :meth:`train_step` trains one branch after the other.

        Args:
            optim_wrapper (OptimWrapper | OptimWrapperDict): See :meth:`train_step`.

        Returns:
            bool: If each branch has an optimizer of its own and :meth:`losses_by_branch` gives the
            losses of :meth:`loss`.
        """
        learning = {name for name, branch in self.branches.items() if not branch.frozen}
        if not isinstance(optim_wrapper, OptimWrapperDict) or {*optim_wrapper.keys()} != learning:
            return False

        def depth(name: str) -> int:
            return next(i for i, cls in enumerate(type(self).__mro__) if name in vars(cls))

        own = depth('losses_by_branch')
        return own < type(self).__mro__.index(BaseMultiBranch) and all(
            own <= depth(name) for name in ('loss', 'forward')
        )

    def losses_by_branch(
        self, inputs: list[Tensor], data_samples: list | None = None
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Compute the losses of one branch after the other, for :meth:`train_step`.

        A branch may be trained before the next one's are computed, so they must not depend on its
        student. To be implemented by algorithms that can; :meth:`loss` then adds them up.

        Args:
            inputs (list[Tensor]): See :meth:`loss`.
            data_samples (list, optional): See :meth:`loss`. Defaults to None.

        Yields:
            tuple[str, dict[str, Tensor]]: Name of a branch, and its losses as in :meth:`loss`.
        """
        raise NotImplementedError(
            f'{type(self).__name__} computes the losses of all branches at once'
        )

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


def _update(wrapper: OptimWrapper, loss: Tensor) -> None:
    wrapper.update_params(loss)


def _backward(wrapper: OptimWrapper, loss: Tensor) -> None:
    """Compute gradients alone, to be captured: a replay calls nothing that counts."""
    count = wrapper._inner_count
    wrapper.backward(wrapper.scale_loss(loss))
    wrapper._inner_count = count


def _has_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in network.modules())


@contextmanager
def _scope() -> Iterator[None]:
    """mmpretrain's names without a prefix, as in configs, also where no Runner has set a scope."""
    if DefaultScope.get_current_instance() is not None:
        yield
        return
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Whatever is wrong with a branch's values is reported with its name."""
    try:
        yield
    except (ValueError, AssertionError) as error:  # the latter of mmpretrain's and timm's backbones
        raise ConfigError(f'branch {name}: {str(error) or repr(error)}') from error
