# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""MOKD and its parts through the commands that a user gives: ours and mmpretrain's own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import mmpretrain
import pytest
import torch

from mmmokd.apis import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / 'tools' / 'train.py'
MMPRETRAIN_TRAIN = Path(mmpretrain.__file__).parent / '.mim' / 'tools' / 'train.py'
EPOCHS = 12  # more than the warm-up of the recipe
ITERATIONS = 2 * EPOCHS  # 8 pictures, 4 a step


def train(run, config, work_dir, *options, tool=TRAIN, arguments=()) -> str:
    """Run a training command to its end, in its work_dir; all of its output."""
    work_dir.mkdir(exist_ok=True)
    command = (sys.executable, tool, config, '--work-dir', work_dir, *arguments)
    done = run(*command, '--cfg-options', f'train_cfg.max_epochs={EPOCHS}', *options, cwd=work_dir)
    assert done.returncode == 0, done.stdout
    return done.stdout


def assert_same_weights(found: Path, expected: Path):
    found, expected = (read_checkpoint(folder / f'epoch_{EPOCHS}.pth') for folder in (found, expected))
    assert found['meta']['iter'] == expected['meta']['iter'] == ITERATIONS
    assert found['state_dict'].keys() == expected['state_dict'].keys()
    for key, value in expected['state_dict'].items():
        assert torch.equal(found['state_dict'][key], value), key


@pytest.fixture(scope='module')
def whole_run(run, mokd_config, tmp_path_factory) -> tuple[Path, str]:
    """The work_dir and the output of a run of our command that nothing interrupted."""
    work_dir = tmp_path_factory.mktemp('whole')
    tensorboard = 'visualizer.vis_backends.0.type=TensorboardVisBackend'
    return work_dir, train(run, mokd_config, work_dir, tensorboard)


def test_our_command(whole_run):
    work_dir, output = whole_run
    print(output)
