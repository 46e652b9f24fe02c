# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import mokd_testing
import pytest
import torch


@pytest.fixture
def float64():
    """New tensors and models are in double precision."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch.float64
    torch.set_default_dtype(default)


@pytest.fixture
def build_mokd():
    """Builds a tiny MOKD; see :func:`mokd_testing.build_mokd`."""
    return mokd_testing.build_mokd


@pytest.fixture
def runner_cfg(tmp_path):
    """Makes the config of a tiny run in a folder of its own; see :func:`mokd_testing.runner_cfg`."""

    def make(folder='run', **kwargs):
        return mokd_testing.runner_cfg(tmp_path / folder, **kwargs)

    return make
