# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
from mmengine.model import BaseModule
from weights_testing import save_mokd


@pytest.fixture(scope='session')
def mokd(tmp_path_factory):
    """A checkpoint's path and the model that it is of."""
    path = tmp_path_factory.mktemp('mokd') / 'epoch_1.pth'
    return path, save_mokd(path)


@pytest.fixture(autouse=True)
def _short_log(monkeypatch):
    """Spare the tests a line of the log for every weight."""
    monkeypatch.setattr(BaseModule, '_dump_init_info', lambda self: None)
