# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import os

import mokd_testing
import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer
from weights_testing import save_mokd

MANAGED = (DefaultScope, MessageHub, MMLogger, Visualizer)


@pytest.fixture(scope='module', autouse=True)
def process_state():
    """Runs in this process leave a scope, loggers and environment variables: not for other files."""
    instances = [dict(manager._instance_dict) for manager in MANAGED]
    environment = dict(os.environ)
    yield
    for manager, saved in zip(MANAGED, instances, strict=True):
        manager._instance_dict.clear()
        manager._instance_dict.update(saved)
    os.environ.clear()
    os.environ.update(environment)


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


@pytest.fixture(scope='session')
def mokd(tmp_path_factory):
    """The path of a MOKD checkpoint, and the model that it is of."""
    path = tmp_path_factory.mktemp('mokd') / 'epoch_1.pth'
    return path, save_mokd(path)


@pytest.fixture
def read_log(tmp_path_factory):
    """The lines of the log file so far, from this process and from forked workers."""
    log_file = tmp_path_factory.mktemp('log') / 'run.log'
    current = MMLogger._instance_dict
    saved = dict(current)
    MMLogger.get_instance(str(log_file), log_file=str(log_file), log_level='INFO')
    yield lambda: log_file.read_text().splitlines()
    current.clear()
    current.update(saved)
