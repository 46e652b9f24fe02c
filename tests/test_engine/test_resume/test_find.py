# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import os
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from torch import nn

from mmmokd.engine.hooks.checkpoint_check_hook import CheckpointCheckHook
from mmmokd.engine.resume.find import (
    check_resumable,
    find_resume_checkpoint,
    load_checkpoint_strict,
)
from mmmokd.utils.state_dict import load_state_dict_strict


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def save(path, state_dict, **more):
    torch.save({'state_dict': state_dict, **more}, path)
    return path


def test_strict_loading(tmp_path, model):
    weights = {f'a.b.{key}': value + 1 for key, value in model.state_dict().items()}
    path = save(tmp_path / 'a.pth', {**weights, 'other': torch.zeros(1)})
    before = model[0].weight.clone()
    load_checkpoint_strict(model, path, prefix='a.b.')
    assert torch.equal(model[0].weight, before + 1)
    with pytest.raises(ValueError, match="has nothing below 'c.', but a.b.0.weight"):
        load_checkpoint_strict(model, path, prefix='c.')
    with pytest.raises(ValueError, match='lacks 6 of the 7 weights of Sequential: 0.weight'):
        load_checkpoint_strict(model, path)


def test_shapes_must_fit(model):
    weights = {**model.state_dict(), '0.bias': torch.zeros(5)}
    with pytest.raises(ValueError, match='here does not fit Sequential: size mismatch for 0.bias'):
        load_state_dict_strict(model, weights, 'here')


def test_batch_counters_and_ddp_prefix_do_not_matter(model):
    weights = {f'module.{key}': value for key, value in model.state_dict().items()}
    del weights['module.1.num_batches_tracked']
    assert load_state_dict_strict(model, {**weights, 'more': torch.zeros(1)}, 'here') == ['more']


def test_weights_that_a_module_renames_as_it_loads_are_not_missing(model):
    def rename(state_dict, prefix, *args):
        state_dict[f'{prefix}weight'] = state_dict.pop(f'{prefix}old_weight')

    model[0]._register_load_state_dict_pre_hook(rename)
    weights = model.state_dict()
    weights['0.old_weight'] = weights.pop('0.weight') * 2
    load_state_dict_strict(model, weights, 'here')
    assert torch.equal(model[0].weight, weights['0.old_weight'])


def test_hook_stops_a_run(model):
    runner = SimpleNamespace(model=model)
    weights = model.state_dict()
    CheckpointCheckHook().after_load_checkpoint(runner, {'state_dict': weights})
    partly = {'0.weight': weights['0.weight']}
    with pytest.raises(ValueError, match='the checkpoint lacks 5 of the 7 weights'):
        CheckpointCheckHook().after_load_checkpoint(runner, {'state_dict': partly})
    CheckpointCheckHook(partial=True).after_load_checkpoint(runner, {'state_dict': partly})
    for nothing in ({'0.weight': torch.zeros(1)}, {'else': weights['0.weight']}):
        with pytest.raises(ValueError, match='not one of the 1 weights'):
            CheckpointCheckHook(partial=True).after_load_checkpoint(runner, nothing)


def test_wrapped_model(model, monkeypatch):
    wrapped = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = model
    assert load_state_dict_strict(wrapped, model.state_dict(), 'here') == []


def test_resuming_needs_the_state_of_training(tmp_path, model):
    path = save(tmp_path / 'a.pth', model.state_dict(), meta={})
    with pytest.raises(ValueError, match='it has no message_hub and no optimizer'):
        check_resumable(path)
    check_resumable(save(path, model.state_dict(), meta={}, message_hub={}, optimizer={}))


def test_finds_the_newest_complete_checkpoint(tmp_path, model):
    assert find_resume_checkpoint(tmp_path / 'nowhere') is None
    assert find_resume_checkpoint(tmp_path) is None
    first, second = (
        save(tmp_path / f'epoch_{number}.pth', model.state_dict()) for number in (9, 10)
    )
    os.utime(first, (1, 1))
    assert find_resume_checkpoint(tmp_path) == second
    (tmp_path / 'last_checkpoint').write_text(str(first))
    assert find_resume_checkpoint(tmp_path) == first
    # The folder was moved since; and then: the file named was never finished.
    (tmp_path / 'last_checkpoint').write_text('/before/the/move/epoch_9.pth')
    assert find_resume_checkpoint(tmp_path) == first
    first.write_bytes(first.read_bytes()[:-100])
    assert find_resume_checkpoint(tmp_path) == second
    second.write_bytes(b'')
    with pytest.raises(ValueError, match='none of the 2 checkpoints'):
        find_resume_checkpoint(tmp_path)


def test_follows_last_checkpoint_out_of_the_work_dir(tmp_path, model):
    outside = save(tmp_path / 'epoch_1.pth', model.state_dict())
    work_dir = tmp_path / 'work'
    work_dir.mkdir()
    (work_dir / 'last_checkpoint').write_text(str(outside))
    assert find_resume_checkpoint(work_dir) == outside
