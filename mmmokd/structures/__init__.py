# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .backbone_features import BackboneFeatures
from .branch_losses import BranchLosses
from .network_output import NetworkOutput, PrototypeInput
from .view_group import ViewGroup
from .view_params import ViewParams, ViewSampler
from .views import Views

__all__ = [
    'BackboneFeatures',
    'BranchLosses',
    'NetworkOutput',
    'PrototypeInput',
    'ViewGroup',
    'ViewParams',
    'ViewSampler',
    'Views',
]
