# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import functools
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, ModuleDict
from torch import Tensor

from mmmokd.registry import MODELS
from mmmokd.structures import BackboneFeatures, NetworkOutput, Views
from mmmokd.utils.errors import ConfigError
from mmmokd.utils.state_dict import name_some
from mmmokd.weights.loaded import loaded_names

from ..heads import BranchHead
from .build_heads import build_heads
from .feature_cache import FeatureCache, describe_network, reads_tokens
from .loading import NETWORKS, check_loaded, names_network
from .network import BranchNetwork
from .seen_views import check_views_seen, group_by_size
from .teacher import make_teacher

FROZEN_BACKBONE = 'backbone'  # value of `frozen`


@MODELS.register_module()
class Branch(BaseModule):
    """One model of an algorithm and all that belongs to it: student, EMA teacher, loss heads.

    The teacher is a copy of the student without drop path. It takes no gradient and stays in
    training mode with the student: its batch norms use, and keep statistics of, its own batches.

    With ``ema=False`` there is no teacher. Where a head, of this branch or of one that learns from
    it, needs the teacher's output, it gets the student's of the global views, detached. These come
    from the student's one pass, with its drop path and its batch statistics; no second pass is
    made.

    With ``frozen=True`` there is only a teacher, which never changes: always in evaluation mode,
    without gradients, optimizer and heads, for others to learn from. It has to be loaded.

    With ``frozen='backbone'`` only the necks learn, by the branch's heads, on a backbone that has to
    be loaded: how a partner of which nothing but the backbone is published gets its prototypes. Student
    and teacher share the backbone, which runs once over all views, in evaluation mode and without
    gradients.

    With ``lora`` the backbone, which has to be loaded as well, keeps its weights and learns low-rank
    updates of its linear layers. Student and teacher share the weights and differ in updates and necks.

    Args:
        backbone (dict): Config of the backbone.
        adapter (dict, optional): Config of the :class:`BackboneAdapter` that reads the backbone's
            output. Defaults to None, an :class:`AutoAdapter`.
        heads (dict[str, dict], optional): Config of each loss head by the name of its term. One with
            ``teacher='peers'`` is built once for each peer. Defaults to None.
        peers (dict[str, float], optional): Whom the branch learns from, with the weight of the heads
            that learn from them. Defaults to None.
        ema (bool): Whether there is an EMA teacher. Defaults to True.
        frozen (bool | str): Whether the branch is not trained; ``'backbone'``: its backbone alone.
            Defaults to False.
        lora (dict, optional): Low-rank updates of the backbone, see :class:`BranchNetwork`: ``rank``,
            ``alpha``, ``targets``. Defaults to None.
        cache (str, optional): Folder of the features of a frozen backbone, which
            ``tools/cache_features.py`` writes: training reads them, and the backbone does not run.
            Defaults to None.
        global_size (int | tuple[int, int], optional): See :class:`BranchNetwork`.
            Defaults to None.
        views (Sequence[int], optional): Numbers of the views that its networks see, counted from 0, the
            global ones first. Defaults to None, all of them.
        init_cfg (dict, optional): Initialization config. ``'Pretrained'`` with a prefix that ends
            with ``student.`` or ``teacher.``, such as ``'branches.vit.teacher.'`` of a checkpoint of
            MOKD, loads a whole network, necks included; of a trained branch, student and teacher
            begin with it. Defaults to None.
        **necks (dict): Config of each neck by name; see :class:`BranchNetwork`.

    Raises:
        ConfigError: If a frozen branch has heads or peers, a frozen backbone updates, a backbone that
            learns a cache, nothing is left that learns, a head is not a :class:`BranchHead`, or a
            value is out of range.
    """

    def __init__(
        self,
        backbone: dict,
        adapter: dict | None = None,
        heads: Mapping[str, dict] | None = None,
        peers: Mapping[str, float] | None = None,
        ema: bool = True,
        frozen: bool | str = False,
        lora: dict | None = None,
        cache: str | None = None,
        global_size: int | tuple[int, int] | None = None,
        views: Sequence[int] | None = None,
        init_cfg: dict | list[dict] | None = None,
        **necks: dict,
    ) -> None:
        of_network = names_network(init_cfg)
        super().__init__(None if of_network else init_cfg)
        if frozen and lora:
            raise ConfigError(f'lora adapts a backbone that learns, but frozen is {frozen!r}')
        if cache and views is not None:
            raise ConfigError('cache keeps features of all views: leave out views of the branch')
        if cache and not frozen:
            raise ConfigError(
                f"cache keeps features that do not change: set frozen=True or 'backbone', not {frozen}"
            )
        self.cache = cache
        self.frozen = frozen is True
        self.ema = ema and not self.frozen
        self.peers = tuple(peers or ())
        self.views = check_views_seen(views)
        network = BranchNetwork(
            backbone,
            adapter,
            global_size=global_size,
            frozen_backbone=frozen == FROZEN_BACKBONE,
            lora=lora,
            init_cfg=init_cfg if of_network else None,
            **necks,
        )
        self.student: BranchNetwork | None = None if self.frozen else network
        self.teacher: BranchNetwork | None = None
        if self.frozen:
            self.teacher = network.requires_grad_(False).eval()
        elif ema:
            self.teacher = make_teacher(network)
        if self.frozen and (heads or peers):
            raise ConfigError(
                'a frozen branch learns from nothing, but got '
                f'{", ".join((*(heads or ()), *self.peers))}'
            )
        self.heads = build_heads(heads or {}, network, peers or {})
        if frozen == FROZEN_BACKBONE and not any(p.requires_grad for p in self.parameters()):
            raise ConfigError(
                "frozen='backbone' trains necks, but no head reads one: give the branch a head that "
                'does, or set frozen=True'
            )

    @property
    def student_first(self) -> bool:
        """bool: Whether the student's pass serves the teacher as well, and is to be the first."""
        return self.student is not None and (self.teacher is None or self.student.frozen_backbone)

    @functools.cached_property
    def features(self) -> FeatureCache | None:
        """FeatureCache, optional: Features that are read in the place of the backbone's passes.

        It is opened when training first needs it, for evaluations do without.
        """
        return FeatureCache(self.cache) if self.cache else None

    def network(self, name: str = 'student') -> BranchNetwork:
        """One of the networks; a branch that has one network gives it under either name.

        Args:
            name (str): ``'student'`` or ``'teacher'``. Defaults to ``'student'``.

        Returns:
            BranchNetwork: The student, also for ``'teacher'`` with ``ema=False``; the teacher, also
            for ``'student'`` of a frozen branch.

        Raises:
            ConfigError: For another name.
        """
        if name not in NETWORKS:
            raise ConfigError(f"network must be 'student' or 'teacher', but got {name!r}")
        return next(
            net for net in (getattr(self, name), self.student, self.teacher) if net is not None
        )

    def terms(self) -> Iterator[tuple[str, str | None, BranchHead]]:
        """Loss terms of the branch: first those without a peer, then those of each peer.

        Yields:
            tuple[str, str | None, BranchHead]: Term, peer or None, and head.
        """
        for term, head in self.heads.items():
            if not isinstance(head, ModuleDict):
                yield term, None, head
        for peer in self.peers:
            for term, head in self.heads.items():
                if isinstance(head, ModuleDict):
                    yield term, peer, head[peer]

    def train(self, mode: bool = True) -> 'Branch':
        """Set training or evaluation mode; a frozen network stays in evaluation mode.

        Args:
            mode (bool): Whether to train. Defaults to True.

        Returns:
            Branch: The branch itself.
        """
        super().train(mode)
        if self.frozen:
            self.teacher.eval()
        return self

    def init_weights(self) -> None:
        if self.is_init:
            return
        if self.ema:
            self.teacher.is_init = True  # as a copy, made below
        super().init_weights()
        if not self.ema:
            return
        loaded = loaded_names(self.teacher)
        only_teacher = sorted(loaded - loaded_names(self.student))
        if only_teacher:
            print_log(
                f'weights were loaded into the teacher of a branch, but not into its student, which '
                f'starts from others: {name_some(only_teacher)}',
                logger='current',
                level=logging.WARNING,
            )
        self.reset_teacher(but=loaded)

    def check_initialized(self) -> None:
        """Make sure that what stays as it is was loaded, so that nobody learns from noise.

        Raises:
            ConfigError: If weights of a frozen branch, or of a backbone that is frozen or has low-rank
                updates, were neither loaded by an ``init_cfg`` nor from a checkpoint; names them. If
                the features of the cache are of other weights.
        """
        check_loaded(self.network(), self.frozen)
        if self.features is not None:
            network = self.network()
            self.features.check(describe_network(network))
            if reads_tokens(network) and not self.features.passes[0].tokens:
                raise ConfigError(
                    f'the features in {self.cache} are pooled ones alone, but necks read maps '
                    f'({", ".join(network.neck_names)}): write them again for this branch'
                )

    @torch.no_grad()
    def reset_teacher(self, but: Collection[str] = ()) -> None:
        """Make the EMA teacher a copy of the student again, parameters and buffers.

        A branch without an EMA teacher stays as it is.

        Args:
            but (Collection[str]): Names of what to leave as it is. Defaults to (), nothing.
        """
        if not self.ema:
            return
        student = self.student.state_dict()
        for name, value in self.teacher.state_dict().items():
            if name not in but:
                value.copy_(student[name])

    def see(self, views: Views) -> Views:
        """Choose the views that the branch sees.

        Args:
            views (Views): All views.

        Returns:
            Views: Those of ``views``, an argument of the branch.
        """
        return views if self.views is None else views.choose(self.views)

    def forward_student(self, views: Views) -> NetworkOutput | None:
        """Run the student over all views that the branch sees, those of one size in one pass.

        Args:
            views (Views): The views.

        Returns:
            NetworkOutput, optional: Of these views; None for a frozen branch.
        """
        if self.student is None:
            return None
        views = self.see(views)
        groups = group_by_size(views.globals, views.locals)
        return self.student(groups, len(views.globals[0]), self._read_passes(views, groups))

    @torch.no_grad()
    def forward_teacher(self, views: Views, student: NetworkOutput | None = None) -> NetworkOutput:
        """Run the teacher over the global views that the branch sees, in one pass.

        Args:
            views (Views): The views.
            student (NetworkOutput, optional): What :meth:`forward_student` gave. A branch without a
                teacher needs it, and a frozen backbone that both share does not run again.
                Defaults to None.

        Returns:
            NetworkOutput: Of these views, without gradient. With ``ema=False`` the student's,
            detached.
        """
        seen = self.see(views)
        if self.teacher is not None:
            groups = [seen.globals]
            count = sum(map(len, seen.globals))
            if (
                student is not None
                and self.student_first
                and len(student.passes[0].pooled) == count
            ):
                passes = student.passes[:1]  # of the same global views
            else:
                passes = self._read_passes(seen, groups)
            return self.teacher(groups, len(seen.globals[0]), passes)
        if student is None:
            student = self.forward_student(views)
        return student.detach(len(seen.globals))

    def _read_passes(
        self, views: Views, groups: list[list[Tensor]]
    ) -> list[BackboneFeatures] | None:
        """Read the features of the views; None without a cache."""
        if self.features is None:
            return None
        like = next(self.network().parameters())
        num_views = sum(len(group) for group in groups)
        found = self.features.read(views.data_samples, like, num_views)
        sizes = [len(group) for group in groups]
        if [each.views for each in self.features.passes[: len(found)]] != sizes:
            raise ConfigError(
                f'the features in {self.cache} are of passes of '
                f'{[each.views for each in self.features.passes]} views, but the model has {sizes}'
            )
        return found
