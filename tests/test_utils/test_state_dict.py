# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmmokd.utils.state_dict import load_state_dict_strict


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
