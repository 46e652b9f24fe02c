# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Mutual Contrastive Learning against plain loops over numbers."""

import math

import pytest
import torch
from mmengine.registry import DefaultScope
from mokd_testing import BACKBONES, AfterStep, random_views, slow_softmax, train

from mmmokd.models.branches.seen_views import group_by_size
from mmmokd.registry import MODELS

T, WIDTH, LENGTH = 0.07, 5, 7


def model_cfg(names=('cnn', 'vit'), branches=None, **kwargs):
    settings = dict(
        type='mmmokd.MCL',
        branches={name: dict(backbone=BACKBONES[name]) for name in names} | (branches or {}),
        global_size=32,
        queue_length=LENGTH,
        neck_defaults=dict(out_channels=WIDTH),
        data_preprocessor=dict(type='mmengine.BaseDataPreprocessor'),
    )
    return {**settings, **kwargs}


def build(*args, **kwargs):
    """An MCL whose students have moved away from their teachers."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(model_cfg(*args, **kwargs))
        model.init_weights()
    for branch in model.branches.values():
        if branch.student is not None:
            for param in branch.student.parameters():
                param.data.add_(0.02 * torch.randn_like(param))
    return model.to(torch.get_default_dtype())


def embed(network, views):
    """L2-normalized embeddings of some views, as lists, [view][image][channel]."""
    found = network(group_by_size(views[:2], views[2:]), len(views[0]))['projector']
    return torch.nn.functional.normalize(found, dim=-1).tolist()


def plain_losses(model, views, queues, pairs, weights):
    """The losses of the paper ("Vanilla", "Interactive" and "Soft Contrastive Learning"), by numbers."""
    q = {n: embed(b.network('student'), views) for n, b in model.branches.items()}
    k = {n: embed(b.network('teacher'), views[:2]) for n, b in model.branches.items()}

    def logits(i, j, v, g, b, softening=1):
        keys = [k[j][g][b], *queues[j]]
        return [
            sum(x * y for x, y in zip(q[i][v][b], key, strict=True)) / T / softening for key in keys
        ]

    def mean(term):
        terms = [term(v, g, b) for v, g in pairs for b in range(len(views[0]))]
        return sum(terms) / len(terms)

    def contrast(i, j):
        return mean(lambda v, g, b: -math.log(slow_softmax(logits(i, j, v, g, b))[0]))

    def kl(student, teacher):
        def term(v, g, b):
            p = slow_softmax(logits(*teacher, v, g, b, softening=3))
            q = slow_softmax(logits(*student, v, g, b, softening=3))
            return 9 * sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))

        return mean(term)

    losses = {}
    for i, branch in model.branches.items():
        if branch.student is None:
            continue
        losses[f'{i}.loss_vcl'] = contrast(i, i)
        for j in model.branches:
            if j != i:
                losses[f'{i}.loss_soft_vcl.{j}'] = weights[i] * kl((i, i), (j, j))
                losses[f'{i}.loss_icl.{j}'] = weights[i] * contrast(i, j)
                losses[f'{i}.loss_soft_icl.{j}'] = weights[i] * kl((i, j), (j, i))
    return losses, k


FIRST = dict(student_views='first')
ALL = dict(student_views='all')
BOTH = dict(student_views='globals')


@pytest.mark.parametrize(
    ('settings', 'sizes', 'pairs'),
    [
        (FIRST, (32, 32), [(0, 1)]),
        (BOTH, (32, 32), [(0, 1), (1, 0)]),
        (ALL, (32, 32, 24), [(0, 1), (1, 0), (2, 0), (2, 1)]),
    ],
)
def test_losses_and_queues(settings, sizes, pairs, float64):
    """Of two models that learn and a frozen one, in three steps."""
    big = dict(backbone=BACKBONES['next'], frozen=True)
    vit = dict(backbone=BACKBONES['vit'], cross_weight=0.5)
    model = build(branches=dict(vit=vit, big=big), **settings)
    model.branches['big'].load_state_dict(model.branches['big'].state_dict())
    queues = {name: queue['keys'].tolist() for name, queue in model.queues.items()}
    for step in range(3):
        views = random_views(2, sizes, seed=step)
        with torch.no_grad():
            expected, keys = plain_losses(model, views, queues, pairs, dict(cnn=1.0, vit=0.5))
        found = model(views, mode='loss')
        assert {name: loss.item() for name, loss in found.items()} == pytest.approx(
            expected, rel=1e-9
        )
        assert list(found) == list(expected)
        for name, queue in queues.items():
            for g in sorted({g for _, g in pairs}):  # the oldest go, the new ones come last
                queue[:] = [*queue[2:], *keys[name][g]]
            left = model.queues[name]
            start = int(left.pointer)
            rows = torch.cat([left['keys'][start:], left['keys'][:start]])
            torch.testing.assert_close(rows, torch.tensor(queue), rtol=1e-9, atol=1e-12)
    model.eval()
    before = model.queues['cnn']['keys']
    model(views, mode='loss')
    assert torch.equal(model.queues['cnn']['keys'], before)


def test_gradients_stay_in_their_branch(float64):
    """Targets carry none: a branch's gradient is that of its own losses; no teacher has one."""
    model = build(('cnn', 'vit', 'next'))
    views = random_views(2, (32, 32))
    state = {name: value.clone() for name, value in model.state_dict().items()}

    def gradients(which):
        model.zero_grad()
        model.load_state_dict(state)
        losses = model(views, mode='loss')
        sum(loss for name, loss in losses.items() if name.startswith(which)).backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    together, alone = gradients(''), gradients('cnn.')
    assert {name.split('.')[2] for name in together} == {'student'}
    assert alone.keys() == {name for name in together if name.startswith('branches.cnn.')}
    for name, grad in alone.items():
        torch.testing.assert_close(grad, together[name], rtol=1e-9, atol=1e-14)


def test_one_branch_after_the_other(float64):
    """A branch may be trained as soon as its losses are given: the same as all at once."""
    models = build(('cnn', 'vit', 'next')), build(('cnn', 'vit', 'next'))
    optimizers = [torch.optim.SGD(model.branches.parameters(), lr=0.1) for model in models]
    for step in range(2):
        views = random_views(2, (32, 32), seed=step)
        together = models[0](views, mode='loss')
        sum(together.values()).backward()
        optimizers[0].step()
        apart = {}
        for name, losses in models[1].losses_by_branch(views):
            assert all(key.startswith(f'{name}.loss_') for key in losses)
            apart.update(losses)
            sum(losses.values()).backward()
            optimizers[1].step()
            optimizers[1].zero_grad()
        optimizers[0].zero_grad()
        assert list(apart) == list(together)
    for one, other in zip(*(model.state_dict().values() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-13)


def test_micro_batches_are_the_batch(float64):
    """Losses, gradients and queues, of backbones without batch norm."""
    whole, parts = build(), build()
    views = random_views(4, (32, 32))
    loss, _ = whole.parse_losses(whole(views, mode='loss'))
    loss.backward()
    for i in range(2):
        for queue in parts.queues.values():
            queue.accumulating = i == 0
        losses = parts([view[2 * i : 2 * i + 2] for view in views], mode='loss')
        (parts.parse_losses(losses)[0] / 2).backward()
    for one, other in zip(parts.parameters(), whole.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-8, atol=1e-12)
    for key, value in whole.queues.state_dict().items():
        torch.testing.assert_close(parts.queues.state_dict()[key], value, rtol=1e-10, atol=1e-14)


def test_queues_move_with_the_optimizer(runner_cfg):
    """Also in the last micro-batch of a run, whatever of a step is left."""
    optim = dict(accumulative_counts=2)
    cfg = runner_cfg(length=10, batch_size=2, max_epochs=1, optim=optim, model=model_cfg())
    cfg.train_dataloader.dataset.sizes = (32, 32)
    cfg.optim_wrapper.branches.cnn.pop('parts')
    cfg.param_scheduler = None
    pointers = []
    train(cfg, AfterStep(lambda runner: pointers.append(int(runner.model.queues.cnn.pointer))))
    assert pointers == [0, 4, 4, 8 % LENGTH, 10 % LENGTH]


def test_groups_of_keys(float64):
    """Without batch norm they change nothing; with it, each group has statistics of its own."""
    views = random_views(4, (32, 32))
    both = dict(student_views='globals', queue_length=8)
    one, groups = build(**both), build(**both, key_groups=2)
    for found, expected in zip(
        groups(views, mode='loss').values(), one(views, mode='loss').values(), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    norm = dict(cnn=dict(backbone=dict(BACKBONES['cnn'], norm_cfg=dict(type='BN'))))
    one, groups = build(branches=norm), build(branches=norm, key_groups=2)
    losses = [model(views, mode='loss')['cnn.loss_vcl'] for model in (one, groups)]
    assert not torch.isclose(*losses)
    assert [any(head.capturable for *_, head in m.heads_by_name()) for m in (one, groups)] == [1, 0]
    with pytest.raises(ValueError, match='key_groups=2 of MCL needs at least 2 images per group'):
        groups([view[:3] for view in views], mode='loss')


def test_accuracy_is_logged():
    model = build()
    _, logged = model.parse_losses(model(random_views(2, (32, 32)), mode='loss'))
    keys = {key for key in logged if key.endswith('accuracy')}
    assert keys == {
        f'{a}.{term}' for a, b in (('cnn', 'vit'), ('vit', 'cnn'))
        for term in ('vcl.accuracy', f'icl.{b}.accuracy')
    }  # fmt: skip
    assert all(0 <= logged[key] <= 100 for key in keys)


def test_one_branch_is_moco():
    assert list(build(('vit',))(random_views(2, (32, 32)), mode='loss')) == ['vit.loss_vcl']


def test_state():
    """Queues come after the branches, whose keys are those of any algorithm."""
    keys = list(build().state_dict())
    names = [f'queues.{name}.{key}' for name in ('cnn', 'vit') for key in ('keys', 'pointer')]
    assert keys[-4:] == names
    assert all(key.startswith('branches.') for key in keys[:-4])
    assert 'branches.vit.student.projector.fc.weight' in keys


def vit(**kwargs):
    return dict(branches=dict(vit=dict(backbone=BACKBONES['vit'], **kwargs)))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (
            dict(student_views='one'),
            "student_views of MCL must be one of 'first', 'globals', 'all', but got 'one'",
        ),
        (dict(key_groups=0), 'key_groups of MCL must be a whole number of at least 1'),
        (dict(queue_length=0), 'length of a queue must be a whole number of at least 1'),
        (dict(num_global_views=3), "'first' contrasts two global views, but num_global_views is 3"),
        (
            dict(BOTH, num_global_views=1),
            "'globals' contrasts at least two .* num_global_views is 1",
        ),
        (
            vit(projector=dict(out_channels=3)),
            r'branch cnn, heads.soft_vcl: the embeddings of both models \(projector\) .* got 5 and 3',
        ),
        (
            vit(heads=dict(vcl=dict(reads='pooled'))),
            'must read one neck, of which a branch has one queue, but got pooled, projector',
        ),
        (
            vit(views=[1, 0]),
            r'branch vit: MCL takes no views=\[1, 0\] of a branch: all branches see the views that',
        ),
        (vit(cache='x', frozen=True), "branch vit: MCL takes no cache='x' of a branch: queries"),
    ],
)
def test_what_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_a_batch_that_is_too_long():
    with pytest.raises(ValueError, match='a queue of 7 embeddings is shorter than the 8 images'):
        build(**BOTH)(random_views(4, (32, 32)), mode='loss')
