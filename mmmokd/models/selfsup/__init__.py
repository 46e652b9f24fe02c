# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .base import BaseMultiBranch
from .dino import DINO
from .dogo import DoGo, DoGoSimSiam
from .mokd import MOKD

__all__ = ['DINO', 'MOKD', 'BaseMultiBranch', 'DoGo', 'DoGoSimSiam']
