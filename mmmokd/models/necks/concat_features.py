# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch
from mmengine.model import BaseModule
from torch import Tensor

from mmmokd.registry import MODELS


@MODELS.register_module()
class ConcatFeatures(BaseModule):
    """Concatenates the outputs of several layers.

    For DINO's linear evaluation of a ViT: the class tokens of the last four layers, one after the
    other.

    Args:
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Example:
        >>> neck = ConcatFeatures()
        >>> neck((torch.rand(2, 384), torch.rand(2, 384)))[0].shape
        torch.Size([2, 768])
    """

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Concatenate features along their channels.

        Args:
            inputs (tuple[Tensor]): A backbone's outputs, shapes (B, C_i, ...), equal but for C_i.

        Returns:
            tuple[Tensor]: One feature, shape (B, sum of C_i, ...), in a tuple as heads expect it.
        """
        return (torch.cat(inputs, dim=1),)
