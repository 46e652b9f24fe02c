# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from torch import nn

from mmmokd.utils.errors import ConfigError

from .base import BranchHead


class OfflineHead(BranchHead):
    """A loss term of embeddings of a student and of a teacher, of another model or its own.

    What is read of the teacher need not have the name that it has in the student: a teacher without
    a projection head gives its pooled features.

    Args:
        reads (str): Embedding of the student. Defaults to ``'projector'``.
        teacher (str): See :class:`BranchHead`. Defaults to ``'peers'``.
        target_reads (str, optional): Embedding of the teacher. Defaults to None, as ``reads``.
        loss_weight (float): Weight of the term. Defaults to 1.0.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: See :class:`BranchHead`.
    """

    needs_teacher = True

    def __init__(
        self,
        reads: str = 'projector',
        teacher: str = 'peers',
        target_reads: str | None = None,
        loss_weight: float = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(reads, teacher, loss_weight, init_cfg, target_reads)

    def same_width(self, student: nn.Module, teacher: nn.Module) -> int:
        """Make sure that both ends give embeddings of one width.

        Args:
            student (BranchNetwork): Of the branch.
            teacher (BranchNetwork): Of the branch that it learns from.

        Returns:
            int: The width.

        Raises:
            ConfigError: If the widths differ.
        """
        own, others = student.width(self.reads), teacher.width(self.target_reads)
        if own != others:
            raise ConfigError(
                f"{type(self).__name__} compares the student's {self.reads}, of {own} channels, with "
                f"the teacher's {self.target_reads}, of {others}: let it read a neck of the student "
                f'with out_channels={others}'
            )
        return own
