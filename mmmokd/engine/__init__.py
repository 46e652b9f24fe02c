# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .hooks import *  # noqa: F401,F403
from .optimizers import *  # noqa: F401,F403
from .schedulers import *  # noqa: F401,F403
