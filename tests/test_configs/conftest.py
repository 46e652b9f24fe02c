# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
from config_testing import make_data_roots


@pytest.fixture(scope='session')
def data_roots(tmp_path_factory):
    """A few random images in the form of each kind of data set."""
    return make_data_roots(tmp_path_factory)


@pytest.fixture(autouse=True)
def _random_images_are_cifar(monkeypatch):
    monkeypatch.setattr('mmpretrain.datasets.cifar.check_md5', lambda path, md5: True)
