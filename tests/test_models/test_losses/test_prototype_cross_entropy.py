# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmmokd.models.losses import Target, fused_pass, prototype_cross_entropies
from mmmokd.models.losses import prototype_cross_entropy as module
from mmmokd.models.utils import build_prototype_layer, mean_logits

# Views, batch, width, prototypes, prototypes of a chunk: rows more and fewer than the width, K no
# multiple of the chunk and below it, one view beside the global ones, one image.
CASES = [(5, 3, 8, 37, 7), (3, 1, 8, 37, 100), (2, 2, 32, 40, 8), (10, 4, 16, 301, 64)]


def plain_losses(features, layer, temperature, targets):
    log_probs = torch.log_softmax(layer(features) / temperature, dim=-1)
    losses = []
    for target in targets:
        logits = target.layer(target.features).detach()
        if target.center is not None:
            logits = logits - target.center
        probs = torch.softmax(logits / target.temperature, dim=-1)
        losses.append(-torch.einsum('vm,mbk,vbk->', target.pairs, probs, log_probs))
    return losses


def random_case(views, batch, width, prototypes, chunk, monkeypatch):
    monkeypatch.setattr(module, 'CPU_CHUNK_BYTES', 1)
    monkeypatch.setattr(module, 'MIN_CHUNK', chunk)
    torch.manual_seed(views)
    layer, other = (build_prototype_layer(w, prototypes) for w in (width, 6))
    gain = layer.parametrizations.weight.original0
    gain.data.normal_()
    gain.data[0] = 0  # its gradient is not
    features = torch.randn(views, batch, width, requires_grad=True)
    globals_ = min(2, views - 1)
    pairs = (1 - torch.eye(views, globals_)) / 7
    teacher = torch.randn(globals_, batch, 6)
    center = torch.randn(1, prototypes)
    targets = [
        Target(teacher, other, 0.04, pairs, center),
        Target(teacher, other, 0.07, 3 * pairs),
        # One for each of the last views, by the student's own prototypes.
        Target(torch.randn(views - 1, batch, width), layer, 0.5, torch.eye(views)[:, 1:]),
    ]
    return features, layer, targets


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str
)
def test_losses_and_gradients(case, dtype, tolerance, monkeypatch, request):
    if dtype == torch.float64:
        request.getfixturevalue('float64')
    features, layer, targets = random_case(*case, monkeypatch)
    params = [features, *layer.parameters()]
    found, expected = (
        function(features, layer, 0.1, targets)
        for function in (prototype_cross_entropies, plain_losses)
    )
    # Each loss alone, then all with weights of their own.
    for factors in [*torch.eye(3), torch.tensor([1.0, -2.0, 0.5])]:
        sides = []
        for losses in (found, expected):
            total = sum(f * loss for f, loss in zip(factors, losses, strict=True))
            sides.append([total, *torch.autograd.grad(total, params, retain_graph=True)])
        for ours, plain in zip(*sides, strict=True):
            assert ours.dtype == dtype
            assert (ours - plain).norm() <= tolerance * plain.norm()


def test_frozen_gain_and_input(monkeypatch, float64):
    features, layer, targets = random_case(*CASES[0], monkeypatch)
    gain, direction = layer.parameters()
    gain.requires_grad_(False)
    sum(prototype_cross_entropies(features.detach(), layer, 0.1, targets)).backward()
    assert gain.grad is None and features.grad is None
    (expected,) = torch.autograd.grad(sum(plain_losses(features, layer, 0.1, targets)), direction)
    torch.testing.assert_close(direction.grad, expected)


def test_large_logits_in_float32(monkeypatch):
    """Logits in the thousands, of which float64 knows the loss."""
    features, layer, targets = random_case(*CASES[3], monkeypatch)
    layer.parametrizations.weight.original0.data *= 100
    found = prototype_cross_entropies(features, layer, 0.1, targets)
    expected = plain_losses(
        features.double(), layer.double(), 0.1,
        [t._replace(features=t.features.double(), layer=t.layer.double(), pairs=t.pairs.double())
         for t in targets],
    )  # fmt: skip
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=0)


def test_under_autocast_and_compiled(monkeypatch):
    """On the CPU in float32; the compiler may break the graph, not the result."""
    features, layer, targets = random_case(*CASES[0], monkeypatch)
    params = [features, *layer.parameters()]

    def gradients(function, autocast=False):
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            losses = function(features, layer, 0.1, targets)
        return [*losses, *torch.autograd.grad(sum(losses), params)]

    expected = gradients(prototype_cross_entropies)
    assert all(map(torch.equal, gradients(prototype_cross_entropies, True), expected))
    compiled = torch.compile(prototype_cross_entropies, backend='aot_eager')
    for ours, wanted in zip(gradients(compiled), expected, strict=True):
        torch.testing.assert_close(ours, wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize(
    ('dtype', 'tolerance', 'with_kernels'),
    [
        (None, 1e-5, True),
        (torch.float16, 5e-3, True),
        (torch.bfloat16, 3e-2, True),
        (torch.bfloat16, 3e-2, False),
    ],
    ids=str,
)
def test_on_a_gpu(dtype, tolerance, with_kernels, monkeypatch):
    features, layer, targets = random_case(10, 4, 16, 301, 64, monkeypatch)
    monkeypatch.setattr(module, 'GPU_CHUNK_BYTES', 1)
    monkeypatch.setattr(fused_pass, 'CHUNK_BYTES', 1)
    if not with_kernels:
        monkeypatch.setattr(module, 'kernels_for', lambda *_: None)
    sides = []
    for device in ('cpu', 'cuda'):
        layer.to(device)
        moved = [t._replace(features=t.features.to(device), pairs=t.pairs.to(device),
                            layer=t.layer.to(device),
                            center=None if t.center is None else t.center.to(device))
                 for t in targets]  # fmt: skip
        inputs = features.detach().to(device).requires_grad_()
        with torch.autocast('cuda', dtype, enabled=dtype is not None):
            losses = prototype_cross_entropies(inputs, layer, 0.1, moved)
        grads = torch.autograd.grad(sum(losses), [inputs, *layer.parameters()])
        sides.append([each.cpu() for each in (*losses, *grads)])
    for exact, ours in zip(*sides, strict=True):
        assert (ours - exact).norm() <= tolerance * exact.norm()


def test_no_array_of_rows_and_prototypes(monkeypatch):
    """Rows beyond the width: nothing has all prototypes but the layer, and a chunk's all rows."""
    views, batch, width, prototypes, chunk = CASES[3]
    features, layer, targets = random_case(*CASES[3], monkeypatch)
    rows = views * batch + sum(len(target.features) * batch for target in targets)
    sizes = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.append(max((x.numel() for x in [out] if isinstance(x, torch.Tensor)), default=0))
            return out

    with Recorder():
        sum(prototype_cross_entropies(features, layer, 0.1, targets)).backward()
    assert max(sizes) <= max(prototypes * width, chunk * rows) < prototypes * batch * (views - 1)


def test_mean_logits(float64):
    torch.manual_seed(0)
    layer = build_prototype_layer(6, 11)
    layer.parametrizations.weight.original0.data.normal_()
    features = torch.randn(2, 3, 6)
    expected = layer(features).mean(dim=(0, 1))
    torch.testing.assert_close(mean_logits(features, layer), expected)
