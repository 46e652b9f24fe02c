# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from mokd_testing import slow_center, slow_search_loss, slow_view_loss

from mmmokd.models.heads import (
    BaseDistillationHead,
    DistillationHead,
    SearchDistillationHead,
)
from mmmokd.utils.schedules import teacher_temp_at

CASES = [
    dict(views=2, globals_=2, prototypes=3),
    dict(views=10, globals_=2, prototypes=6, epoch=7, warmup_teacher_temp_epochs=30),
    dict(views=4, globals_=1, prototypes=5, epoch=60, loss_weight=0.1, student_temp=0.2),
    dict(views=5, globals_=3, prototypes=4, center_momentum=0.5, teacher_temp=0.3,
         warmup_teacher_temp=0.2, warmup_teacher_temp_epochs=4, epoch=2),
    dict(views=3, globals_=2, prototypes=4, center_momentum=1.0, loss_weight=0.0),
]  # fmt: skip


def plain_loss(student, teacher, center, student_temp, teacher_temp):
    """CE(s, t) through exponentials of every number, so that autograd differentiates it."""
    terms = []
    for g in range(len(teacher)):
        for v in range(len(student)):
            for b in range(student.shape[1]):
                if v == g:
                    continue
                target = ((teacher[g, b] - center) / teacher_temp).exp()
                scaled = (student[v, b] / student_temp).exp()
                terms.append(-((target / target.sum()) * (scaled / scaled.sum()).log()).sum())
    return sum(terms) / len(terms)


@pytest.mark.parametrize('case', CASES)
def test_loss_gradient_and_center_over_steps(case, float64):
    case = dict(case)
    views, globals_, prototypes = (case.pop(k) for k in ('views', 'globals_', 'prototypes'))
    epoch = case.pop('epoch', 0)
    head = DistillationHead(prototypes, **case)
    head.set_epoch(epoch)
    student_temp = case.get('student_temp', 0.1)
    length = case.get('warmup_teacher_temp_epochs', 30)
    temps = np.linspace(
        case.get('warmup_teacher_temp', 0.04), case.get('teacher_temp', 0.07), length
    )
    teacher_temp = temps[min(epoch, length - 1)]

    torch.manual_seed(0)
    center = [0.0] * prototypes
    for _ in range(3):
        student = torch.randn(views, 2, prototypes, requires_grad=True)
        teacher = torch.randn(globals_, 2, prototypes) / 3
        loss = head(student, teacher)
        (grad,) = torch.autograd.grad(loss, student)

        weight = case.get('loss_weight', 1.0)
        expected = slow_view_loss(
            student.tolist(), teacher.tolist(), center, student_temp, teacher_temp
        )
        assert float(loss) == pytest.approx(weight * expected, rel=1e-10)
        expected = plain_loss(student, teacher, torch.tensor(center), student_temp, teacher_temp)
        (expected_grad,) = torch.autograd.grad(weight * expected, student)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-13)

        center = slow_center(center, teacher.tolist(), case.get('center_momentum', 0.9))
        assert head.center[0].tolist() == pytest.approx(center, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize('head', [DistillationHead(4), SearchDistillationHead()])
def test_no_warm_up_of_the_weight(head):
    assert [set(head.set_epoch(e)) for e in (0, 9)] == [{'teacher_temp'}] * 2
    assert head.loss_weight == 1


@pytest.mark.parametrize(
    ('epoch', 'share'), [(0, 0.0), (0.5, 0.125), (1, 0.25), (3, 0.75), (4, 1.0), (9, 1.0)]
)
def test_warm_up_of_the_weight(epoch, share, float64):
    head = DistillationHead(4, loss_weight=0.1, warmup_weight_epochs=4)
    plain = DistillationHead(4, loss_weight=0.1)
    assert head.loss_weight == 0  # before the hook has told the epoch
    for each in (head, plain):
        logged = each.set_epoch(epoch)
        if each is head:
            assert logged['loss_weight'] == pytest.approx(0.1 * share)
    student, teacher = torch.randn(3, 2, 4), torch.randn(2, 2, 4)
    assert head(student, teacher) == pytest.approx(share * plain(student, teacher))


def test_targets_are_those_of_the_loss(float64):
    head = DistillationHead(4)
    head.center.normal_()
    head.set_epoch(100)
    teacher = torch.randn(2, 3, 4)
    expected = torch.softmax((teacher - head.center) / 0.07, dim=-1)
    torch.testing.assert_close(head.targets(teacher), expected)


@pytest.mark.parametrize('case', [dict(), dict(student_temp=0.5, loss_weight=0.1, epoch=15)])
def test_search_loss(case, float64):
    case = dict(case)
    epoch = case.pop('epoch', 0)
    head = SearchDistillationHead(**case)
    head.set_epoch(epoch)
    torch.manual_seed(0)
    student = torch.randn(3, 2, 5, requires_grad=True)
    searched = torch.randn(3, 2, 5)
    teacher_temp = np.linspace(0.04, 0.07, 30)[epoch]
    student_temp, weight = case.get('student_temp', 0.1), case.get('loss_weight', 1.0)
    expected = weight * slow_search_loss(
        student.tolist(), searched.tolist(), student_temp, teacher_temp
    )
    loss = head(student, searched)
    assert float(loss) == pytest.approx(expected, rel=1e-10)
    (grad,) = torch.autograd.grad(loss, student)
    target = (searched / teacher_temp).exp()
    target = target / target.sum(dim=-1, keepdim=True)
    probabilities = (student / student_temp).exp()
    probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    expected_grad = weight * (probabilities - target) / student_temp / 6
    torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-13)
    assert not head.state_dict()


def test_search_loss_needs_a_target_for_every_view():
    with pytest.raises(ValueError, match=r'\(6, 4\) and targets \(4, 4\)'):
        SearchDistillationHead()(torch.rand(3, 2, 4), torch.rand(2, 2, 4))


@pytest.mark.parametrize('length', [0, 1, 2, 30, 50])
def test_temperature_warm_up(length):
    temps = np.linspace(0.04, 0.07, length)
    head = SearchDistillationHead(warmup_teacher_temp_epochs=length)
    assert head.teacher_temp == pytest.approx(temps[0] if length else 0.07, rel=1e-15)
    for epoch in range(length + 3):
        expected = temps[epoch] if epoch < length else 0.07
        found = head.set_epoch(epoch)
        assert found == dict(teacher_temp=pytest.approx(expected, rel=1e-14))
        assert head.teacher_temp == teacher_temp_at(epoch, 0.04, 0.07, length)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    """Logits in half precision, under autocast: loss and center are those of float32."""
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 3, 64).to(dtype), torch.randn(2, 3, 64).to(dtype)
    heads = {True: DistillationHead(64), False: DistillationHead(64)}
    losses = {}
    for autocast, head in heads.items():
        head.center.copy_(torch.linspace(-1, 1, 64))
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
            inputs = (student, teacher) if autocast else (student.float(), teacher.float())
            losses[autocast] = head(*inputs)
            assert SearchDistillationHead()(inputs[0][:2], inputs[1]).dtype == torch.float32
    assert losses[True].dtype == torch.float32
    torch.testing.assert_close(losses[True], losses[False], rtol=0, atol=0)
    assert heads[True].center.dtype == torch.float32
    torch.testing.assert_close(heads[True].center, heads[False].center, rtol=0, atol=0)


def test_center_waits_for_the_last_micro_batch(float64):
    """The center of a batch in three parts is that of the batch, and parts see the same center."""
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 6, 5), torch.randn(2, 6, 5)
    whole, parts = DistillationHead(5), DistillationHead(5)
    for head in (whole, parts):
        head.center.fill_(0.3)
    loss = whole(student, teacher)
    losses = []
    for i in range(3):
        parts.accumulating = i < 2
        losses.append(parts(student[:, 2 * i : 2 * i + 2], teacher[:, 2 * i : 2 * i + 2]))
        assert torch.equal(parts.center, torch.full((1, 5), 0.3)) == (i < 2)
    torch.testing.assert_close(sum(losses) / 3, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.center, whole.center, rtol=1e-12, atol=0)

    # Nothing of the step before is left.
    whole(student, teacher)
    parts(student, teacher)
    torch.testing.assert_close(parts.center, whole.center, rtol=1e-12, atol=0)


def test_center_stays_in_evaluation():
    head = DistillationHead(4).eval()
    head(torch.randn(3, 2, 4), torch.randn(2, 2, 4))
    assert not head.center.any()


def test_subclass_with_a_loss_of_its_own():
    class Mine(BaseDistillationHead):
        def loss(self, student, teacher, views):
            return torch.tensor(self.teacher_temp)

    head = Mine(reads='projector')
    assert head.target(None, None, None) is None
    assert float(head.loss(None, None, None)) == pytest.approx(0.04)


def test_state_is_the_center_alone():
    head = DistillationHead(4)
    head.set_epoch(20)
    assert {key: tuple(value.shape) for key, value in head.state_dict().items()} == {
        'center': (1, 4)
    }


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (
            dict(student_temp=0),
            'student_temp of a distillation head must be a positive number, but got 0',
        ),
        (dict(teacher_temp=-0.1), 'teacher_temp .* must be a positive number, but got -0.1'),
        (
            dict(warmup_teacher_temp=float('nan')),
            'warmup_teacher_temp .* positive number, but got nan',
        ),
        (dict(warmup_teacher_temp_epochs=-1), 'warmup_teacher_temp_epochs .* >= 0, but got -1'),
        (dict(loss_weight=-1), 'loss_weight .* >= 0, but got -1'),
        (dict(center_momentum=1.1), r'center_momentum must be in \[0, 1\], but got 1.1'),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        DistillationHead(4, **settings)
