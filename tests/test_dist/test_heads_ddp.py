# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Heads that look beyond their process: two processes give the loss and the gradients of one."""

import os

import pytest
import torch
import torch.multiprocessing as mp
from mmpretrain.structures import DataSample

from mmmokd.models.heads import (
    ClassificationHead,
    NTXentHead,
    SimilarityDistillationHead,
    ViewPairHead,
)
from mmmokd.structures import Views

pytestmark = pytest.mark.dist
# Two labels in the first process and one in the second; none and two; none at all.
LABELS = ([2, None, 0, -1, 1, None], [None, -1, None, 0, None, 1], [None] * 6)
MOCO = dict(
    type='mmpretrain.MoCoV3Head',
    temperature=0.2,
    predictor=dict(
        type='mmpretrain.NonLinearNeck', in_channels=6, hid_channels=5, out_channels=6,
        with_avg_pool=False, norm_cfg=dict(type='GN', num_groups=1)),
    loss=dict(type='mmpretrain.CrossEntropyLoss'),
)  # fmt: skip


def losses_and_grads(images=slice(None)):
    """Of a classifier, for each list of labels, MoCo v3, SimCLR and DoGo, over images of a batch."""
    torch.manual_seed(0)
    classifier, moco = ClassificationHead(num_classes=3, in_channels=6), ViewPairHead(MOCO, 'neck')
    student, teacher = torch.randn(2, 6, 6), torch.randn(2, 6, 6)
    views = Views([torch.zeros(6, 3, 2, 2)] * 2, [])
    found = []
    for labels in LABELS:
        samples = [DataSample() if x is None else DataSample().set_gt_label(x) for x in labels]
        own = views._replace(data_samples=samples[images])
        loss = classifier.loss(dict(pooled=student[:, images]), None, own)
        found += [loss.detach(), *torch.autograd.grad(loss, list(classifier.parameters()))]
    loss = moco.loss(dict(neck=student[:, images]), dict(neck=teacher[:, images]), views)
    found += [loss.detach(), *torch.autograd.grad(loss, list(moco.parameters()))]
    weight = torch.randn(6, 4, requires_grad=True)
    projected = dict(projector=student[:, images] @ weight)
    for head in (NTXentHead(), SimilarityDistillationHead()):
        loss = head.loss(projected, dict(projector=teacher[:, images]), views)
        found += [loss.detach(), *torch.autograd.grad(loss, weight, retain_graph=True)]
    return found


def run_on_rank(rank, folder):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    torch.save(losses_and_grads(slice(3 * rank, 3 * rank + 3)), f'{folder}/{rank}.pth')
    torch.distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path, float64):
    mp.start_processes(run_on_rank, (tmp_path,), nprocs=2, start_method='fork')
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in range(2))
    for one, two, whole in zip(first, second, losses_and_grads(), strict=True):
        torch.testing.assert_close((one + two) / 2, whole, rtol=1e-10, atol=1e-14)
