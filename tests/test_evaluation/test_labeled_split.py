# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Split of labeled images into feature bank and queries."""

import math

import pytest
from loops_testing import Angles, ListedAngles, build_runner, loader, plain_accuracy
from torch.utils.data import Subset

from mmmokd.evaluation.loops import complete_bank


def numbers(loader):
    return [int(sample.img_path[:-4]) for batch in loader for sample in batch['data_samples']]


def test_one_labeled_set_is_parted_by_class(tmp_path):
    alone = dict(type=ListedAngles, size=100, seed=1)
    runner, recorder = build_runner(
        tmp_path, mode='test', queries=alone, loop=dict(bank_dataloader=None)
    )
    metrics = runner.test()
    bank, queries = (
        numbers(loader) for loader in (runner.test_loop.bank_dataloader, runner.test_dataloader)
    )
    assert sorted(bank + queries) == list(range(100))
    labels = Angles(100, seed=1).angles // (math.pi / 2)
    for label in range(4):
        total, drawn = ((labels[numbers] == label).sum() for numbers in (range(100), bank))
        assert drawn == int(0.8 * total + 0.5)
    subsets = [Subset(Angles(100, seed=1), part) for part in (bank, queries)]
    assert metrics['a.teacher/knn_top1'] == pytest.approx(plain_accuracy(*subsets, k=5))

    again = build_runner(
        tmp_path, mode='test', queries=alone, loop=dict(bank_dataloader=None, bank_share=0.3)
    )[0]
    smaller = numbers(again.test_loop.bank_dataloader)
    assert set(smaller) < set(bank) and 28 <= len(smaller) <= 32


def test_the_bank_takes_from_the_queries_what_it_leaves_out(tmp_path):
    queries = dict(type=ListedAngles, size=100, seed=1)
    leaves_out = dict(bank_dataloader=dict(dataset=dict(size=80), batch_size=10))
    runner, _ = build_runner(tmp_path, mode='test', queries=queries, loop=leaves_out)
    bank = runner.test_loop.bank_dataloader
    assert bank.batch_size == 10 and runner.test_dataloader.batch_size == 16
    assert numbers(bank) == list(range(80)) and len(numbers(runner.test_dataloader)) == 100
    assert runner.test()['a.teacher/knn_top1'] > 90


def test_workers_of_the_bank_do_not_stay():
    queries = dict(loader(None), num_workers=2, persistent_workers=True)
    bank = complete_bank(dict(dataset=dict(type='A'), num_workers=0), queries)
    assert bank == dict(loader(dict(type='A')), num_workers=0)
