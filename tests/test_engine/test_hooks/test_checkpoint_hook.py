# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import mmengine.hooks
import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mokd_testing import short_log

from mmmokd.engine.hooks import CheckpointHook
from mmmokd.engine.hooks.checkpoint_hook import save_whole_checkpoints
from mmmokd.utils import CannotWriteError
from mmmokd.weights import read_checkpoint

EPOCHS = 4


class Tiny(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, inputs, mode):
        out = self.layer(inputs).mean()
        return [out] if mode == 'predict' else dict(loss=out)


class Scores(BaseMetric):
    """A measure that rises and falls."""

    values = (1.0, 3.0, 2.0, 4.0)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        self.count = getattr(self, 'count', 0) + 1
        return dict(score=self.values[self.count - 1])


def build(work_dir, hook, by_epoch=True, **settings):
    loader = dict(
        batch_size=1,
        dataset=[dict(inputs=torch.ones(2))] * (1 if by_epoch else EPOCHS),
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    steps = dict(max_epochs=EPOCHS) if by_epoch else dict(max_iters=EPOCHS)
    with short_log():
        runner = Runner(
            Tiny(),
            str(work_dir),
            train_dataloader=loader,
            val_dataloader=loader,
            val_evaluator=Evaluator(Scores()),
            train_cfg=dict(by_epoch=by_epoch, val_interval=1, **steps),
            val_cfg=dict(),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            default_hooks=dict(
                checkpoint=dict(dict(type=hook, by_epoch=by_epoch, interval=1), **settings)
            ),
            default_scope='mmengine',
            log_level='ERROR',
            experiment_name=f'{work_dir}',
        )
        save_whole_checkpoints(runner)
    return runner


def names(folder):
    return {name for name in os.listdir(folder) if name.endswith(('.pth', '.part'))}


SETTINGS = [
    dict(),
    dict(max_keep_ckpts=1),
    dict(max_keep_ckpts=2, interval=2),
    dict(max_keep_ckpts=1, save_best='score', rule='greater'),
    dict(save_best=['score'], rule='less', save_last=False, interval=3),
    dict(by_epoch=False, max_keep_ckpts=2, save_best='score', rule='greater'),
    dict(filename_tmpl='e{}.pth', max_keep_ckpts=1),
]


class Stock(mmengine.hooks.CheckpointHook):
    """mmengine's hook, which the tools leave as it is, for it is another class."""


@pytest.mark.parametrize('settings', SETTINGS)
def test_keeps_what_mmengine_keeps(tmp_path, settings):
    found = []
    for hook in (Stock, mmengine.hooks.CheckpointHook):
        folder = tmp_path / hook.__name__
        runner = build(folder, hook, **settings)
        runner.train()
        pointer = Path((folder / 'last_checkpoint').read_text())
        assert pointer.parent == folder
        hub = read_checkpoint(pointer)['message_hub']['runtime_info']
        found.append((names(folder), pointer.name, hub.get('keep_ckpt_ids')))
    assert found[0] == found[1] and found[0][0]
    assert sum(type(hook) is CheckpointHook for hook in runner.hooks) == 1


@pytest.mark.parametrize(
    ('settings', 'kept', 'newest'),
    [
        (dict(max_keep_ckpts=1), {'epoch_1.pth'}, 'epoch_1.pth'),
        (dict(max_keep_ckpts=1, by_epoch=False), {'iter_1.pth'}, 'iter_1.pth'),
        (
            dict(max_keep_ckpts=1, save_best='score', rule='greater'),
            {'epoch_1.pth', 'best_score_epoch_1.pth'},
            'epoch_1.pth',
        ),
        (dict(interval=9, save_best='score', rule='greater'), {'best_score_epoch_1.pth'}, None),
    ],
)
def test_full_disk_costs_no_checkpoint(tmp_path, monkeypatch, settings, kept, newest):
    runner = build(tmp_path, 'CheckpointHook', **settings)
    write = Path.write_bytes

    def fill(path, content):
        if '.pth' in path.name and '_1.pth' not in path.name:
            write(path, content[: len(content) // 2])
            raise OSError(28, 'No space left on device')
        return write(path, content)

    monkeypatch.setattr(Path, 'write_bytes', fill)
    with pytest.raises(CannotWriteError, match=r'cannot write .*\.pth: No space left on device'):
        runner.train()
    assert names(tmp_path) == kept
    for name in kept:
        read_checkpoint(tmp_path / name)
    pointer = tmp_path / 'last_checkpoint'
    assert (Path(pointer.read_text()).name if pointer.exists() else None) == newest
