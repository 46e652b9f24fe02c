# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from loops_testing import NamedAngles, build_runner
from mmengine.dataset import DefaultSampler
from test_features import NumberedImages, TwoBranches, check_result, make_loader
from torch.utils.data import SequentialSampler

from mmmokd.evaluation import KNNMetric, extract_features
from mmmokd.evaluation.metrics import FeatureSet


def check_features(rank):
    networks = ('teacher', 'student')
    for size, round_up in ((7, True), (7, False), (1, True), (1, False), (8, True)):
        images = NumberedImages(size)
        loader = make_loader(images, DefaultSampler(images, shuffle=False, round_up=round_up))
        check_result(extract_features(TwoBranches(), loader, networks), size)
        on_main = extract_features(TwoBranches(), loader, networks, on_all_ranks=False)
        if rank == 0:
            check_result(on_main, size)
        else:
            assert on_main is None
    # Every process may also read everything.
    loader = make_loader(NumberedImages(5), SequentialSampler(range(5)))
    check_result(extract_features(TwoBranches(), loader, networks), 5)


def check_error_of_rank_0(rank):
    metric = KNNMetric(k=3)
    labels, ones = torch.zeros(2, dtype=torch.long), torch.ones(2, 1, 4)
    if rank == 0:
        metric.process(None, [FeatureSet('a.teacher', ones, labels, ones, labels)])
    error, message = (
        (ValueError, '^KNNMetric of a.teacher') if rank == 0 else (RuntimeError, '^rank 0')
    )
    with pytest.raises(error, match=f'{message}.* k=3 .* the bank has 2'):
        metric.evaluate(size=2)


def evaluate_both(folder):
    """Metrics of queries that are none of the bank's images, and of some that are."""
    bank = NamedAngles(50, seed=1)
    overlapping = dict(bank=bank, queries=bank.get_subset([*range(3, 16)]))
    return [build_runner(folder, mode='test', **sets)[0].test() for sets in ({}, overlapping)]


def evaluate_on_rank(rank, port, folder):
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', rank=rank, world_size=2)
    check_features(rank)
    check_error_of_rank_0(rank)
    torch.save(evaluate_both(folder), folder / f'metrics_{rank}.pth')
    torch.distributed.destroy_process_group()


@pytest.mark.dist
def test_two_processes_give_what_one_gives(tmp_path):
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        port = sock.getsockname()[1]
    # Forked, for started from scratch each process would spend most of the time on imports.
    mp.start_processes(evaluate_on_rank, args=(port, Path(tmp_path)), nprocs=2, start_method='fork')
    expected = evaluate_both(tmp_path)
    for rank in range(2):
        assert torch.load(tmp_path / f'metrics_{rank}.pth') == expected
