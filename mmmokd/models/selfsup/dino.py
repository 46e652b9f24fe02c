# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Mapping

from mmmokd.models.branches.terms import head_argument
from mmmokd.registry import MODELS
from mmmokd.utils.errors import ConfigError

from .mokd import MOKD


@MODELS.register_module()
class DINO(MOKD):
    """Self-distillation with no labels, for any number of models at once.

    Implements `DINO <https://arxiv.org/abs/2104.14294>`_ (ICCV 2021): a student matches its own EMA
    teacher across views. This is the term L_sm of :class:`MOKD` alone, without a search head. Several
    branches share the views and learn nothing from each other: one run trains each of them as if
    it were alone, which is what MOKD is compared with.

    Args:
        branches (dict[str, dict | None]): Config of each branch by name; see
            :class:`BaseMultiBranch`. A backbone is enough. ``cross_weight`` is of use to a head with
            ``teacher='peers'`` that a config adds, and refused without one.
        num_global_views (int): How many views, from the first, are global. Defaults to 2.
        global_size (int | tuple[int, int], optional): Side, or (H, W), of the global views in
            pixels. Defaults to 224.
        neck_defaults (dict, optional): Arguments of projectors, where their configs have none.
            Defaults to None: ``out_channels=65536`` (prototypes).
        data_preprocessor (dict, optional): Config of the data preprocessor. Defaults to
            mmpretrain's ``SelfSupDataPreprocessor`` without normalization.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: See :class:`BaseMultiBranch`; also, if a branch has a ``cross_weight`` that none of
            its heads reads.

    Example:
        >>> model = dict(
        ...     type='mmmokd.DINO',
        ...     branches=dict(
        ...         cnn=dict(backbone=dict(type='ResNet', depth=50)),
        ...         vit=dict(backbone=dict(type='VisionTransformer', arch='deit-small'))))
    """

    terms = dict(sm=MOKD.terms['sm'])
    necks = dict(projector=MOKD.necks['projector'])
    neck_defaults = dict(out_channels=65536)

    def _resolve_edges(
        self, name: str, cfg: dict, cfgs: Mapping[str, dict | None]
    ) -> tuple[dict[str, float], dict[str, dict]]:
        peers, heads = super()._resolve_edges(name, cfg, cfgs)
        if cfg.get('cross_weight') and not any(
            head_argument(head, 'teacher') == 'peers' for head in heads.values()
        ):
            raise ConfigError(
                f'cross_weight={cfg["cross_weight"]} would have no effect, since no head of the branch '
                "has teacher='peers': leave it out (cross_weight=None), or use mmmokd.MOKD"
            )
        return peers, heads
