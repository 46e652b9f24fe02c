# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmmokd.models.necks import TransformerSearchHead
from mmmokd.structures import BackboneFeatures, NetworkOutput

B, C = 3, 8


class Neck(nn.Module):
    """Multiplies; counts its calls. As mmpretrain's necks it has a tuple in, a tuple out."""

    def __init__(self, reads_maps=False, as_tuple=True):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.as_tuple, self.seen = as_tuple, []
        if reads_maps:
            self.reads_maps = True

    def forward(self, inputs):
        if isinstance(inputs, tuple):
            (x,) = inputs
        else:
            x = torch.cat([features.tokens.sum(dim=1) for features in inputs])
        self.seen.append(x)
        out = self.weight * x
        return (x, out) if self.as_tuple else out


def network():
    net = nn.Module()
    net.neck, net.plain, net.maps = (
        Neck(),
        Neck(as_tuple=False),
        Neck(reads_maps=True, as_tuple=False),
    )
    torch.manual_seed(0)
    net.search_head = TransformerSearchHead(C, 6, 5, grid_size=2, num_heads=2, num_layers=1)
    return net


def passes(*views_and_grids):
    torch.manual_seed(1)
    return [
        BackboneFeatures(
            torch.randn(v * B, C, requires_grad=True), torch.randn(v * B, g * g, C), (g, g)
        )
        for v, g in views_and_grids
    ]


def test_outputs():
    net, features = network(), passes((2, 2), (3, 1))
    output = NetworkOutput(net, features, B)
    pooled = torch.cat([each.pooled for each in features]).unflatten(0, (5, B))
    assert torch.equal(output['pooled'], pooled)
    assert torch.equal(output['neck'], 2 * pooled) and torch.equal(output['plain'], 2 * pooled)
    tokens = torch.cat([each.tokens.sum(dim=1) for each in features]).unflatten(0, (5, B))
    assert torch.equal(output['maps'], 2 * tokens)
    head = net.search_head
    expected = [head(head.embed(each.tokens, each.grid)) for each in features]
    torch.testing.assert_close(output['search_head'], torch.cat(expected).unflatten(0, (5, B)))
    assert len(net.neck.seen) == 1 and output['neck'] is output['neck']
    with pytest.raises(ValueError, match="searches the maps of 'neck', but Neck embeds none"):
        output.embedded('neck')
    with pytest.raises(KeyError, match="no neck 'other'"):
        output['other']


def test_tokens_of_one_size():
    features = passes((2, 2), (1, 2))
    found = NetworkOutput(network(), features, B)['tokens']
    assert torch.equal(found, torch.cat([each.tokens for each in features]).unflatten(0, (3, B)))
    with pytest.raises(ValueError, match=r'differ in size, \(2, 2\), \(1, 1\): .* `passes`'):
        NetworkOutput(network(), passes((2, 2), (1, 1)), B)['tokens']


def test_gradients_are_those_of_the_pass():
    """However a head reads an output first."""
    net, features = network(), passes((2, 2))
    output = NetworkOutput(net, features, B)
    with torch.no_grad():
        assert output['neck'].requires_grad
        target = NetworkOutput(net, features, B)
    assert not target['neck'].requires_grad and not target.embedded('search_head')[0].requires_grad


def test_detached():
    net, features = network(), passes((2, 2), (3, 1))
    output = NetworkOutput(net, features, B)
    target = output.detach(2)
    for name in ('neck', 'search_head', 'pooled'):
        assert torch.equal(target[name], output[name][:2])
        assert output[name].requires_grad and not target[name].requires_grad
    assert torch.equal(target['tokens'].flatten(0, 1), features[0].tokens)
    assert len(target.passes) == 1 and not target.passes[0].pooled.requires_grad
    (embedded,) = target.embedded('search_head')
    assert torch.equal(embedded, output.embedded('search_head')[0]) and not embedded.requires_grad
    assert len(net.neck.seen) == 1


def test_first_views():
    """As if there were no others, with gradients; several heads share what a neck gives."""
    net, features = network(), passes((2, 2), (3, 1))
    output = NetworkOutput(net, features, B)
    first = output.first(2)
    assert torch.equal(first['neck'], 2 * output['pooled'][:2]) and first['neck'].requires_grad
    assert len(net.neck.seen) == 1 and len(net.neck.seen[0]) == 2 * B
    assert output.first(2) is first and output.first(5) is output
    with torch.no_grad():
        assert NetworkOutput(net, features, B).first(2)['neck'].requires_grad is False
    target = output.detach(2).first(2)
    assert torch.equal(target['neck'], first['neck']) and not target['neck'].requires_grad
    assert len(net.neck.seen) == 2  # of the one without gradients
    with pytest.raises(ValueError, match='first 1 views are not those of whole passes, but 2 are'):
        output.first(1)


def test_once():
    output, calls = NetworkOutput(network(), passes((1, 1)), B), []
    assert [output.once('neck.key', lambda: calls.append(1) or 'value') for _ in range(2)] == [
        'value', 'value'
    ]  # fmt: skip
    assert len(calls) == 1


def test_watched_neck():
    """Told once, when a head reads the neck; of the first views, where these alone are read."""
    net, groups = network(), passes((2, 4), (1, 2))
    whole, first = NetworkOutput(net, groups, B), NetworkOutput(net, groups, B)
    seen = []
    for output in (whole, first):
        output.watch('neck', seen.append)
    assert not net.neck.seen
    assert whole['plain'] is not None and not seen
    for _ in range(2):
        found = whole.detach(2)['neck'], whole['neck']
    assert len(seen) == 1 and torch.equal(seen[0].unflatten(0, (3, B)), found[1])
    assert torch.equal(first.first(2)['neck'], seen[1].unflatten(0, (2, B))) and len(seen) == 2
