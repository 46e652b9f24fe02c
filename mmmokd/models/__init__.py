# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .backbones import *  # noqa: F401,F403
from .branches import *  # noqa: F401,F403
from .data_preprocessors import *  # noqa: F401,F403
from .heads import *  # noqa: F401,F403
from .losses import *  # noqa: F401,F403
from .necks import *  # noqa: F401,F403
from .selfsup import *  # noqa: F401,F403
