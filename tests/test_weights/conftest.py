# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
from mmengine.model import BaseModule


@pytest.fixture(autouse=True)
def _short_log(monkeypatch):
    """Spare the tests a line of the log for every weight."""
    monkeypatch.setattr(BaseModule, '_dump_init_info', lambda self: None)
