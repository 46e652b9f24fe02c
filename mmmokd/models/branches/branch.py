# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import copy
import logging
from collections.abc import Collection
from typing import NamedTuple

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, ModuleDict
from torch import Tensor

from mmmokd.registry import MODELS
from mmmokd.structures import BackboneFeatures
from mmmokd.utils.state_dict import name_some
from mmmokd.weights.loaded import is_pretrained, loaded_names, pretrained_entries

from ..utils import check_number
from .adapters import adapt_features
from .backbone import build_backbone, describe_backbone


class StudentOutput(NamedTuple):
    """A student's outputs; V views, the G global ones first, L = V - G local ones.

    Attributes:
        m (Tensor): Projector's logits, shape (V, B, K).
        t (Tensor): Search head's logits over its own tokens, shape (V, B, K).
        local_query (Tensor): Queries of the local views for others' search heads, shape
            (L * B, D), without gradient.
    """

    m: Tensor
    t: Tensor
    local_query: Tensor


class TeacherOutput(NamedTuple):
    """A teacher's outputs on the G global views.

    Attributes:
        m (Tensor): Projector's logits, shape (G, B, K).
        t (Tensor): Search head's logits over its own tokens, shape (G, B, K).
        first_map (Tensor): Embedded tokens of the first global view, shape (B, N, D), to be
            searched by others.
    """

    m: Tensor
    t: Tensor
    first_map: Tensor


class BranchNetwork(BaseModule):
    """A backbone with its projector and its search head: a branch's student or teacher.

    A backbone of one channel (``in_channels=1``) gets the mean of the images' three, which of gray
    images are equal.

    Args:
        backbone (dict): Config of any backbone that :func:`adapt_features` can read; see
            :func:`build_backbone` for what is added to it. An ``init_cfg`` of ``'Pretrained'`` must
            bring all of its weights.
        projector (dict): Config of the projector.
        search_head (dict): Config of the search head.
    """

    def __init__(self, backbone: dict, projector: dict, search_head: dict) -> None:
        super().__init__()
        self.backbone_cfg = backbone
        self.image_channels = backbone.get('in_channels', backbone.get('in_chans', 3))
        self.backbone = build_backbone(_load_all(backbone))
        self.projector = MODELS.build(projector)
        self.search_head = MODELS.build(search_head)

    def extract(self, images: Tensor) -> BackboneFeatures:
        """Run the backbone.

        Args:
            images (Tensor): Shape (B, 3, H, W).

        Returns:
            BackboneFeatures: Pooled feature, tokens, grid.

        Raises:
            ValueError: If the images' channels are not those of the backbone, or the features'
                not those the projector or the search head was built for.
        """
        images = self._with_channels(images)
        features = adapt_features(self.backbone(images), self.backbone, images.shape[-2:])
        for part in (self.projector, self.search_head):
            if part.in_channels != features.pooled.shape[-1]:
                raise ValueError(
                    f'the backbone {type(self.backbone).__name__} gives '
                    f'{features.pooled.shape[-1]} channels, but {type(part).__name__} was built '
                    f'with in_channels={part.in_channels}'
                )
        return features

    def _with_channels(self, images: Tensor) -> Tensor:
        """Images with the channels that the backbone takes, where gray and color differ only."""
        found, wanted = images.shape[1], self.image_channels
        if found == wanted:
            return images
        if found == 3 and wanted == 1:
            return images.mean(dim=1, keepdim=True)
        if found == 1 and wanted == 3:
            return images.expand(-1, 3, -1, -1)
        raise ValueError(
            f'the backbone {describe_backbone(self.backbone_cfg)} takes images of {wanted} channels '
            f'(in_channels), but the pipeline and the data_preprocessor give {found}'
        )


def _load_all(backbone: dict) -> dict:
    """A backbone's config, in which pretrained weights must be complete if there are any."""
    init_cfg = backbone.get('init_cfg')
    if not pretrained_entries(init_cfg):
        return backbone
    entries = [init_cfg] if isinstance(init_cfg, dict) else init_cfg
    strict = [{'strict': True, **each} if is_pretrained(each) else each for each in entries]
    return dict(backbone, init_cfg=strict[0] if len(strict) == 1 else strict)


class Branch(BaseModule):
    """One model of MOKD and all that belongs to it: a student, its EMA teacher, its loss heads.

    The teacher is a copy of the student without drop path. It takes no gradient and stays in
    training mode with the student: its batch norms use, and keep statistics of, its own batches.

    Args:
        backbone (dict): Config of the backbone.
        projector (dict): Config of the projector (:class:`DINOProjector`).
        search_head (dict): Config of the search head (:class:`TransformerSearchHead`).
        peers (tuple[str]): Names of the other branches. Defaults to ().
        cross_weight (float): Weight of L_cm and L_ct: 1 for the weaker model of a pair, 0.1 for the
            stronger one. Defaults to 1.0.
        heads (dict, optional): Settings of the loss heads ``sm``, ``st``, ``cm``, ``ct``, each
            a dict that updates the default. Defaults to None.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ValueError: If ``heads`` names an unknown term, the numbers of prototypes differ, or a value is
            out of range.
    """

    def __init__(
        self,
        backbone: dict,
        projector: dict,
        search_head: dict,
        peers: tuple[str, ...] = (),
        cross_weight: float = 1.0,
        heads: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_number('a branch', 'cross_weight', cross_weight, zero=True)
        self.student = BranchNetwork(backbone, projector, search_head)
        self.teacher = make_teacher(self.student)
        self.out_channels = self.student.projector.out_channels
        if self.student.search_head.out_channels != self.out_channels:
            raise ValueError(
                f'projector and search head need the same out_channels (prototypes), but got '
                f'{self.out_channels} and {self.student.search_head.out_channels}'
            )
        self.heads = self._build_heads(dict(heads or {}), peers, cross_weight)

    def _build_heads(self, heads: dict, peers: tuple[str, ...], cross_weight: float) -> ModuleDict:
        centered = dict(type='mmmokd.DistillationHead', out_channels=self.out_channels)
        searched = dict(type='mmmokd.SearchDistillationHead')
        defaults = dict(sm=centered, st=centered)
        if peers:
            defaults['cm'] = dict(centered, loss_weight=cross_weight)
            defaults['ct'] = dict(searched, loss_weight=cross_weight)
        unknown = set(heads) - {'sm', 'st', 'cm', 'ct'}
        if unknown:
            raise ValueError(
                f'unknown loss heads {sorted(unknown)}; a branch has sm, st and, with peers, cm '
                'and ct'
            )
        for term, cfg in heads.items():
            if not isinstance(cfg, dict):
                raise ValueError(f'heads.{term} must be a dict of settings, but got {cfg!r}')
        cfgs = {term: dict(default, **heads.get(term, {})) for term, default in defaults.items()}
        built = {
            # Every cross-entropy term has a center of its own, L_cm one per peer.
            term: ModuleDict({peer: MODELS.build(cfg) for peer in peers})
            if term == 'cm'
            else MODELS.build(cfg)
            for term, cfg in cfgs.items()
        }
        return ModuleDict(built)

    def init_weights(self) -> None:
        if self.is_init:
            return
        self.teacher.is_init = True  # as a copy, made below
        super().init_weights()
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

    @torch.no_grad()
    def reset_teacher(self, but: Collection[str] = ()) -> None:
        """Make the teacher a copy of the student again, parameters and buffers.

        Args:
            but (Collection[str]): Names of what to leave as it is. Defaults to (), nothing.
        """
        student = self.student.state_dict()
        for name, value in self.teacher.state_dict().items():
            if name not in but:
                value.copy_(student[name])

    def forward_student(self, global_views: list[Tensor], local_views: list[Tensor]):
        """Run the student over all views, those of one size in one pass.

        Args:
            global_views (list[Tensor]): G views, each (B, 3, H, W).
            local_views (list[Tensor]): L views, of any sizes.

        Returns:
            StudentOutput: Logits of all views, and the local views' queries.
        """
        batch = global_views[0].shape[0]
        net = self.student
        passes = [
            net.extract(torch.cat(views)) for views in group_by_size(global_views, local_views)
        ]
        pooled = torch.cat([features.pooled for features in passes])  # (V * B, C)
        encoded = torch.cat(
            [
                net.search_head.encode(net.search_head.embed(features.tokens, features.grid))
                for features in passes
            ]
        )  # (V * B, D)
        with torch.no_grad():
            local_query = net.search_head.query(pooled[len(global_views) * batch :])
        return StudentOutput(
            m=net.projector(pooled).unflatten(0, (-1, batch)),
            t=net.search_head.prototypes(encoded).unflatten(0, (-1, batch)),
            local_query=local_query,
        )

    @torch.no_grad()
    def forward_teacher(self, global_views: list[Tensor]) -> TeacherOutput:
        """Run the teacher over the global views in one pass.

        Args:
            global_views (list[Tensor]): G views, each (B, 3, H, W).

        Returns:
            TeacherOutput: Logits of the global views, and the first one's embedded map.
        """
        batch = global_views[0].shape[0]
        net = self.teacher
        features = net.extract(torch.cat(global_views))
        tokens = net.search_head.embed(features.tokens, features.grid)  # (G * B, N, D)
        return TeacherOutput(
            m=net.projector(features.pooled).unflatten(0, (-1, batch)),
            t=net.search_head(tokens).unflatten(0, (-1, batch)),
            first_map=tokens[:batch],
        )

    @torch.no_grad()
    def search(self, first_map: Tensor, query: Tensor) -> Tensor:
        """Let a peer's queries search this branch's teacher's map.

        Args:
            first_map (Tensor): Embedded tokens, shape (B, N, D).
            query (Tensor): Shape (L * B, D).

        Returns:
            Tensor: The teacher's logits, one for each query, shape (L, B, K).
        """
        logits = self.teacher.search_head(first_map, query)
        return logits.unflatten(0, (-1, first_map.shape[0]))


def make_teacher(student: BranchNetwork) -> BranchNetwork:
    """Copy a student, without drop path and without gradients.

    Args:
        student (BranchNetwork): Any module.

    Returns:
        BranchNetwork: The copy.
    """
    teacher = copy.deepcopy(student)
    for module in teacher.modules():
        # mmcv, timm and torchvision each have a class of their own for it.
        if type(module).__name__ == 'DropPath':
            module.drop_prob = 0.0
        elif type(module).__name__ == 'StochasticDepth':
            module.p = 0.0
    return teacher.requires_grad_(False)


def group_by_size(global_views: list[Tensor], local_views: list[Tensor]) -> list[list[Tensor]]:
    """Views that go through a model in one pass: the global ones, then neighbors of one size.

    Args:
        global_views (list[Tensor]): Views of one size, each (B, 3, H, W).
        local_views (list[Tensor]): Further views.

    Returns:
        list[list[Tensor]]: The views in their order, grouped.
    """
    groups = [list(global_views)]
    for i, view in enumerate(local_views):
        if i and view.shape == groups[-1][-1].shape:
            groups[-1].append(view)
        else:
            groups.append([view])
    return groups
