# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import inspect
from abc import ABCMeta
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModel, ModuleDict
from mmengine.registry import DefaultScope

from mmmokd.registry import MODELS
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
from ..utils import check_counts
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


class BranchGraph(BaseModel, metaclass=ABCMeta):
    """Branches as the nodes of a graph, and loss heads on its edges: what a model is built from.

    It resolves the configs of branches by the tables of the class, builds branches and heads, and
    refuses what does not fit along an edge. What is computed with them is up to a subclass.

    Args:
        branches (dict[str, dict | None]): Config of each branch by name; here and below see
            :class:`BaseMultiBranch`.
        num_global_views (int): How many views, from the first, are global. Defaults to 2.
        global_size (int | tuple[int, int], optional): Size of the global views in pixels. Defaults
            to 224.
        neck_defaults (dict, optional): Arguments of the table's necks. Defaults to None.
        data_preprocessor (dict, optional): Config of the data preprocessor. Defaults to None.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: See :class:`BaseMultiBranch`.
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
        with scope():
            super().__init__(data_preprocessor=MODELS.build(preprocessor), init_cfg=init_cfg)
        check_counts(type(self).__name__, num_global_views=num_global_views)
        check_names(branches)
        self.left_out = tuple(name for name, cfg in branches.items() if cfg is None)
        self.num_global_views = num_global_views
        self.global_size = global_size
        self.neck_defaults = {**self.neck_defaults, **(neck_defaults or {})}
        check_global_size(global_size)
        with scope():
            self._check_neck_defaults(branches)
            self.branches = self._build_branches(branches)
        self._check_edges()
        check_seen_views(self.branches, num_global_views, self.heads_by_name())
        self._connect_heads()
        watch_plain_modules(self)

    def _build_branches(self, cfgs: dict[str, dict | None]) -> ModuleDict:
        """Resolve the graph, then build its nodes."""
        peers, heads = {}, {}
        for name, cfg in cfgs.items():
            if cfg is not None:
                with named(name):
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
            with named(name):
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
            with named(f'{name}, heads.{term}'):
                head.connect(student, teacher)

    def heads_by_name(self) -> Iterator[tuple[str, str, str | None, BranchHead]]:
        """All loss heads, in the order of the losses.

        Yields:
            tuple[str, str, str | None, BranchHead]: Branch, term, peer or None, and head.
        """
        for name, branch in self.branches.items():
            for term, peer, head in branch.terms():
                yield name, term, peer, head


@contextmanager
def scope() -> Iterator[None]:
    """mmpretrain's names without a prefix, as in configs, also where no Runner has set a scope."""
    if DefaultScope.get_current_instance() is not None:
        yield
        return
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


@contextmanager
def named(name: str) -> Iterator[None]:
    """Whatever is wrong with a branch's values is reported with its name."""
    try:
        yield
    except (ValueError, AssertionError) as error:  # the latter of mmpretrain's and timm's backbones
        raise ConfigError(f'branch {name}: {str(error) or repr(error)}') from error
