# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The loss alone: prototype layers and loss terms, against the bare products of these layers."""

from collections.abc import Sequence

import torch
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmmokd.registry import MODELS

from .memory import PeakMemory
from .result import Measured, Result, Settings
from .timing import alternate


@MODELS.register_module()
class FeaturesOfViews(nn.Module):
    """Stands for a backbone: its "images" are maps of one place, which it scales.

    Args:
        in_channels (int): Channels C of the maps.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(in_channels, 1, 1))

    def init_weights(self) -> None:
        """Keep the scale."""

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Scale maps, shape (B, C, 1, 1)."""
        return (x * self.scale,)


class LossCase:
    """One branch that learns by all four terms from itself and a frozen peer.

    Networks have no layers but those onto the prototypes (and, before the projector's, one from the
    features' width to the bottleneck's).

    Args:
        settings (Settings): What the user asked for.
    """

    def __init__(self, settings: Settings) -> None:
        self.device = settings.device
        on_gpu = settings.device == 'cuda'
        batch, width, prototypes = (64, 384, 65536) if on_gpu else (8, 192, 65536)
        bottleneck, num_locals = 256, 8
        if settings.quick:
            batch, width, prototypes, bottleneck, num_locals = 2, 24, 64, 16, 2
        self.dtype = torch.bfloat16 if on_gpu else torch.float32
        self.views, self.globals = 2 + num_locals, 2
        self.batch, self.prototypes = batch, prototypes
        self.widths = (bottleneck, width)
        self.model = self._build(width, bottleneck, prototypes)
        self.inputs = [
            torch.randn(batch, width, 1, 1, device=self.device) for _ in range(self.views)
        ]

    def _build(self, width: int, bottleneck: int, prototypes: int) -> nn.Module:
        network = dict(
            backbone=dict(type='mmmokd.FeaturesOfViews', in_channels=width),
            projector=dict(
                type='mmmokd.DINOProjector', num_layers=1, bottleneck_channels=bottleneck
            ),
            search_head=dict(type='mmmokd.TransformerSearchHead', num_layers=0),
        )
        cfg = dict(
            type='mmmokd.MOKD',
            global_size=1,
            neck_defaults=dict(out_channels=prototypes, embed_dims=width),
            branches=dict(one=network, peer=dict(network, frozen=True)),
        )
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            return MODELS.build(cfg).to(self.device).train()

    def loss(self) -> None:
        """All four terms, forward and backward."""
        with torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
            losses = self.model.loss(self.inputs)
        sum(losses.values()).backward()
        self.model.zero_grad()

    def products(self) -> 'BareProducts':
        """BareProducts: Of the same layers."""
        return BareProducts(
            self.widths,
            self.batch,
            self.views,
            self.globals,
            self.prototypes,
            self.dtype,
            self.device,
        )


class BareProducts:
    """Matrix products of the prototype layers and nothing else.

    Args:
        widths (Sequence[int]): Width of the rows of projector and search head.
        batch (int): Images.
        views (int): Views of a student.
        globals_ (int): Views of a teacher.
        prototypes (int): Number of prototypes.
        dtype (torch.dtype): Of all.
        device (str): Of all.
    """

    def __init__(
        self,
        widths: Sequence[int],
        batch: int,
        views: int,
        globals_: int,
        prototypes: int,
        dtype: torch.dtype,
        device: str,
    ) -> None:
        def rows(count: int, width: int) -> Tensor:
            return torch.randn(count, width, dtype=dtype, device=device)

        projector, search = widths
        self.students = [(rows(views * batch, width), rows(prototypes, width)) for width in widths]
        # sm, st, cm; ct, in which each local view of the student searches the peer's map.
        self.teachers = [
            (rows(count * batch, width), rows(prototypes, width))
            for count, width in (
                (globals_, projector),
                (globals_, search),
                (globals_, projector),
                (views - globals_, search),
            )
        ]

    def __call__(self) -> None:
        """Students' products forward and backward, teachers' forward; the logits are kept."""
        logits = [rows @ weights.t() for rows, weights in (*self.students, *self.teachers)]
        gradients = []
        for (rows, weights), grad in zip(self.students, logits, strict=False):
            gradients += [grad @ weights, grad.t() @ rows]


def loss(settings: Settings) -> Measured:
    """The loss alone against the bare products.

    Args:
        settings (Settings): What the user asked for.

    Returns:
        Measured: Milliseconds and MiB, the latter beyond weights and features.
    """
    case = LossCase(settings)
    sides = dict(ours=case.loss, bare=case.products())
    quick = settings.quick
    rounds = settings.rounds if quick else max(settings.rounds, 9)
    seconds = alternate(sides, rounds, warm_up=2, calls=1 if quick else 3)
    peaks = {}
    for name, side in sides.items():
        with PeakMemory(settings.device) as memory:
            side()
        peaks[name] = memory.bytes / 2**20
    kind = 'bfloat16' if case.dtype == torch.bfloat16 else 'float32'
    what = (
        f'loss alone, four terms of a branch, batch {case.batch}, K {case.prototypes}, {case.globals} '
        f'+ {case.views - case.globals} views, {kind}'
    )
    ours, bare = (1000 * seconds[name] for name in ('ours', 'bare'))
    return Measured(
        [
            Result('loss', what, 'ms', ours, bare, 'bare products', 4),
            Result('loss', 'its memory', 'MiB', peaks['ours'], peaks['bare'], 'bare products', 1.2),
        ]
    )
