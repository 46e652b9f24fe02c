# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest


@pytest.fixture
def messages(read_log):
    return lambda: [line for line in read_log() if 'Unreadable' in line]


@pytest.fixture(autouse=True)
def quick_init(monkeypatch):
    """Spare each dataset the half second in which mmengine collects garbage."""
    monkeypatch.setattr('mmengine.dataset.base_dataset.gc.collect', lambda: 0)
