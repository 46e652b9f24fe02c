# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The parts of tools/benchmarks/rivals.py."""
