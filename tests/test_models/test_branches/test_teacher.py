# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch
from mmcv.cnn.bricks import DropPath as MMCVDropPath
from timm.layers import DropPath as TimmDropPath
from torch import nn
from torchvision.ops import StochasticDepth

from mmmokd.models.branches import make_teacher


def test_drop_path_of_every_library():
    student = nn.Sequential(MMCVDropPath(0.9), TimmDropPath(0.9), StochasticDepth(0.9, 'row'))
    x = torch.randn(50, 4)
    teacher = make_teacher(student).train()
    assert torch.equal(teacher(x), x)
    assert all(not torch.equal(layer(x), x) for layer in student)
