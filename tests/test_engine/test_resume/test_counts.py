# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest

from mmmokd.engine.resume import RECORD, Position, RunCounts, position_in


def by_epoch(batch_size=4, processes=1, counts=1, images=64, epochs=10):
    length = images // (batch_size * processes)
    return RunCounts(True, batch_size, processes, counts, images, length, epochs, epochs * length)


def by_iter(batch_size=4, processes=1, counts=1, max_iters=100):
    return RunCounts(False, batch_size, processes, counts, 64, 16, None, max_iters)


@pytest.mark.parametrize(
    ('old', 'new', 'epoch', 'iteration', 'expected'),
    [
        # At an epoch's end: epochs are what counts, of however many images.
        (by_epoch(), by_epoch(), 3, 48, Position(3, 48)),
        (by_epoch(), by_epoch(batch_size=8), 3, 48, Position(3, 24)),
        (by_epoch(), by_epoch(batch_size=2), 3, 48, Position(3, 96)),
        (by_epoch(), by_epoch(batch_size=2, processes=2), 3, 48, Position(3, 48)),
        (by_epoch(processes=4), by_epoch(), 3, 12, Position(3, 48)),
        (by_epoch(), by_epoch(counts=2), 3, 48, Position(3, 48)),
        (by_epoch(), by_epoch(images=128), 3, 48, Position(3, 96)),
        (by_epoch(), by_epoch(images=16), 3, 48, Position(3, 12)),
        (by_epoch(), by_epoch(batch_size=8, epochs=5), 3, 48, Position(3, 24)),
        (by_epoch(), by_epoch(batch_size=8), 10, 160, Position(10, 80)),
        # Within an epoch: after the same share of it, no image twice but for a part of a batch.
        (by_epoch(), by_epoch(), 3, 53, Position(3, 53, 5)),
        (by_epoch(), by_epoch(batch_size=8), 3, 53, Position(3, 26, 2)),
        (by_epoch(), by_epoch(batch_size=2), 3, 53, Position(3, 106, 10)),
        # Saved by iterations with the last batch of an epoch.
        (by_epoch(), by_epoch(batch_size=8), 3, 64, Position(4, 32)),
        # Iterations that do not fit the epoch, or of epochs of unknown length.
        (by_epoch(), by_epoch(batch_size=8), 3, 80, Position(3, 24)),
        (by_epoch(), by_epoch(batch_size=8), 3, 40, Position(3, 24)),
        (RunCounts(), by_epoch(batch_size=8), 3, 53, Position(3, 24)),
        # In iterations: after as many images, at a whole step of the optimizer.
        (by_iter(), by_iter(), 0, 31, Position(0, 31)),
        (by_iter(), by_iter(batch_size=8), 0, 30, Position(0, 15)),
        (by_iter(), by_iter(batch_size=2, max_iters=200), 0, 31, Position(0, 62)),
        (by_iter(), by_iter(processes=2), 0, 30, Position(0, 15)),
        (by_iter(processes=2), by_iter(batch_size=8), 0, 31, Position(0, 31)),
        (by_iter(), by_iter(batch_size=8, counts=2), 0, 31, Position(0, 16)),
        (by_iter(), by_iter(batch_size=64), 0, 1, Position(0, 1)),
        (RunCounts(False, 4), by_iter(batch_size=8), 0, 30, Position(0, 15)),
        (RunCounts(), by_iter(batch_size=8), 0, 30, Position(0, 30)),
    ],
)
def test_position(old, new, epoch, iteration, expected):
    assert position_in(new, old, epoch, iteration) == expected


def test_record_is_read_back():
    counts = by_epoch(batch_size=8, processes=2)
    checkpoint = dict(meta={RECORD: dict(counts.record(), of_a_later_version=1)})
    assert RunCounts.of_checkpoint(checkpoint, {}) == counts
    assert (counts.iteration_images, counts.step_images) == (16, 16)


@pytest.mark.parametrize(
    ('cfg', 'infos', 'meta', 'expected'),
    [
        (
            dict(train_cfg=dict(by_epoch=True), train_dataloader=dict(batch_size=4)),
            dict(max_epochs=5, max_iters=80),
            dict(epoch=2, iter=35),
            RunCounts(True, 4, None, 1, None, 16, 5, 80),
        ),
        (
            dict(
                train_cfg=dict(type='IterBasedTrainLoop'),
                optim_wrapper=dict(accumulative_counts=2),
                gpu_ids=[0, 1],
            ),
            dict(max_epochs=1, max_iters=80),
            dict(epoch=0, iter=30),
            RunCounts(False, None, 2, 2, None, None, None, 80),
        ),
        ({}, {}, dict(epoch=2, iter=32), RunCounts(epoch_length=16)),
        ({}, {}, dict(epoch=2, iter=35), RunCounts()),
    ],
)
def test_counts_of_a_checkpoint_without_a_record(cfg, infos, meta, expected):
    checkpoint = dict(meta=meta, message_hub=dict(runtime_info=infos))
    assert RunCounts.of_checkpoint(checkpoint, cfg) == expected
    assert expected.step_images is None
