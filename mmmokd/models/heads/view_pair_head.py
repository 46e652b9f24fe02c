# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import inspect

from torch import Tensor, nn

from mmmokd.registry import MODELS
from mmmokd.structures import NetworkOutput, Views
from mmmokd.utils.errors import ConfigError

from .base import BranchHead

# The second argument of `loss(student, target)` in the heads of mmpretrain that compare two views.
TARGETS = ('target', 'momentum_out')


@MODELS.register_module()
class ViewPairHead(BranchHead):
    """A two-view loss of mmpretrain as a term of a branch: MoCo v3, BYOL, SimSiam, ...

    ``head.loss(student, target)`` is averaged over the ordered pairs of two different global views:
    with the usual two, the symmetric loss (first view against the teacher's second, second against
    its first). Local views are left out. The target carries no gradient.

    The wrapped head keeps its own predictor, loss and temperature, and the predictor learns with
    the branch. Recipes that add up the two directions need twice their ``loss_weight`` here: BYOL
    and SimSiam in mmpretrain have weights of 2 and 0.5 for each direction, so 4 and 1 here.

    Any head with a ``loss(student, target)`` for two tensors of shape (B, C) can be wrapped:

    - ``MoCoV3Head`` (`MoCo v3 <https://arxiv.org/abs/2104.02057>`_): gathers the negatives of all
      processes by itself, so that two processes are one;
    - ``LatentPredictHead`` (`BYOL <https://arxiv.org/abs/2006.07733>`_, and `SimSiam
      <https://arxiv.org/abs/2011.10566>`_ with ``teacher='none'``);
    - ``MIMHead`` (a plain loss between two features);
    - ``LatentCrossCorrelationHead`` (`Barlow Twins <https://arxiv.org/abs/2103.03230>`_): of W
      processes its gradient is a W-th, as in mmpretrain's own ``BarlowTwins``;
    - your own, with arguments of the same names.

    Args:
        head (dict): Config of the head.
        reads (str): The neck whose output is compared, or ``'pooled'``. The neck runs over the
            global views alone, in one pass, which its batch norms take their statistics of.
        teacher (str): ``'own'``, ``'peers'`` (one copy of the head per peer, which needs a neck of
            this name and width) or ``'none'``: the student's own output is the target. Defaults to
            ``'own'``.
        loss_weight (float): Weight of the term. Defaults to 1.0.
        init_cfg (dict, optional): Initialization config. Defaults to None.
        target_reads (str, optional): The neck whose output is the target, if it is another one: the
            projector, where ``reads`` is a predictor on top of it. Defaults to None.

    Raises:
        ConfigError: If the wrapped head does not compare two views.

    Example:
        >>> moco = dict(
        ...     type='mmmokd.ViewPairHead',
        ...     reads='moco',  # a neck of the branch, with 256 channels
        ...     head=dict(
        ...         type='mmpretrain.MoCoV3Head',
        ...         predictor=dict(
        ...             type='NonLinearNeck', in_channels=256, hid_channels=4096, out_channels=256,
        ...             with_avg_pool=False),
        ...         loss=dict(type='CrossEntropyLoss', loss_weight=0.8),
        ...         temperature=0.2))
    """

    def __init__(
        self,
        head: dict,
        reads: str,
        teacher: str = 'own',
        loss_weight: float = 1.0,
        init_cfg: dict | None = None,
        target_reads: str | None = None,
    ) -> None:
        super().__init__(reads, teacher, loss_weight, init_cfg, target_reads)
        self.head = MODELS.build(head)
        _check_compares_views(self.head)

    def loss(self, student: NetworkOutput, teacher: NetworkOutput | None, views: Views) -> Tensor:
        """The weighted loss.

        Args:
            student (NetworkOutput): Of all views, the G global ones first.
            teacher (NetworkOutput, optional): Of the global views; None for ``teacher='none'``.
            views (Views): The views.

        Returns:
            Tensor: Scalar.

        Raises:
            ConfigError: If there are fewer than two global views.
        """
        num_globals = len(views.globals)
        if num_globals < 2:
            raise ConfigError(
                f'ViewPairHead compares two global views, but num_global_views is {num_globals}'
            )
        own = student.first(num_globals)[self.reads]  # (G, B, C)
        source = student if teacher is None else teacher
        targets = source.first(num_globals)[self.target_reads].detach()
        pairs = [(v, g) for v in range(num_globals) for g in range(num_globals) if v != g]
        losses = [self.head.loss(own[v], targets[g]) for v, g in pairs]
        return self.loss_weight * sum(losses) / len(pairs)


def _check_compares_views(head: nn.Module) -> None:
    """Refuse heads whose loss takes something else than a student's and a teacher's output."""
    params = list(inspect.signature(getattr(head, 'loss', lambda: None)).parameters.values())
    needed = [p.name for p in params if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(needed) != 2 or needed[1] not in TARGETS:
        raise ConfigError(
            f'ViewPairHead takes heads with a loss(student, target), such as MoCoV3Head and '
            f'LatentPredictHead, but {type(head).__name__} has loss({", ".join(needed)})'
        )
