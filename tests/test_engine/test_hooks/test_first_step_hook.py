# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mokd_testing import train

from mmmokd.engine.hooks.first_step_hook import describe_waits


class Losses(Hook):
    def before_train(self, runner):
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs['loss'].detach()))


def run(runner_cfg, folder, interval, hook, **kwargs):
    cfg = runner_cfg(folder, length=12, batch_size=2, **kwargs)
    cfg.log_level = 'INFO'
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=interval)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    if hook:
        cfg.default_hooks.first_step = dict(type='mmmokd.FirstStepHook')
    losses = Losses()
    runner = train(cfg, losses)
    (log,) = Path(runner.log_dir).glob('*.log')
    (scalars,) = Path(runner.log_dir).glob('vis_data/scalars.json')
    plots = [json.loads(line) for line in scalars.read_text().splitlines()]
    plots = [{k: v for k, v in line.items() if not k.endswith('time')} for line in plots]
    return log.read_text(), losses.losses, plots


def lines_of(log):
    """Iteration and loss of each line of the log."""
    found = re.findall(r'Epoch\(train\) +\[(\d+)\]\[ *(\d+)/6\].* loss: ([\d.]+)', log)
    return [(int(epoch), int(number), float(loss)) for epoch, number, loss in found]


def test_the_first_step_is_logged_and_later_lines_are_as_without(runner_cfg):
    log, losses, plots = run(runner_cfg, 'first', 3, True)
    plain, same, others = run(runner_cfg, 'plain', 3, False)
    assert losses == same and plots == others
    lines = lines_of(log)
    assert lines[0] == (1, 1, pytest.approx(losses[0], abs=1e-4))
    assert lines[1:] == lines_of(plain) and len(lines) == 5
    first = log.index('Waiting for the first batch and the first step.')
    found = re.search(
        r'First step after ([\d.]+) s: ([\d.]+) s for the first batch, ([\d.]+) s for the step', log
    )
    assert first < found.start() < log.index('Epoch(train)')
    whole, batch, step = map(float, found.groups())
    assert whole == pytest.approx(batch + step, abs=0.15)
    assert 'eta' not in log[found.end() :].splitlines()[1] and 'eta' in plain

    # A resumed run waits once more.
    checkpoint = f'{runner_cfg("first").work_dir}/epoch_1.pth'
    log, *_ = run(runner_cfg, 'resumed', 3, True, resume=True, load_from=checkpoint)
    assert log.count('First step after') == 1 and lines_of(log)[0][:2] == (2, 1)


def test_a_line_that_is_due_anyway_is_not_doubled(runner_cfg):
    log, *_ = run(runner_cfg, 'often', 1, True, max_epochs=1)
    assert [line[1] for line in lines_of(log)] == [1, 2, 3, 4, 5, 6]


def test_what_is_waited_for(monkeypatch):
    assert describe_waits(SimpleNamespace(num_workers=1)) == (
        'the first batch, for which 1 data worker starts, and the first step'
    )
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', True)
    text = describe_waits(SimpleNamespace(num_workers=8))
    assert text.startswith(
        'the first batch, for which 8 data workers start, and the first step, in'
    )
