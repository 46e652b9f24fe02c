# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmmokd.models.branches import TokenAdapter
from mmmokd.registry import MODELS

PATCHES = torch.randn(2, 15, 4)  # 3 x 5


def read(output, size=(48, 80), **kwargs):
    adapter = MODELS.build(dict(type='mmmokd.TokenAdapter', **kwargs))
    return adapter(output, nn.Identity(), size)


@pytest.mark.parametrize('channels_first', [False, True])
@pytest.mark.parametrize('num_extra', [1, 2, 5])
@pytest.mark.parametrize(('position', 'before'), [('first', 0), ('middle', 7), ('last', 15)])
def test_where_the_extra_tokens_stand(position, before, num_extra, channels_first):
    extra = torch.randn(2, num_extra, 4)
    sequence = torch.cat([PATCHES[:, :before], extra, PATCHES[:, before:]], dim=1)
    output = sequence.transpose(1, 2) if channels_first else sequence
    for class_token in (0, num_extra - 1, None):
        features = read(
            [torch.zeros(1), output],
            num_extra_tokens=num_extra,
            position=position,
            class_token=class_token,
            channels_first=channels_first,
        )
        expected = PATCHES.mean(dim=1) if class_token is None else extra[:, class_token]
        assert torch.equal(features.pooled, expected)
        assert torch.equal(features.tokens, PATCHES)
        assert features.grid == (3, 5)


def test_no_extra_tokens():
    features = read(PATCHES, num_extra_tokens=0)
    assert torch.equal(features.pooled, PATCHES.mean(dim=1))


def test_a_pooled_feature_of_its_own():
    output = dict(last_hidden_state=PATCHES, pooler_output=torch.randn(2, 4))
    features = read(
        output, num_extra_tokens=0, index='last_hidden_state', pooled_index='pooler_output'
    )
    assert features.pooled is output['pooler_output']


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(position='front'), "must be one of 'first', 'middle', 'last', but got 'front'"),
        (dict(num_extra_tokens=-1), 'num_extra_tokens of TokenAdapter must be a whole number'),
        (dict(class_token=1), 'class_token of TokenAdapter must be below num_extra_tokens=1'),
        (dict(num_extra_tokens=0, class_token=2), 'must be below num_extra_tokens=0 or None'),
    ],
)
def test_arguments_that_do_not_fit(kwargs, message):
    with pytest.raises(ValueError, match=message):
        TokenAdapter(**kwargs)


@pytest.mark.parametrize(
    ('output', 'message'),
    [
        (PATCHES, 'the backbone Identity gave 14 tokens for images of 48x80, which form no grid'),
        (torch.zeros(2, 1, 4), 'gave 0 tokens'),
        (
            torch.zeros(2, 4),
            r'TokenAdapter reads tokens \(B, N, C\) from output -1 .* gave \(2, 4\)',
        ),
    ],
)
def test_outputs_that_are_no_such_sequence(output, message):
    with pytest.raises(ValueError, match=message):
        read(output)
