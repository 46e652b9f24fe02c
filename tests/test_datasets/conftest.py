# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest


@pytest.fixture
def messages(read_log):
    return lambda: [line for line in read_log() if 'Unreadable' in line]
