# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .adapter import BackboneFeatures, adapt_features
from .branch import Branch, BranchNetwork, make_teacher

__all__ = ['BackboneFeatures', 'Branch', 'BranchNetwork', 'adapt_features', 'make_teacher']
