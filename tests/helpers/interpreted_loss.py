# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Run under TRITON_INTERPRET=1: the kernels of the loss against its plain text, on the CPU."""

import torch

from mmmokd.models.losses import Target, fused_pass, kernels, prototype_cross_entropies
from mmmokd.models.losses import prototype_cross_entropy as module
from mmmokd.models.utils import build_prototype_layer

HALF = torch.float16  # the interpreter multiplies no bfloat16
# Rows, width, prototypes: no multiples of a tile, one row, multiples.
SHAPES = [(5, 24, 37), (1, 16, 130), (33, 80, 64), (32, 32, 64)]


def check_kernels(count, width, number):
    """Each kernel alone, against float64 of the same rounded factors."""
    gain, direction = torch.randn(number, 1), torch.randn(number, width)
    norm = direction.double().norm(dim=1, keepdim=True)
    weights = kernels.prototypes(gain, direction, HALF)
    exact = gain * direction / norm
    assert weights.dtype == HALF and (weights - exact).abs().max() <= exact.abs().max() / 1024
    rows = (3 * torch.randn(count, width)).to(HALF)
    for shift in (None, 3 * torch.randn(1, number)):
        logits = rows.double() @ weights.double().t() - (0 if shift is None else shift)
        total = kernels.log_sum_exps(rows, weights, shift)
        torch.testing.assert_close(total.double(), logits.logsumexp(dim=1), rtol=1e-6, atol=1e-5)
        for factor in (None, torch.randn(count)):
            room = torch.full((count + 2, number + 3), 7.0, dtype=HALF)
            kernels.probabilities(room[1:-1, :number], rows, weights, total, factor, shift)
            probs = logits.softmax(dim=1) * (1 if factor is None else factor[:, None])
            found = room[1:-1, :number].double()
            torch.testing.assert_close(found, probs, rtol=1e-3, atol=1e-7)
            room[1:-1, :number] = 7
            assert (room == 7).all()  # nothing beyond the edges is written
    grad, grad_gain = torch.randn(number, width), torch.zeros(number, 1)
    along = (grad * direction / norm).sum(dim=1, keepdim=True)
    expected = (grad - direction / norm * along) * gain / norm
    without = grad.clone()
    kernels.to_direction(without, gain, direction, None)
    kernels.to_direction(grad, gain, direction, grad_gain)
    assert torch.equal(without, grad)
    torch.testing.assert_close(grad.double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grad_gain.double(), along, rtol=1e-4, atol=1e-5)


def check_pass(keep, frozen, targets_of):
    """The whole pass with its gradients, against float64."""
    views, batch, width, number = 5, 3, 16 if keep else 4, 301
    layer, other = build_prototype_layer(width, number), build_prototype_layer(6, number)
    layer.parametrizations.weight.original0.data.normal_()
    layer.parametrizations.weight.original0.requires_grad_(not frozen)
    features = torch.randn(batch, views, width).transpose(0, 1).requires_grad_()
    pairs = (1 - torch.eye(views, 2)) / 7
    teacher, center = torch.randn(2, batch, 6), torch.randn(1, number)
    targets = [
        Target(teacher, other, 0.04, pairs, center),
        Target(teacher, other, 0.07, 3 * pairs),
        # By the student's own prototypes.
        Target(torch.randn(views - 1, batch, width), layer, 0.5, torch.eye(views)[:, 1:]),
    ][targets_of]
    params = [features, *(p for p in layer.parameters() if p.requires_grad)]
    sides = []
    for loaded in (kernels, None):
        module.kernels_for = lambda *_, loaded=loaded: loaded
        losses = prototype_cross_entropies(features, layer, 0.1, targets)
        total = sum((i + 1) * loss for i, loss in enumerate(losses))
        sides.append([*losses, *torch.autograd.grad(total, params)])
    for ours, plain in zip(*sides, strict=True):
        assert ours.dtype == plain.dtype and ours.shape == plain.shape
        error = (ours - plain).norm() / plain.norm()
        assert error <= 3e-3, error


class Rounded(fused_pass.FusedPass):
    """On the CPU the caller's factors are float32."""

    @staticmethod
    def forward(ctx, settings, *inputs):
        return fused_pass.FusedPass.forward(ctx, (settings[0], HALF, settings[2]), *inputs)


torch.manual_seed(0)
kernels.TILE = dict(kernels.TILE, ROWS=32, COLUMNS=32, DEPTH=16)
for shape in SHAPES:
    check_kernels(*shape)
module.FusedPass = Rounded
fused_pass.CHUNK_BYTES, fused_pass.MIN_PART = 1, 16
for arguments in [
    (True, False, slice(None)),
    (False, False, slice(None)),
    (False, True, slice(1, 2)),
]:
    check_pass(*arguments)
