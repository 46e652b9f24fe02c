# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from mmmokd.registry import MODELS
from mmmokd.utils.errors import ConfigError

from ..branches import Branch
from .by_branch import BaseByBranch


@MODELS.register_module()
class MOKD(BaseByBranch):
    """Multi-Mode Online Knowledge Distillation.

    Implements `MOKD <https://arxiv.org/abs/2304.06461>`_ (CVPR 2023) for any number of models of
    any architecture. Each branch learns from its own EMA teacher (self-distillation) and from the
    others' (cross-distillation); a transformer head searches the others' feature maps for what
    matches its own. With one branch it is DINO with a search head, without one if ``heads`` has
    ``st=None``.

    Targets and queries carry no gradient, so the branches' losses add up to one backward pass
    without touching each other. The teachers move, temperatures warm up and prototypes are frozen
    by hooks: ``configs/_base_/mokd_runtime.py`` brings them.

    Args:
        branches (dict[str, dict | None]): Config of each branch by name; see
            :class:`BaseMultiBranch`. A backbone is enough.
        num_global_views (int): How many views, from the first, are global. Defaults to 2.
        global_size (int | tuple[int, int], optional): Side, or (H, W), of the global views in
            pixels. Defaults to 224.
        neck_defaults (dict, optional): Arguments of projectors and search heads, where their configs
            have none. Defaults to None: ``out_channels=65536`` (prototypes), ``embed_dims=384``
            (width of the search heads).
        data_preprocessor (dict, optional): Config of the data preprocessor. Defaults to
            mmpretrain's ``SelfSupDataPreprocessor`` without normalization.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: See :class:`BaseMultiBranch`; also if projector and search head of a branch
            differ in prototypes.

    Example:
        >>> model = dict(
        ...     type='mmmokd.MOKD',
        ...     branches=dict(
        ...         cnn=dict(backbone=dict(type='ResNet', depth=50)),
        ...         vit=dict(backbone=dict(type='VisionTransformer', arch='deit-small'))))
    """

    # The paper's table: what the student gives, and whose teacher gives the target.
    terms = dict(
        sm=dict(type='mmmokd.DistillationHead', reads='projector', teacher='own'),
        st=dict(type='mmmokd.DistillationHead', reads='search_head', teacher='own'),
        cm=dict(type='mmmokd.DistillationHead', reads='projector', teacher='peers'),
        ct=dict(type='mmmokd.SearchDistillationHead', reads='search_head', teacher='peers'),
    )
    necks = dict(
        projector=dict(type='mmmokd.DINOProjector'),
        search_head=dict(type='mmmokd.TransformerSearchHead'),
    )
    neck_defaults = dict(out_channels=65536, embed_dims=384)

    def _build_branch(self, *args) -> Branch:
        branch = super()._build_branch(*args)
        necks = [getattr(branch.network(), name, None) for name in self.necks]
        counts = [neck.out_channels for neck in necks if hasattr(neck, 'out_channels')]
        if len(set(counts)) > 1:
            raise ConfigError(
                'projector and search head need the same out_channels (prototypes), but got '
                f'{" and ".join(map(str, counts))}'
            )
        return branch
