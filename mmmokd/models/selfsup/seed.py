# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

from torch import Tensor

from mmmokd.registry import MODELS

from .by_branch import BaseByBranch
from .student_views import check_student_views, select_views


@MODELS.register_module()
class SEED(BaseByBranch):
    """Self-supervised distillation from a frozen teacher.

    Implements `SEED <https://arxiv.org/abs/2101.04731>`_ (ICLR 2021): a branch with ``frozen=True``,
    any backbone with pretrained weights, teaches the others. Student and teacher see the same view;
    the student's similarities to a queue of the teacher's embeddings follow the teacher's.

    By default the embeddings are those of projectors, and the teacher's has to be loaded as well.
    Of a teacher without one, ``target_reads='pooled'`` of the head takes the backbone's pooled
    features. In either case the student's projector is as wide as the teacher's embeddings, which
    ``out_channels`` of ``neck_defaults`` says.

    The paper's students have no EMA teacher (``ema=False``). With one, the averaged student is
    evaluated and exported; it teaches nobody.

    Args:
        branches (dict[str, dict | None]): Config of each branch by name; see
            :class:`BaseMultiBranch`. One of them has ``frozen=True``.
        student_views (str): Which views are compared. ``'first'``: the only one, as in the paper.
            ``'globals'``: each global view with itself. ``'all'``: local views as well, each with
            the teacher's every global view of the image. Defaults to ``'first'``.
        num_global_views (int): How many views, from the first, are global. Defaults to 1.
        **kwargs: See :class:`BaseMultiBranch`; ``neck_defaults`` is ``out_channels=128`` and
            ``hid_channels=2048``, of a linear layer, ReLU and a linear layer.

    Raises:
        ConfigError: See :class:`BaseMultiBranch`; also if the student's projector and the teacher's
            embeddings differ in width.

    Example:
        >>> big = dict(type='Pretrained', checkpoint='resnet50.pth')
        >>> model = dict(
        ...     type='mmmokd.SEED',
        ...     neck_defaults=dict(out_channels=2048),
        ...     branches=dict(
        ...         small=dict(
        ...             backbone=dict(type='ResNet', depth=18),
        ...             ema=False,
        ...             heads=dict(seed=dict(target_reads='pooled'))),
        ...         big=dict(backbone=dict(type='ResNet', depth=50, init_cfg=big), frozen=True)))
    """

    terms = dict(seed=dict(type='mmmokd.SEEDHead', reads='projector', teacher='peers'))
    necks = dict(projector=dict(type='mmpretrain.MoCoV2Neck', with_avg_pool=False))
    neck_defaults = dict(hid_channels=2048, out_channels=128)

    def __init__(
        self,
        branches: dict[str, dict | None],
        student_views: str = 'first',
        num_global_views: int = 1,
        **kwargs,
    ) -> None:
        super().__init__(branches, num_global_views=num_global_views, **kwargs)
        check_student_views('SEED', student_views)
        self.student_views = student_views

    def losses_by_branch(
        self, inputs: list[Tensor], data_samples: list | None = None
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Compute the losses of one student after the other; see :meth:`loss`.

        Args:
            inputs (list[Tensor]): V views, each (B, 3, H, W), the global ones first.
            data_samples (list, optional): One data sample per image. Defaults to None.

        Yields:
            tuple[str, dict[str, Tensor]]: Name of a student, and its losses.
        """
        views = self.split_views(inputs, data_samples)
        return self.losses_of_views(select_views(views, self.student_views))
