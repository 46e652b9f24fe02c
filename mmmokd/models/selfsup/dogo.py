# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence

from torch import Tensor

from mmmokd.registry import MODELS
from mmmokd.structures import Views
from mmmokd.utils.errors import ConfigError

from ..utils import check_counts
from .by_branch import BaseByBranch

MLP = dict(type='mmpretrain.NonLinearNeck', with_avg_pool=False, norm_cfg=dict(type='BN1d'))


@MODELS.register_module()
class DoGo(BaseByBranch):
    """Distill on the Go, with SimCLR.

    Implements `DoGo <https://arxiv.org/abs/2104.09866>`_ (CVPR workshops 2021) for any number of models.
    Each model learns by SimCLR's NT-Xent from two views of its own and, by the similarities between
    the images of a batch, from the others. There are no EMA teachers: all models are trained at once,
    and targets carry no gradient.

    The two views of a branch go through its networks in one pass, as views do in this package: batch
    norms see both, where the released code passes one view after the other.

    Args:
        branches (dict[str, dict | None]): Config of each branch by name; see
            :class:`BaseMultiBranch`. A backbone is enough. ``cross_weight`` is the weight of the
            divergence from the others; the released template has 100 for one model and 1 for the
            other. ``views`` replaces the views of the branch, for instance by more of them: local
            views are seen by branches whose ``views`` number them, and compared by an
            :class:`NTXentHead` with ``all_views=True``.
        own_views (bool): Whether each branch has global views of its own: of V for a branch, the
            first V of a batch's views are the first branch's, the next V the second's. False: all
            branches see the first V. No branch sees further views. Defaults to True.
        num_global_views (int): How many global views a branch sees. With ``own_views``, the pipeline
            makes as many for each branch. Defaults to 2.
        global_size (int | tuple[int, int], optional): Side, or (H, W), of the global views in
            pixels. Defaults to 224.
        neck_defaults (dict, optional): Arguments of the projectors, where their configs have none.
            Defaults to None.
        data_preprocessor (dict, optional): Config of the data preprocessor. Defaults to
            mmpretrain's ``SelfSupDataPreprocessor`` without normalization.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Attributes:
        num_global_views (int): Of all branches together.

    Raises:
        ConfigError: See :class:`BaseMultiBranch`.

    Example:
        >>> model = dict(
        ...     type='mmmokd.DoGo',  # two branches: four global views
        ...     branches=dict(
        ...         cnn=dict(backbone=dict(type='ResNet', depth=18), cross_weight=100.0),
        ...         vit=dict(backbone=dict(type='VisionTransformer', arch='deit-small'))))
    """

    terms = dict(
        ssl=dict(type='mmmokd.NTXentHead', reads='projector', temperature=0.5),
        kl=dict(
            type='mmmokd.SimilarityDistillationHead',
            reads='projector',
            teacher='peers',
            temperature=0.1,
        ),
    )
    necks = dict(
        projector=dict(
            MLP, hid_channels=512, out_channels=128, with_last_bn=False, with_last_bias=True
        ),
    )

    def __init__(
        self,
        branches: dict[str, dict | None],
        own_views: bool = True,
        num_global_views: int = 2,
        global_size: int | tuple[int, int] | None = 224,
        neck_defaults: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        check_counts(type(self).__name__, num_global_views=num_global_views)
        first = 0
        if isinstance(branches, dict):
            branches = dict(branches)
            for name in [name for name, cfg in branches.items() if isinstance(cfg, dict)]:
                views = list(range(first, first + num_global_views))
                branches[name] = {'ema': False, 'views': views, **branches[name]}
                first += num_global_views if own_views else 0
        super().__init__(
            branches,
            max(first, num_global_views),
            global_size,
            neck_defaults,
            data_preprocessor,
            init_cfg,
        )
        self.own_views = own_views

    def split_views(self, inputs: Sequence[Tensor], data_samples: list | None = None) -> Views:
        """Check and separate the views; see :meth:`BaseMultiBranch.split_views`.

        Args:
            inputs (Sequence[Tensor]): Views, each (B, 3, H, W), the global ones first.
            data_samples (list, optional): One data sample per image. Defaults to None.

        Returns:
            Views: Of all branches.

        Raises:
            ConfigError: If the views are not those of all branches.
        """
        try:
            return super().split_views(inputs, data_samples)
        except ConfigError as error:
            if not self.own_views:
                raise
            raise ConfigError(
                f'{error} (each branch has global views of its own; with own_views=False all see the '
                'first ones)'
            ) from error


@MODELS.register_module()
class DoGoSimSiam(DoGo):
    """Distill on the Go, with SimSiam.

    As :class:`DoGo`, with the loss of `SimSiam <https://arxiv.org/abs/2011.10566>`_ in place of
    NT-Xent. A predictor on top of the projector is a neck of its own: by its predictions a branch is
    compared with its own projections of the other view, and with the others' projections, as in the
    released code. The arguments are those of :class:`DoGo`.

    Example:
        >>> model = dict(
        ...     type='mmmokd.DoGoSimSiam',
        ...     branches=dict(
        ...         cnn=dict(backbone=dict(type='ResNet', depth=18), cross_weight=100.0),
        ...         vit=dict(backbone=dict(type='VisionTransformer', arch='deit-small'))))
    """

    terms = dict(
        ssl=dict(
            type='mmmokd.ViewPairHead',
            reads='predictor',
            target_reads='projector',
            teacher='none',
            # The negative cosine; the predictor is in the network.
            head=dict(type='mmpretrain.MIMHead', loss=dict(type='mmpretrain.CosineSimilarityLoss')),
        ),
        kl=dict(DoGo.terms['kl'], reads='predictor', target_reads='projector'),
    )
    necks = dict(
        projector=dict(MLP, num_layers=3, hid_channels=2048, out_channels=2048),
        predictor=dict(
            MLP,
            reads='projector',
            hid_channels=512,
            out_channels=2048,
            with_last_bn=False,
            with_last_bias=True,
        ),
    )
