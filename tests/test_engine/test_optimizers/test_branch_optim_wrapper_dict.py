# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch import nn

from mmmokd.engine import BranchOptimWrapperDict, clip_grad_norm_per_parameter_


class Toy(nn.Module):
    """Two branches that share nothing, and losses of them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.branches = nn.ModuleDict(dict(a=nn.Linear(3, 2), b=nn.Linear(3, 2)))

    def losses(self, x):
        weights = dict(a=1.0, b=20.0)
        return {n: weights[n] * b(x).square().sum(dim=1).mean() for n, b in self.branches.items()}

    def total(self, x):
        losses = self.losses(x)
        total = sum(losses.values())
        total.branch_losses = losses
        return total


def make_wrappers(model, wrapper=OptimWrapper, clip=True, **kwargs):
    made = {}
    for name, branch in model.branches.items():
        optimizer = torch.optim.SGD(branch.parameters(), lr=0.01, momentum=0.9)
        clip_grad = dict(clip_grad=dict(max_norm=1.0)) if clip else {}
        made[name] = wrapper(optimizer=optimizer, **clip_grad, **kwargs)
        made[name].clip_func = clip_grad_norm_per_parameter_
    return made


def batches(count):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, generator=generator) for _ in range(count)]


def assert_same(model, other, **tolerance):
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, **tolerance)


def test_steps_are_those_of_separate_optimizers(float64):
    model, apart = Toy(), Toy()
    wrappers = BranchOptimWrapperDict(**make_wrappers(model))
    others = make_wrappers(apart)
    for x in batches(3):
        with wrappers.optim_context(model):
            loss = model.total(x)
        wrappers.update_params(loss)
        assert all(param.grad is None for param in model.parameters())
        for name, loss in apart.losses(x).items():
            others[name].update_params(loss)
        assert_same(model, apart, rtol=0, atol=0)


@pytest.mark.parametrize('micro_batches', [4, 5])
def test_accumulation(micro_batches, float64):
    """Two micro-batches a step, whatever is left in the last: as whole batches."""
    model, whole = Toy(), Toy()
    wrappers = BranchOptimWrapperDict(**make_wrappers(model, accumulative_counts=2))
    others = BranchOptimWrapperDict(**make_wrappers(whole))
    wrappers.initialize_count_status(model, 0, micro_batches)
    data = batches(micro_batches)
    updates, syncs = [], []
    for i, x in enumerate(data):
        syncs.append(wrappers.should_sync())
        wrappers.update_params(model.total(x))
        updates.append(wrappers.should_update())
        assert wrappers.inner_count == i + 1
    for i in range(0, micro_batches, 2):
        others.update_params(whole.total(torch.cat(data[i : i + 2])))
    assert updates == syncs == [False, True, False, True, True][:micro_batches]
    assert_same(model, whole, rtol=1e-12, atol=1e-14)


def test_gradients_are_synchronized_once_a_step():
    model = Toy()
    calls = []

    @contextmanager
    def no_sync():
        calls.append(len(calls))
        yield

    model.no_sync = no_sync
    wrappers = BranchOptimWrapperDict(**make_wrappers(model, accumulative_counts=3))
    wrappers.initialize_count_status(model, 0, 7)
    counts = []
    for x in batches(7):
        with wrappers.optim_context(model):
            loss = model.total(x)
        wrappers.update_params(loss)
        counts.append(len(calls))
    assert counts == [1, 2, 2, 3, 4, 4, 4]


@pytest.fixture
def amp_on_cpu(monkeypatch):
    """mmengine's wrapper for mixed precision, with PyTorch's scaler for the CPU."""
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    scaler = partial(torch.amp.GradScaler, 'cpu')
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', scaler)
    return partial(AmpOptimWrapper, loss_scale=dict(init_scale=1024.0))


def test_scaled_gradients_are_unscaled_before_clipping(amp_on_cpu):
    model, plain = Toy(), Toy()
    wrappers = BranchOptimWrapperDict(**make_wrappers(model, amp_on_cpu))
    others = BranchOptimWrapperDict(**make_wrappers(plain))
    for x in batches(3):
        wrappers.update_params(model.total(x))
        others.update_params(plain.total(x))
    assert_same(model, plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('counts', [1, 2])
def test_overflow_in_one_branch(amp_on_cpu, counts):
    """It skips that branch's step and halves its scale; the other branch continues."""
    model, plain = Toy(), Toy()
    wrapper = partial(amp_on_cpu, accumulative_counts=counts)
    wrappers = BranchOptimWrapperDict(**make_wrappers(model, wrapper))
    others = BranchOptimWrapperDict(**make_wrappers(plain, accumulative_counts=counts))
    before = model.branches['a'].weight.detach().clone()
    for x in batches(counts):
        losses = model.losses(x)
        losses['a'] = losses['a'] * 1e38
        total = sum(losses.values())
        total.branch_losses = losses
        wrappers.update_params(total)
        others.update_params(plain.total(x))
    assert torch.equal(model.branches['a'].weight, before)
    assert_same(model.branches['b'], plain.branches['b'], rtol=1e-6, atol=1e-7)
    scales = {name: w.loss_scaler.get_scale() for name, w in wrappers.items()}
    assert scales == dict(a=512.0, b=1024.0)


def test_scalers_are_part_of_the_state(amp_on_cpu):
    model = Toy()
    wrappers = BranchOptimWrapperDict(**make_wrappers(model, amp_on_cpu))
    wrappers.update_params(model.total(batches(1)[0]))
    wrappers['a'].loss_scaler.update(32.0)
    other = BranchOptimWrapperDict(**make_wrappers(Toy(), amp_on_cpu))
    other.load_state_dict(wrappers.state_dict())
    assert {n: w.loss_scaler.get_scale() for n, w in other.items()} == dict(a=32.0, b=1024.0)


def test_mixed_precision_needs_the_losses_of_branches(amp_on_cpu):
    model = Toy()
    wrappers = BranchOptimWrapperDict(**make_wrappers(model, amp_on_cpu))
    x = batches(1)[0]
    with pytest.raises(ValueError, match=r"losses of \['a', 'b'\] .*, but got none"):
        wrappers.update_params(sum(model.losses(x).values()))
    total = model.total(x)
    del total.branch_losses['b']
    with pytest.raises(ValueError, match=r"but got those of \['a'\]"):
        wrappers.update_params(total)


def test_one_branch_in_mixed_precision_needs_no_more_than_a_loss(amp_on_cpu):
    model, plain = Toy(), Toy()
    del model.branches['b'], plain.branches['b']
    wrappers = BranchOptimWrapperDict(**make_wrappers(model, amp_on_cpu))
    others = BranchOptimWrapperDict(**make_wrappers(plain))
    x = batches(1)[0]
    wrappers.update_params(model.losses(x)['a'])
    others.update_params(plain.losses(x)['a'])
    assert_same(model, plain, rtol=1e-6, atol=1e-7)


def test_branches_have_accumulation_and_precision_in_common():
    first = make_wrappers(Toy(), accumulative_counts=1)['a']
    second = make_wrappers(Toy(), accumulative_counts=2)['b']
    with pytest.raises(ValueError, match='the same type, autocast dtype and accumulative_counts'):
        BranchOptimWrapperDict(a=first, b=second)
    with pytest.raises(ValueError, match=r'but got \[\]'):
        BranchOptimWrapperDict()
