# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import logging
import warnings

import mmengine.logging
import pytest
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.runner import Runner
from torch import nn

from mmmokd.cli.console import VERBOSE, quiet_console

BACKGROUND = (
    '\n------\nSystem environment:\n    sys.platform: linux',
    'Config:\nmodel = dict()',
    'Hooks will be executed in the following order:\nbefore_run:',
    '"FileClient" will be deprecated in future. Please use io functions',
    'Checkpoints will be saved to work_dirs/run.',
)
SHOWN = (
    '24 images in /my/images',
    'Config: not the whole of it',
    'Epoch(train) [1][1/3]  loss: 1.0',
    'Branch cnn may have collapsed',
)


@pytest.fixture
def logger(tmp_path):
    """A logger as a Runner makes it; and what its console and its file got."""
    made = []

    def make(level='INFO'):
        name = f'{tmp_path.name}{len(made)}'
        made.append(name)
        path = tmp_path / f'{name}.log'
        return MMLogger.get_instance(name, log_file=str(path), log_level=level), path

    yield make
    for name in made:
        MMLogger._instance_dict.pop(name)


def say_all(logger):
    for message in (*BACKGROUND, *SHOWN):
        logger.info(message)
        logger.warning(f'{message} (2)')


def test_background_goes_to_the_file_alone(logger, capsys):
    log, path = logger()
    with quiet_console():
        say_all(log)
        log.error(BACKGROUND[1])
    console, file = capsys.readouterr().out, path.read_text()
    assert all(file.count(message) >= 2 for message in (*BACKGROUND, *SHOWN))
    assert all(console.count(message) == 2 for message in SHOWN)
    assert not any(message in console for message in BACKGROUND if message != BACKGROUND[1])
    assert console.count(BACKGROUND[1]) == 1  # the error
    log.info(BACKGROUND[0])
    assert BACKGROUND[0] in capsys.readouterr().out  # as before, after the command


@pytest.mark.parametrize('verbose, level', [('1', 'INFO'), ('', 'DEBUG')])
def test_all_is_shown_when_asked_for(logger, capsys, monkeypatch, verbose, level):
    monkeypatch.setenv(VERBOSE, verbose)
    log, _ = logger(level)
    with quiet_console():
        say_all(log)
    console = capsys.readouterr().out
    assert all(console.count(message) == 2 for message in (*BACKGROUND, *SHOWN))


def test_library_messages_are_what_is_known_as_background(tmp_path, capsys):
    """mmengine's own, as it writes them today: a new wording would be on the console again."""

    class Model(BaseModule):
        def __init__(self):
            super().__init__(init_cfg=dict(type='Constant', layer='Linear', val=1.0))
            self.layer = nn.Linear(1, 1)

        def forward(self, x):
            return self.layer(x)

    with quiet_console():
        runner = Runner(Model(), work_dir=str(tmp_path), experiment_name=f'run{id(tmp_path)}')
        runner.model.init_weights()
        assert capsys.readouterr().out == ''
        runner.logger.handlers[:] = runner.logger.handlers[:1]  # without a file, line by line
        Model().init_weights()
        assert capsys.readouterr().out == ''
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'System environment:' in log and 'layer.weight' in log
    MMLogger._instance_dict.pop(runner.experiment_name)


def test_prints_without_a_logger(capsys):
    with quiet_console():
        mmengine.logging.print_log('Could not import OneDL', level=logging.DEBUG)
        mmengine.logging.print_log('shown')
    assert capsys.readouterr().out == 'shown\n'


def test_warnings_of_others_are_told_by_message_and_module():
    def warn(message, module):
        warnings.warn_explicit(message, UserWarning, 'file.py', 1, module=module)

    text = 'This DataLoader will create 4 worker processes'
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        with quiet_console():
            warn(text, 'torch.utils.data.dataloader')
            warn('Fail to import ``MultiScaleDeformableAttention`` from', 'mmcv.cnn')
            warn(text, 'my_project.data')
            warn('Anything else', 'torch.utils.data.dataloader')
    assert [str(warning.message) for warning in seen] == [text, 'Anything else']
