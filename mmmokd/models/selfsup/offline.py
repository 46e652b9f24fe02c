# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Mapping, Sequence
from numbers import Real

from mmengine.model import ModuleDict
from torch import Tensor

from mmmokd.structures import Views
from mmmokd.structures.network_output import FEATURES
from mmmokd.utils.errors import ConfigError

from ..branches import Branch
from ..branches.backbone import class_of, has_argument
from ..branches.terms import head_argument
from .by_branch import BaseByBranch


class BaseOffline(BaseByBranch):
    """Base class of algorithms that train students from a teacher that is trained already.

    The teacher is a branch with ``frozen=True``: any backbone with pretrained weights. Of a teacher
    with the neck that a head reads (its config has it), the head reads that, of one without, the
    pooled features. Students learn from the frozen branches alone, unless their ``cross_weight``
    names others.

    A student's neck that is compared with the teacher's embeddings becomes as wide as these, where
    neither its config nor ``neck_defaults`` gives ``out_channels``. There are global views alone: these
    methods compare what both models make of one view, and teachers see no local views.

    Args:
        branches (dict[str, dict | None]): See :class:`BaseMultiBranch`. Students have no EMA teacher
            unless ``ema=True``, or the algorithm has one.
        num_global_views (int): How many views, from the first, are global. Defaults to 2.
        global_size (int | tuple[int, int], optional): Side, or (H, W), of the global views in
            pixels. Defaults to 224.
        neck_defaults (dict, optional): See :class:`BaseMultiBranch`. Defaults to None.
        data_preprocessor (dict, optional): Config of the data preprocessor. Defaults to
            mmpretrain's ``SelfSupDataPreprocessor`` without normalization.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Attributes:
        student_ema (bool): Whether a student whose config does not say so has an EMA teacher.
        compares_two_views (bool): Whether the global views have to be two.

    Raises:
        ConfigError: See :class:`BaseMultiBranch`; also if a student learns from no frozen branch, or
            from several that give embeddings of different widths, or the global views have to be two
            and are not.

    Example:
        >>> teacher = dict(type='Pretrained', checkpoint='dino_vit_small.pth')
        >>> model = dict(
        ...     type='mmmokd.CompRess',  # or 'mmmokd.DisCo', or 'mmmokd.BINGO'
        ...     branches=dict(
        ...         cnn=dict(backbone=dict(type='ResNet', depth=18)),
        ...         vit=dict(
        ...             frozen=True,
        ...             backbone=dict(
        ...                 type='mmmokd.VisionTransformer', arch='deit-small', init_cfg=teacher))))
    """

    student_ema = False
    compares_two_views = False

    def __init__(
        self, branches: dict[str, dict | None], num_global_views: int = 2, **kwargs
    ) -> None:
        if self.compares_two_views and num_global_views != 2:
            raise ConfigError(
                f'{type(self).__name__} compares two global views, but num_global_views is '
                f'{num_global_views!r}'
            )
        super().__init__(branches, num_global_views=num_global_views, **kwargs)

    def split_views(self, inputs: Sequence[Tensor], data_samples: list | None = None) -> Views:
        """Check the views; see :class:`BaseMultiBranch`.

        Args:
            inputs (Sequence[Tensor]): Views, each (B, 3, H, W).
            data_samples (list, optional): One data sample per image. Defaults to None.

        Returns:
            Views: Global views, and the data samples.

        Raises:
            ConfigError: If the views are not as many as the global ones, or do not fit each other.
        """
        views = super().split_views(inputs, data_samples)
        if views.locals:
            raise ConfigError(
                f'{type(self).__name__} compares global views alone, num_global_views='
                f'{self.num_global_views}, but the pipeline makes {len(inputs)} views: let it make no '
                'others, which nothing would read (groups of mmmokd.MultiCrop)'
            )
        return views

    def _build_branches(self, cfgs: dict[str, dict | None]) -> ModuleDict:
        if not any(_is_frozen(cfg) for cfg in cfgs.values()):
            raise ConfigError(
                f'{type(self).__name__} distills a trained teacher, but no branch is one: set '
                f'frozen=True on one of {", ".join(name for name, cfg in cfgs.items() if cfg)}, and '
                "give it weights (init_cfg of its backbone, of type='Pretrained')"
            )
        # Teachers first: what they give decides on the width of the students' necks.
        self._built: dict[str, Branch] = {}
        built = super()._build_branches(
            dict(sorted(cfgs.items(), key=lambda item: not _is_frozen(item[1])))
        )
        del self._built
        return ModuleDict({name: built[name] for name in cfgs if name in built})

    def _build_branch(
        self, name: str, cfg: dict, peers: dict, heads: dict, read: set[str]
    ) -> Branch:
        if not _is_frozen(cfg):
            cfg = {**dict(ema=self.student_ema), **{k: v for k, v in cfg.items() if v is not None}}
            for neck, width in self._widths(peers, heads).items():
                if 'out_channels' not in self.neck_defaults:
                    cfg[neck] = {'out_channels': width, **cfg.get(neck, {})}
        branch = super()._build_branch(name, cfg, peers, heads, read)
        # Not as an attribute of the module itself, of which it would become a part.
        self._built[name] = branch
        return branch

    def _widths(self, peers: Mapping[str, float], heads: Mapping[str, dict]) -> dict[str, int]:
        """Channels of a student's necks that are compared with its teachers' embeddings."""
        found: dict[str, dict[str, int]] = {}
        for head in heads.values():
            reads = head_argument(head, 'reads')
            if head_argument(head, 'teacher') == 'peers' and reads in self.necks:
                widths = {
                    peer: self._built[peer].network('teacher').width(head['target_reads'])
                    for peer in peers
                    if peer in self._built
                }
                found.setdefault(reads, {}).update(widths)
        for neck, widths in found.items():
            if len(set(widths.values())) > 1:
                raise ConfigError(
                    f'its {neck} is compared with embeddings of teachers that differ in their '
                    f'channels, {widths}: name one of them in cross_weight'
                )
        return {neck: next(iter(w.values())) for neck, w in found.items() if w}

    def _resolve_edges(
        self, name: str, cfg: dict, cfgs: Mapping[str, dict | None]
    ) -> tuple[dict[str, float], dict[str, dict]]:
        """Students learn from frozen branches, of which heads read what they have."""
        if not _is_frozen(cfg):
            weight = cfg.get('cross_weight')
            if weight is None or isinstance(weight, Real):
                frozen = [other for other, each in cfgs.items() if _is_frozen(each)]
                weight = dict.fromkeys(frozen, 1.0 if weight is None else weight)
                cfg = dict(cfg, cross_weight=weight)
        peers, heads = super()._resolve_edges(name, cfg, cfgs)
        for term, head in heads.items():
            if head_argument(head, 'teacher') == 'peers':
                heads[term] = self._with_target_reads(term, head, [cfgs[peer] for peer in peers])
        return peers, heads

    @staticmethod
    def _with_target_reads(term: str, head: dict, teachers: list[dict]) -> dict:
        """A head's config that says what it reads of the teachers, if it can."""
        reads = head_argument(head, 'target_reads')
        if reads is not None or not has_argument(class_of(head), 'target_reads'):
            return head
        neck = head_argument(head, 'reads')
        # One that is trained has the necks of the table.
        has_neck = {not _is_frozen(teacher) or bool(teacher.get(neck)) for teacher in teachers}
        if neck in FEATURES or True not in has_neck:
            return dict(head, target_reads=neck if neck in FEATURES else 'pooled')
        if False in has_neck:
            raise ConfigError(
                f'heads.{term} reads {neck} of teachers of which some have none: give '
                f'heads.{term}.target_reads'
            )
        return dict(head, target_reads=neck)


def _is_frozen(cfg: dict | None) -> bool:
    # With frozen='backbone' a branch learns necks, as a student.
    return isinstance(cfg, dict) and cfg.get('frozen') is True
