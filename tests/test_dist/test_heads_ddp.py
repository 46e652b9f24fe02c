# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Heads that look beyond their process: two processes give the loss and the gradients of one."""

import os

import pytest
import torch
import torch.multiprocessing as mp
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from mokd_testing import BACKBONES
from offline_testing import losses_grads_and_queues

from mmmokd.models.branches import BranchNetwork
from mmmokd.models.heads import (
    ClassificationHead,
    MaskedPatchHead,
    NTXentHead,
    SimilarityDistillationHead,
    SwAVHead,
    ViewPairHead,
)
from mmmokd.models.necks import DINOProjector
from mmmokd.models.utils import draw_patch_masks
from mmmokd.structures import BackboneFeatures, NetworkOutput, Views

pytestmark = pytest.mark.dist
# Two labels in the first process and one in the second; none and two; none at all.
LABELS = ([2, None, 0, -1, 1, None], [None, -1, None, 0, None, 1], [None] * 6)
PROJECTOR = dict(type='mmmokd.DINOProjector', out_channels=5, hid_channels=8)
MOCO = dict(
    type='mmpretrain.MoCoV3Head',
    temperature=0.2,
    predictor=dict(
        type='mmpretrain.NonLinearNeck', in_channels=6, hid_channels=5, out_channels=6,
        with_avg_pool=False, norm_cfg=dict(type='GN', num_groups=1)),
    loss=dict(type='mmpretrain.CrossEntropyLoss'),
)  # fmt: skip


class Output(dict):
    """In place of a NetworkOutput, of global views alone."""

    def first(self, num_views):
        return self


def losses_and_grads(images=slice(None)):
    """Of heads over some images of a batch: a classifier, for each list of labels, and others."""
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
    outputs = (Output(neck=x[:, images]) for x in (student, teacher))
    loss = moco.loss(*outputs, views)
    found += [loss.detach(), *torch.autograd.grad(loss, list(moco.parameters()))]
    weight = torch.randn(6, 4, requires_grad=True)
    projected = dict(projector=student[:, images] @ weight)
    for head in (NTXentHead(), SimilarityDistillationHead()):
        loss = head.loss(projected, dict(projector=teacher[:, images]), views)
        found += [loss.detach(), *torch.autograd.grad(loss, weight, retain_graph=True)]
    found += losses_grads_and_queues([images])
    return [*found, *swav(student, teacher, images), *masked_patches(images)]


def swav(student, teacher, images):
    """Over two steps, the second with a queue of the first."""
    network = torch.nn.Module()
    network.projector = DINOProjector(6, 4, 8, 5, train_gain=False)
    head, found = SwAVHead(queue_length=6, queue_start_epoch=0), []
    head.connect(network, None)
    for pooled in (student[:, images], teacher[:, images]):
        flat = pooled.flatten(0, 1)
        passes = [BackboneFeatures(flat, flat[:, None], (1, 1))]
        views = Views([None, None], [])
        loss = head.loss(NetworkOutput(network, passes, pooled.shape[1]), None, views)
        learns = [*network.projector.mlp.parameters()]
        found += [loss.detach(), *torch.autograd.grad(loss, learns)]
    return [*found, head.queue['first']]


def masked_patches(images):
    """The loss, its gradients, and the center after it."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        network = BranchNetwork(BACKBONES['vit'], patch_projector=PROJECTOR)
    head = MaskedPatchHead(out_channels=5, token_channels=24)
    views = torch.randn(2, 6, 3, 32, 32)[:, images]
    masks = draw_patch_masks(12, (4, 4)).unflatten(0, (2, 6))[:, images].flatten(0, 1)
    head.draw_masks = lambda num_images, grid: masks
    views = Views(list(views), [])
    student = network([views.globals], views.globals[0].shape[0])
    with torch.no_grad():
        teacher = network([views.globals], views.globals[0].shape[0])
    loss = head.loss(student, teacher, views)
    learns = [head.mask_token, *network.patch_projector.mlp.parameters()]
    return [loss.detach(), *torch.autograd.grad(loss, learns), head.center]


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
