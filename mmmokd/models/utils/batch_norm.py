# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mmmokd.registry import MODELS


@MODELS.register_module()
class BatchNormXd(_BatchNorm):
    """Batch norm of features (B, C) and of maps (B, C, H, W) alike, as SyncBN is.

    It takes the place of SyncBN where that does not run, whatever the layer normalizes: ``'BN'``
    takes maps alone. Parameters and buffers are the same.

    Args:
        num_features (int): Channels C.
        eps (float): Added to the variance. Defaults to 1e-5.
        momentum (float, optional): Of the running statistics. Defaults to 0.1.
        affine (bool): Whether scale and shift are learned. Defaults to True.
        track_running_stats (bool): Whether running statistics are kept. Defaults to True.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f'expected (B, C, ...), but got {tuple(input.shape)}')
