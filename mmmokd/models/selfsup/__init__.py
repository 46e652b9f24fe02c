# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .base import BaseMultiBranch
from .bingo import BINGO
from .by_branch import BaseByBranch
from .compress import CompRess
from .dino import DINO
from .disco import DisCo
from .dogo import DoGo, DoGoSimSiam
from .graph import BranchGraph
from .mcl import MCL
from .mokd import MOKD
from .offline import BaseOffline
from .seed import SEED

__all__ = [
    'BINGO',
    'DINO',
    'MCL',
    'MOKD',
    'SEED',
    'BaseByBranch',
    'BaseMultiBranch',
    'BaseOffline',
    'BranchGraph',
    'CompRess',
    'DisCo',
    'DoGo',
    'DoGoSimSiam',
]
