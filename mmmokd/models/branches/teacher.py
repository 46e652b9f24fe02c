# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import copy

from .network import BranchNetwork


def make_teacher(student: BranchNetwork) -> BranchNetwork:
    """Copy a student, without drop path and without gradients.

    A frozen backbone is not copied, nor are the weights below low-rank updates: both have them.

    Args:
        student (BranchNetwork): Any module.

    Returns:
        BranchNetwork: The copy.
    """
    shared = [student.backbone] if getattr(student, 'frozen_backbone', False) else []
    if getattr(student, 'has_lora', False):
        shared = [param for param in student.backbone.parameters() if not param.requires_grad]
    teacher = copy.deepcopy(student, {id(each): each for each in shared})
    for module in teacher.modules():
        # mmcv, timm and torchvision each have a class of their own for it.
        if type(module).__name__ == 'DropPath':
            module.drop_prob = 0.0
        elif type(module).__name__ == 'StochasticDepth':
            module.p = 0.0
    return teacher.requires_grad_(False)
