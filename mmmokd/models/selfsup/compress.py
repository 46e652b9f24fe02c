# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from mmmokd.registry import MODELS

from ..heads.compress_head import check_num_queues
from .offline import BaseOffline


@MODELS.register_module()
class CompRess(BaseOffline):
    """CompRess: self-supervised learning by compressing representations.

    Implements `CompRess <https://arxiv.org/abs/2010.14713>`_ (NeurIPS 2020): students learn to be as
    similar to other images as a frozen teacher is; see :class:`CompRessHead`.

    With two queues ("CompRess-2q") the student's pooled features are compared with those of its EMA
    teacher, and there is no neck. With one ("CompRess-1q") a linear layer brings them to the width
    of the teacher's embedding, and there is no EMA teacher.

    Args:
        branches (dict[str, dict | None]): See :class:`BaseOffline`.
        num_queues (int): 1 or 2. Defaults to 2.
        **kwargs: See :class:`BaseOffline`, which has an example. The loss is the mean over the global
            views, of which the paper has one.

    Raises:
        ConfigError: See :class:`BaseOffline`; also if ``num_queues`` is neither 1 nor 2.
    """

    terms = dict(kl=dict(type='mmmokd.CompRessHead'))
    necks = dict(projector=dict(type='mmpretrain.LinearNeck', gap_dim=0, norm_cfg=None))

    def __init__(
        self,
        branches: dict[str, dict | None],
        num_queues: int = 2,
        **kwargs,
    ) -> None:
        check_num_queues(num_queues)
        reads = 'pooled' if num_queues == 2 else 'projector'
        self.terms = dict(kl=dict(self.terms['kl'], num_queues=num_queues, reads=reads))
        self.student_ema = num_queues == 2
        super().__init__(branches, **kwargs)
