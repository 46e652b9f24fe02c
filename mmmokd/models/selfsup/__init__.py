# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .base import BaseMultiBranch
from .bingo import BINGO
from .compress import CompRess
from .disco import DisCo
from .mokd import MOKD
from .offline import BaseOffline

__all__ = ['BINGO', 'MOKD', 'BaseMultiBranch', 'BaseOffline', 'CompRess', 'DisCo']
