# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
from mmengine.logging import MMLogger


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


@pytest.fixture
def messages(read_log):
    return lambda: [line for line in read_log() if 'Unreadable' in line]
