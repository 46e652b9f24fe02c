# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .base import BaseMultiBranch
from .mcl import MCL
from .mokd import MOKD
from .seed import SEED

__all__ = ['MCL', 'MOKD', 'SEED', 'BaseMultiBranch']
