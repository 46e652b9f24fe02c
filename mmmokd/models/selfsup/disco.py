# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Mapping

from mmmokd.registry import MODELS
from mmmokd.structures import NetworkOutput, Views

from .offline import BaseOffline


@MODELS.register_module()
class DisCo(BaseOffline):
    """DisCo: contrastive learning of a small model, and distillation of a large one's embeddings.

    Implements `DisCo <https://arxiv.org/abs/2104.09124>`_ (ECCV 2022): MoCo v2 of the student with
    its own EMA teacher (:class:`QueueInfoNCEHead`), and the squared distance between its
    embeddings of both views and those of a frozen teacher (:class:`DisCoHead`). The EMA teacher sees
    the second view alone. As everywhere in this package, batch norms of several processes take their
    statistics together where MoCo shuffles the images between them.

    Args:
        branches (dict[str, dict | None]): See :class:`BaseOffline`.
        **kwargs: See :class:`BaseOffline`, which has an example.

    Raises:
        ConfigError: See :class:`BaseOffline`; also if the global views are not two.
    """

    terms = dict(
        co=dict(type='mmmokd.QueueInfoNCEHead', reads='projector', teacher='own'),
        dis=dict(type='mmmokd.DisCoHead', reads='projector'),
    )
    # The paper widens the hidden layer of MoCo v2's head for small models, to 2048.
    necks = dict(projector=dict(type='mmpretrain.MoCoV2Neck', with_avg_pool=False))
    neck_defaults = dict(hid_channels=2048)
    student_ema = True
    compares_two_views = True
    refused = dict(views='students and frozen teachers see both views, EMA teachers the second')

    def forward_teachers(
        self, views: Views, students: Mapping[str, NetworkOutput | None]
    ) -> dict[str, NetworkOutput]:
        """Run the frozen teachers over both views, and EMA teachers over the second.

        Args:
            views (Views): The views.
            students (Mapping[str, NetworkOutput | None]): See :class:`BaseMultiBranch`.

        Returns:
            dict[str, NetworkOutput]: By branch.
        """
        second = views._replace(globals=views.globals[1:])
        return {
            name: branch.forward_teacher(second if branch.ema else views, students.get(name))
            for name, branch in self.branches.items()
        }
