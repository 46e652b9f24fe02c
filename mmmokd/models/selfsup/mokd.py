# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.model import BaseModel, ModuleDict
from mmengine.registry import DefaultScope
from torch import Tensor

from mmmokd.registry import MODELS
from mmmokd.weights.loaded import watch_plain_modules

from ..branches import Branch
from ..utils import check_counts

NEEDED = ('backbone', 'projector', 'search_head')
OPTIONAL = ('cross_weight', 'heads', 'init_cfg')
CHANNELS = (1, 3)  # that mmengine's data preprocessors have means for


@MODELS.register_module()
class MOKD(BaseModel):
    """Multi-Mode Online Knowledge Distillation.

    Implements `MOKD <https://arxiv.org/abs/2304.06461>`_ (CVPR 2023) for any number of models of
    any architecture. Each branch learns from its own EMA teacher (self-distillation) and from the
    others' (cross-distillation); a transformer head searches the others' feature maps for what
    matches its own. With one branch it is DINO with a search head.

    Targets and queries carry no gradient, so the branches' losses add up to one backward pass
    without touching each other. The teachers move, temperatures warm up and prototypes are frozen
    by hooks: ``configs/_base_/mokd_runtime.py`` brings them.

    Args:
        branches (dict[str, dict]): Config of each branch by name; see :class:`Branch`.
        num_global_views (int): How many views, from the first, are global: those the teachers see.
            Defaults to 2.
        data_preprocessor (dict, optional): Config of the data preprocessor. Defaults to
            mmpretrain's ``SelfSupDataPreprocessor`` without normalization.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ValueError: If there is no branch, a name contains a dot, fewer than one global view is
            asked for, or the branches differ in prototypes or search width.
    """

    def __init__(
        self,
        branches: dict[str, dict],
        num_global_views: int = 2,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        preprocessor = dict(data_preprocessor or {})
        preprocessor.setdefault('type', 'mmpretrain.SelfSupDataPreprocessor')
        _check_statistics(preprocessor)
        with _scope():
            super().__init__(data_preprocessor=MODELS.build(preprocessor), init_cfg=init_cfg)
        check_counts('MOKD', num_global_views=num_global_views)
        if not isinstance(branches, dict) or not branches or any('.' in name for name in branches):
            raise ValueError(
                f'branches must be a non-empty dict with names without a dot, but got '
                f'{list(branches) if isinstance(branches, dict | list | tuple) else branches!r}'
            )
        self.num_global_views = num_global_views
        with _scope():
            self.branches = ModuleDict(
                {
                    name: _build_branch(name, cfg, peers=self._others(name, branches))
                    for name, cfg in branches.items()
                }
            )
        self._check_branches_agree()
        watch_plain_modules(self)

    @staticmethod
    def _others(name: str, names) -> tuple[str, ...]:
        return tuple(other for other in names if other != name)

    def _check_branches_agree(self) -> None:
        for what, values in (
            ('prototypes (out_channels)', {n: b.out_channels for n, b in self.branches.items()}),
            (
                'search width (search_head.embed_dims)',
                {n: b.student.search_head.embed_dims for n, b in self.branches.items()},
            ),
        ):
            if len(set(values.values())) > 1:
                raise ValueError(f'all branches need the same {what}, but got {values}')

    def forward(self, inputs, data_samples=None, mode: str = 'tensor'):
        """Dispatch as mmengine's models do.

        Args:
            inputs (list[Tensor] | Tensor): Views for ``'loss'``, else images.
            data_samples (list, optional): Not used. Defaults to None.
            mode (str): ``'loss'`` or ``'tensor'``. Defaults to ``'tensor'``.

        Returns:
            dict[str, Tensor]: Losses, or the teachers' pooled features by branch.

        Raises:
            RuntimeError: For another mode.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'tensor':
            return self.extract_feat(inputs)
        raise RuntimeError(f"mode must be 'loss' or 'tensor', but got {mode!r}")

    def extract_feat(
        self, inputs: Tensor | list[Tensor], network: str = 'teacher', maps: bool = False
    ) -> dict[str, Tensor]:
        """Pooled features of every branch, and its map if that is wanted.

        Args:
            inputs (Tensor | list[Tensor]): Images, shape (B, 3, H, W), or views, of which the
                first is taken.
            network (str): ``'teacher'`` or ``'student'``. Defaults to ``'teacher'``.
            maps (bool): Whether to give each branch's last map as well, place after place, by
                ``'{branch}.map'``. Defaults to False.

        Returns:
            dict[str, Tensor]: Shape (B, C) for each branch, (B, h * w * C) for a map.
        """
        images = inputs if isinstance(inputs, Tensor) else inputs[0]
        found = {}
        for name, branch in self.branches.items():
            features = getattr(branch, network).extract(images)
            found[name] = features.pooled
            if maps:
                found[f'{name}.map'] = features.tokens.flatten(1)
        return found

    def loss(self, inputs: list[Tensor], data_samples=None) -> dict[str, Tensor]:
        """Losses of all branches.

        Args:
            inputs (list[Tensor]): V views, each (B, 3, H, W), the global ones first.
            data_samples (list, optional): Not used. Defaults to None.

        Returns:
            dict[str, Tensor]: For every branch L_sm and L_st and, for each of its peers, L_cm and
            L_ct, the cross terms with their weight applied.
        """
        global_views, local_views = self.split_views(inputs)
        students = {
            name: branch.forward_student(global_views, local_views)
            for name, branch in self.branches.items()
        }
        teachers = {
            name: branch.forward_teacher(global_views) for name, branch in self.branches.items()
        }
        losses = {}
        for name, branch in self.branches.items():
            student, heads = students[name], branch.heads
            losses[f'{name}.loss_sm'] = heads['sm'](student.m, teachers[name].m)
            losses[f'{name}.loss_st'] = heads['st'](student.t, teachers[name].t)
            for peer in self._others(name, self.branches):
                losses[f'{name}.loss_cm.{peer}'] = heads['cm'][peer](student.m, teachers[peer].m)
                searched = self.branches[peer].search(
                    teachers[peer].first_map, student.local_query
                )  # (L, B, K)
                losses[f'{name}.loss_ct.{peer}'] = heads['ct'](
                    student.t[self.num_global_views :], searched
                )
        return losses

    def split_views(self, inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Check the views and part the global ones from the local ones.

        Args:
            inputs (list[Tensor]): Views, each (B, 3, H, W), the global ones first.

        Returns:
            tuple[list[Tensor], list[Tensor]]: Global views and local views.

        Raises:
            ValueError: If the views are too few, or not of one batch size, or the global ones not
                of one image size.
        """
        shapes = (
            [tuple(view.shape) for view in inputs] if isinstance(inputs, list | tuple) else inputs
        )
        needed = self.num_global_views + (1 if len(self.branches) > 1 else 0)
        if not isinstance(inputs, list | tuple) or len(inputs) < max(needed, 2):
            raise ValueError(
                f'MOKD needs {self.num_global_views} global views and, for its cross-search term, '
                f'at least one local view, as a list of tensors, the global views first; got '
                f'{len(shapes) if isinstance(inputs, list | tuple) else type(inputs).__name__}: '
                'does the pipeline make views (mmmokd.MultiCrop)?'
            )
        global_views = list(inputs[: self.num_global_views])
        if len({s[0] for s in shapes}) > 1 or len({view.shape for view in global_views}) > 1:
            raise ValueError(
                f'views must have one batch size, and the {self.num_global_views} global ones one '
                f'image size, but got {shapes}'
            )
        return global_views, list(inputs[self.num_global_views :])

    def parse_losses(self, losses: dict[str, Tensor]):
        """Add up the losses, as mmengine does, and keep each branch's sum.

        With mixed precision every branch has its own gradient scaler, and
        :class:`BranchOptimWrapperDict` needs the branch's own loss to scale: the total carries them
        as ``total.branch_losses``.

        Args:
            losses (dict[str, Tensor]): From :meth:`loss`.

        Returns:
            tuple[Tensor, dict[str, Tensor]]: The total and what is logged.
        """
        total, log_vars = super().parse_losses(losses)
        total.branch_losses = {
            name: sum(loss for key, loss in losses.items() if key.startswith(f'{name}.loss_'))
            for name in self.branches
        }
        return total, log_vars


@contextmanager
def _scope() -> Iterator[None]:
    """mmpretrain's names without a prefix, as in configs, also where no Runner has set a scope."""
    if DefaultScope.get_current_instance() is not None:
        yield
        return
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def _build_branch(name: str, cfg: dict, peers: tuple[str, ...]) -> Branch:
    """Build a branch; whatever is wrong with its values is said with its name."""
    if not isinstance(cfg, dict):
        raise ValueError(f'branch {name} must be a dict with {", ".join(NEEDED)}, got {cfg!r}')
    if set(cfg) - {*NEEDED, *OPTIONAL}:
        return Branch(
            **cfg, peers=peers
        )  # a TypeError, as of every class that is built from a config
    missing = [key for key in NEEDED if not cfg.get(key)]
    if missing:
        raise ValueError(
            f'branch {name} has no {" and no ".join(missing)}: it needs {", ".join(NEEDED)} and '
            f'takes {", ".join(OPTIONAL)}'
        )
    for part in NEEDED:
        if not isinstance(cfg[part], dict) or 'type' not in cfg[part]:
            raise ValueError(f'branch {name}: {part} must be a dict with a type, got {cfg[part]!r}')
    try:
        return Branch(**cfg, peers=peers)
    except (ValueError, AssertionError) as error:  # the latter of mmpretrain's and timm's backbones
        raise ValueError(f'branch {name}: {str(error) or repr(error)}') from error


def _check_statistics(preprocessor: dict) -> None:
    """Refuse means and standard deviations that do not belong to each other, or to images."""
    mean, std = preprocessor.get('mean'), preprocessor.get('std')
    lengths = [len(x) if isinstance(x, list | tuple) else x for x in (mean, std)]
    if lengths[0] != lengths[1] or (lengths[0] is not None and lengths[0] not in CHANNELS):
        raise ValueError(
            'data_preprocessor needs mean and std of three values each or, for gray images, of one, '
            f'but got mean={mean!r}, std={std!r}'
        )
