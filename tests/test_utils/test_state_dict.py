# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmmokd.utils.state_dict import load_state_dict_strict, tie_shared


class Computing(nn.Linear):
    """Drops a table that it computes again from what it loads, as mmpretrain's Swin V2 does."""

    def __init__(self):
        super().__init__(2, 1)
        self.register_buffer('table', torch.ones(3))
        self.register_load_state_dict_pre_hook(lambda module, state, *_: state.pop('table', None))


def test_what_a_module_drops_is_not_missing():
    source, target = Computing(), Computing()
    assert load_state_dict_strict(target, source.state_dict(), 'here') == []
    assert torch.equal(target.weight, source.weight)
    weights = source.state_dict()
    del weights['table']
    with pytest.raises(ValueError, match='here lacks 1 of the 3 weights of Computing: table'):
        load_state_dict_strict(target, weights, 'here')


def test_copies_of_a_shared_tensor_are_tied():
    model = nn.ModuleDict(dict(a=nn.Linear(2, 2), b=nn.Linear(2, 2), norm=nn.BatchNorm1d(2)))
    model['b'].weight, model['again'] = model['a'].weight, model['norm']
    copies = {name: value.clone() for name, value in model.state_dict().items()}
    expected = dict(copies)
    tie_shared(copies, model)
    assert list(copies) == list(expected)
    assert all(torch.equal(copies[name], value) for name, value in expected.items())
    assert copies['b.weight'] is copies['a.weight'] and copies['b.bias'] is not copies['a.bias']
    assert copies['again.running_mean'] is copies['norm.running_mean']
