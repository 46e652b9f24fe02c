# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Names of the environment variables by which parts of a command speak to each other."""

ALLOW_CODE = 'MMMOKD_ALLOW_CODE_FROM_CHECKPOINT'
LAUNCHER_CHOSE_THREADS = 'MMMOKD_LAUNCHER_CHOSE_THREADS'
TRACEBACK = 'MMMOKD_TRACEBACK'
VERBOSE = 'MMMOKD_VERBOSE'
WEIGHTS_ONLY = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'  # of PyTorch
