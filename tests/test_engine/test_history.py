# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import copy
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

from mmmokd.engine import history
from mmmokd.engine.history import DeferredHistoryBuffer, defer_reading, update_scalars_later


@pytest.fixture
def hub():
    return MessageHub('hub')


# What mmengine logs of each, in the order of the run: numbers and tensors of all types, in turn.
VALUES = dict(
    loss=[torch.tensor(1 / 3), torch.tensor([2.5]), 4.0, torch.tensor(1e300, dtype=torch.float64)],
    bad=[torch.tensor(2**40 + 1), 3, torch.tensor(True), 7],
    lr=[0.1, 0.2, np.float32(0.3), np.array([0.4])],
    half=[torch.tensor(0.1).half(), torch.tensor(0.2).bfloat16(), 1, torch.tensor(torch.nan)],
)


def log_all(hub, update):
    for step in range(4):
        update(hub, {f'train/{key}': values[step] for key, values in VALUES.items()})
        hub.update_scalar('val/accuracy', step)


@pytest.fixture
def hubs(hub):
    """A hub that defers, from its first step or after two, and mmengine's."""
    plain = MessageHub('plain')
    log_all(plain, MessageHub.update_scalars)
    log_all(hub, update_scalars_later)
    return hub, plain


def assert_same(found, expected):
    assert list(found) == list(expected)
    for key, wanted in expected.items():
        for one, other in zip(found[key].data, wanted.data, strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype, key


def test_logs_what_mmengine_logs(hubs):
    hub, plain = hubs
    assert type(hub.log_scalars['train/loss']) is DeferredHistoryBuffer
    assert type(hub.log_scalars['val/accuracy']) is HistoryBuffer
    for key in VALUES:
        for name in ('mean', 'max', 'min', 'current'):
            found, expected = (
                h.get_scalar(f'train/{key}').statistics(name, *[3][: name != 'current'])
                for h in hubs
            )
            assert type(found) is type(expected)
            np.testing.assert_array_equal(found, expected)
    assert_same(hub.log_scalars, plain.log_scalars)


@pytest.mark.parametrize('copied', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_checkpoint_has_what_mmengine_writes(hubs, copied):
    hub, plain = hubs
    state, expected = (copied(h.state_dict()) for h in hubs)
    assert {type(each) for each in state['log_scalars'].values()} == {HistoryBuffer}
    assert_same(state['log_scalars'], expected['log_scalars'])
    assert state['resumed_keys'] == expected['resumed_keys']
    other = MessageHub('other')
    other.load_state_dict(state)
    for h in (other, plain):
        update_scalars_later(h, {'train/loss': torch.tensor(5.0)})
    assert type(other.log_scalars['train/loss']) is DeferredHistoryBuffer
    assert_same(other.log_scalars, plain.log_scalars)


def test_histories_that_others_made_wait_as_well(hub):
    hub.update_scalar('train/time', 1.0)
    hub.update_scalar('val/time', 1.0)
    defer_reading(hub, 'train/')
    assert type(hub.get_scalar('train/time')) is DeferredHistoryBuffer
    assert type(hub.get_scalar('val/time')) is HistoryBuffer
    update_scalars_later(hub, {'train/loss': torch.tensor(1.0)})
    for value in (2.0, 4.0):
        hub.update_scalar('train/time', value)
        assert hub.get_scalar('train/time').current() == value
    assert history._Reading.unread  # nothing had to be read for it
    assert hub.get_scalar('train/time').mean(2) == 3.0


def test_all_that_is_unread_is_read_by_one_transfer(hub, monkeypatch):
    reads = []
    cat = torch.cat
    monkeypatch.setattr(torch, 'cat', lambda tensors: reads.append(len(tensors)) or cat(tensors))
    history._Reading.read_all()
    reads.clear()
    value = torch.tensor(0.0)
    for _ in range(5):
        value += 1  # what is logged is the value of the moment
        update_scalars_later(hub, dict(a=value, b=2 * value))
    assert not reads
    assert [hub.get_scalar(key).mean() for key in 'ab'] == [3.0, 6.0]
    assert reads == [5] and not history._Reading.unread


def test_what_nobody_reads_does_not_pile_up(hub):
    for i in range(history.MAX_PENDING + 10):
        update_scalars_later(hub, dict(loss=torch.tensor(float(i))))
    assert len(hub.get_scalar('loss')._pending) == 10
    assert hub.get_scalar('loss').max() == history.MAX_PENDING + 9
    short = DeferredHistoryBuffer(max_length=3)
    for i in range(5):
        short.update(i)
    assert short.data[0].tolist() == [2, 3, 4]


def test_what_is_not_a_number(hub):
    with pytest.raises(ValueError, match=r'train/loss is to be .* shape \(2,\)'):
        update_scalars_later(hub, {'train/loss': torch.ones(2)})
    with pytest.raises(TypeError, match='must be numbers'):
        DeferredHistoryBuffer().update('1')
    with pytest.raises(ValueError, match='empty'):
        DeferredHistoryBuffer().current()
