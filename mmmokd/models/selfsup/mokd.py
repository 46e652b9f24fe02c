# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

from torch import Tensor

from mmmokd.registry import MODELS
from mmmokd.utils.errors import ConfigError

from ..branches import Branch
from .base import BaseMultiBranch


@MODELS.register_module()
class MOKD(BaseMultiBranch):
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

    def loss(self, inputs: list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """Compute the losses of all branches.

        Args:
            inputs (list[Tensor]): V views, each (B, 3, H, W), the global ones first.
            data_samples (list, optional): One data sample per image. Defaults to None.

        Returns:
            dict[str, Tensor]: For every branch L_sm and L_st and, for each of its peers, L_cm and
            L_ct, the cross terms with their weight applied; further terms likewise.
        """
        found = self.losses_by_branch(inputs, data_samples)
        return {key: loss for _, losses in found for key, loss in losses.items()}

    def losses_by_branch(
        self, inputs: list[Tensor], data_samples: list | None = None
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Compute the losses of one branch after the other; see :meth:`loss`.

        All teachers come first: a student depends on them, and on no other student.

        Args:
            inputs (list[Tensor]): V views, each (B, 3, H, W), the global ones first.
            data_samples (list, optional): One data sample per image. Defaults to None.

        Yields:
            tuple[str, dict[str, Tensor]]: Name of a branch that learns, and its losses.
        """
        views = self.split_views(inputs, data_samples)
        students = {
            name: branch.forward_student(views)
            for name, branch in self.branches.items()
            if branch.student_first
        }
        teachers = self.forward_teachers(views, students)
        for name, branch in self.branches.items():
            if branch.student is not None:
                # Nothing here keeps a student's output longer than its losses do.
                one = {name: students.pop(name, None) or branch.forward_student(views)}
                losses = self.head_losses(one, teachers, views)
                del one
                yield name, losses
                del losses

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
