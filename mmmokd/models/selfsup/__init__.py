# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .base import BaseMultiBranch
from .mokd import MOKD

__all__ = ['MOKD', 'BaseMultiBranch']
