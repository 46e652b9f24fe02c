# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Tiny models, configs and plain formulas of distillation from a frozen teacher."""

from pathlib import Path

import torch
from mmengine.registry import DefaultScope
from mokd_testing import BACKBONES, branch_cfg, build_mokd, random_views

from mmmokd.models.heads import BINGOHead, CompRessHead, DisCoHead, QueueInfoNCEHead
from mmmokd.registry import MODELS


class Ends:
    """An end of an edge, of which only the widths are asked for."""

    def __init__(self, **widths):
        self.widths = widths

    def width(self, reads):
        return self.widths[reads]


def unit(row):
    """A vector of length 1, without PyTorch's own normalization."""
    return row / row.square().sum().sqrt()


def plain_info_nce(query, key, queue, temperature):
    """MoCo, equation 1, of one query: -log of the share of the key among key and queue."""
    own, *others = ((unit(query) @ unit(k) / temperature).exp() for k in (key, *queue))
    return -(own / (own + sum(others))).log()


def plain_kl(student, teacher, own_anchors, anchors, temperature=0.04):
    """Koohpayegani et al., NeurIPS 2020, section 3: p_j = exp(s . x_j / T) / sum_k exp(s . x_k / T) of
    both models, and the loss sum_i KL(p^t(i) || p^s(i)) over the images, divided by their number."""
    total = 0
    for s, t in zip(student, teacher, strict=True):
        p_s, p_t = (
            [(unit(x) @ a / temperature).exp() for a in rows]
            for x, rows in ((s, own_anchors), (t, anchors))
        )
        p_s, p_t = ([p / sum(probs) for p in probs] for probs in (p_s, p_t))
        total += sum(a * (a.log() - b.log()) for a, b in zip(p_t, p_s, strict=True))
    return total / len(student)


def plain_bingo(queries, keys, queue, own, mix, temperature=0.2):
    """Xu et al., ICLR 2022, section 3.3, as the authors' code weighs it: of a query of the image, of a
    member of its bag and of their mixture, InfoNCE with the teacher's keys of image and member."""

    def compare(query, key):
        pairs = zip(query, key, strict=True)
        return sum(plain_info_nce(q, k, queue, temperature) for q, k in pairs) / len(query)

    (image, member, mixed), (key, other) = queries, keys
    total = own * compare(image, key) + (1 - own) * compare(image, other)
    total += own * compare(member, other) + (1 - own) * compare(member, key)
    total += mix * compare(mixed, key) + (1 - mix) * compare(mixed, other)
    return total / 3


def two_views(batch, seed=1):
    """Two global views of noise."""
    return random_views(batch, sizes=(32, 32), seed=seed)


def losses_grads_and_queues(parts=(slice(None),)):
    """Of every head, for a batch of six images in parts, micro-batches of one step: the mean of the
    losses and of their gradients, and the queue after the step."""
    torch.manual_seed(0)
    width = Ends(neck=4)
    found = []
    for head, shapes, more in (
        (CompRessHead(1, queue_length=9), [(6, 4), (6, 4)], ()),
        (CompRessHead(2, queue_length=9), [(6, 4), (6, 4), (6, 4)], ()),
        (QueueInfoNCEHead(queue_length=9), [(6, 4), (6, 4)], ()),
        (DisCoHead(), [(2, 6, 4), (2, 6, 4)], ()),
        (BINGOHead(queue_length=9, warmup_epochs=0), [(3, 6, 4), (2, 6, 4)], (0.3,)),
    ):
        head.reads = head.target_reads = 'neck'
        head.connect(width, width)
        student, *others = (torch.randn(shape) for shape in shapes)
        student.requires_grad_()
        for i, part in enumerate(parts):
            for module in head.modules():
                if hasattr(module, 'accumulating'):
                    module.accumulating = i + 1 < len(parts)
            loss = head(*(x[..., part, :] for x in (student, *others)), *more) / len(parts)
            loss.backward()
            found.append(loss.detach())
        found[-len(parts) :] = [sum(found[-len(parts) :])]
        found += [student.grad, *(value.double() for value in head.state_dict().values())]
    return found


def save_teacher(folder):
    """Weights of a tiny ViT, as a run of MOKD leaves them; returns the ``init_cfg`` of a backbone."""
    path = Path(folder) / 'teacher.pth'
    if not path.exists():
        network = build_mokd(dict(big=branch_cfg('vit')), seed=7).branches['big'].teacher
        state = {f'branches.big.teacher.{k}': v for k, v in network.state_dict().items()}
        torch.save(dict(state_dict=state), path)
    prefix = 'branches.big.teacher.backbone.'
    return dict(type='Pretrained', checkpoint=str(path), prefix=prefix)


def offline_cfg(algorithm, folder, heads=None, teacher=None, student=None, **kwargs):
    """Config of a CNN that learns from a frozen ViT; queues of 12."""
    terms = dict(CompRess='kl', DisCo='co', BINGO='bag')
    short = {terms[algorithm]: dict(queue_length=12)}
    backbone = dict(BACKBONES['vit'], init_cfg=save_teacher(folder))
    if algorithm != 'CompRess':
        kwargs = dict(neck_defaults=dict(hid_channels=16), **kwargs)
    return dict(
        type=f'mmmokd.{algorithm}',
        global_size=32,
        branches=dict(
            cnn=dict(
                backbone=BACKBONES['cnn'], heads={**short, **(heads or {})}, **(student or {})
            ),
            vit=dict(frozen=True, backbone=backbone, **(teacher or {})),
        ),
        data_preprocessor=dict(type='mmengine.BaseDataPreprocessor'),
        **kwargs,
    )


def build(cfg):
    """The model of a config with its initial weights."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg)
        model.init_weights()
    return model
