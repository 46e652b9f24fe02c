# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""What a Python user calls."""
