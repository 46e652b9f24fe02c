# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Features that a command keeps, and a training run that reads them."""

import re
import sys
from pathlib import Path

import pytest
import torch
from mokd_testing import short_log

from mmmokd.cli.config import load_config, set_dataloader_defaults, set_work_dir
from mmmokd.engine.runners.build_runner import build_runner

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
pytestmark = pytest.mark.long


@pytest.fixture(scope='module')
def partner(mokd_config) -> list[str]:
    """Options of a pair whose ViT has a backbone from a file, and nothing else."""
    cfg = load_config(mokd_config, {})
    set_work_dir(cfg, str(mokd_config.parent / 'partner'))
    set_dataloader_defaults(cfg)
    with short_log():
        backbone = build_runner(cfg).model.branches['vit'].student.backbone
    torch.save(backbone.state_dict(), mokd_config.parent / 'vit.pth')
    return [
        'model.branches.vit.frozen=backbone',
        'model.branches.vit.backbone.init_cfg.type=Pretrained',
        f'model.branches.vit.backbone.init_cfg.checkpoint={mokd_config.parent / "vit.pth"}',
        'train_cfg.max_epochs=2',
    ]


def test_training_reads_what_was_kept(run, mokd_config, partner, tmp_path):
    out = tmp_path / 'features'
    command = (sys.executable, TOOLS / 'cache_features.py', mokd_config, 'vit')
    options = ('--draws', 2, '--out', out, '--work-dir', tmp_path / 'a', '--cfg-options', *partner)
    done = run(*command, *options)
    assert done.returncode == 0, done.stdout
    assert 'vit: 8 images, 2 draws of views' in done.stdout
    assert f'--cfg-options model.branches.vit.cache={out}' in done.stdout
    done = run(*command, *options)
    assert 'draw 2 of 2: 0 images' in done.stdout  # nothing is left to do

    fixed = 'train_dataloader.dataset.pipeline.1.num_draws=2'
    losses = []
    for name, more in (('computed', fixed), ('read', f'model.branches.vit.cache={out}')):
        train = (sys.executable, TOOLS / 'train.py', mokd_config, '--work-dir', tmp_path / name)
        done = run(*train, '--cfg-options', *partner, more)
        assert done.returncode == 0, done.stdout
        found = re.findall(r'(loss\S*): (\d+\.\d+)', done.stdout)
        losses.append([(key, pytest.approx(float(value), rel=0.01)) for key, value in found])
    assert len(losses[0]) == 4 * 9
    assert [(key, value.expected) for key, value in losses[1]] == losses[0]
    assert f'Branch vit reads its features from {out}' in done.stdout


def test_mistakes_are_one_message(run, mokd_config, partner, tmp_path):
    command = (sys.executable, TOOLS / 'cache_features.py', mokd_config)
    for branch, message in (
        ('cnn', 'the backbone of branch cnn learns'),
        ('net', "the model has no branch 'net', but cnn, vit"),
    ):
        done = run(*command, branch, '--work-dir', tmp_path, '--cfg-options', *partner)
        assert done.returncode == 2 and f'error: {message}' in done.stdout
        assert 'Traceback' not in done.stdout
