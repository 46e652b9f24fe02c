# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The backbones' passes of a step and nothing else: what no implementation can leave out."""

from collections.abc import Sequence

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmmokd.registry import MODELS


class BareBackbones:
    """Students' passes over all views, forward and backward; teachers' over the global ones.

    In PyTorch's eager mode, without heads, losses and optimizers.

    Args:
        cfg (Config): Of the training; its backbones are built again.
        views (Sequence[Tensor]): Normalized views, each (B, 3, H, W), two global ones first.
        dtype (torch.dtype, optional): For autocast. Defaults to None, none.
        channels_last (bool): Whether weights and images of 4 axes lie in memory so. Defaults to False.
    """

    def __init__(
        self,
        cfg: Config,
        views: Sequence[Tensor],
        dtype: torch.dtype | None = None,
        channels_last: bool = False,
    ) -> None:
        model_cfg = cfg.model.to_dict()
        model_cfg['neck_defaults'] = {**model_cfg.get('neck_defaults', {}), 'out_channels': 1}
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            branches = MODELS.build(model_cfg).branches.values()
        device = views[0].device
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.students = self._backbones(branches, 'student').to(device, memory_format=layout)
        self.teachers = self._backbones(branches, 'teacher').to(device, memory_format=layout)
        groups = [torch.cat(list(group)) for group in (views[:2], views[2:]) if group]
        self.groups = [group.contiguous(memory_format=layout) for group in groups]
        self.autocast = dict(device_type=device.type, dtype=dtype, enabled=dtype is not None)

    @staticmethod
    def _backbones(branches, network: str) -> nn.ModuleList:
        return nn.ModuleList(branch.network(network).backbone for branch in branches).train()

    def __call__(self) -> None:
        """Do the passes once."""
        with torch.autocast(**self.autocast):
            total = sum(
                _total(backbone(group)) for backbone in self.students for group in self.groups
            )
            with torch.no_grad():
                for backbone in self.teachers:
                    backbone(self.groups[0])
        total.backward()
        self.students.zero_grad()


def _total(outputs) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs.float().mean()
    return sum(_total(output) for output in outputs)
