# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
from weights_testing import save_mokd


@pytest.fixture(scope='session')
def mokd(tmp_path_factory):
    """A checkpoint's path and the model that it is of."""
    path = tmp_path_factory.mktemp('mokd') / 'epoch_1.pth'
    return path, save_mokd(path)
