# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmmokd.models.branches import BackboneAdapter
from mmmokd.structures import BackboneFeatures

POOLED, TOKENS = torch.zeros(2, 5), torch.zeros(2, 6, 5)


class Gives(BackboneAdapter):
    """An adapter that reads what it is told to."""

    def __init__(self, result):
        super().__init__()
        self.result = result

    def read(self, output, backbone, image_size):
        return self.result


def test_what_fits_passes():
    features = BackboneFeatures(POOLED, torch.zeros(2, 6, 7), (2, 3))  # C may differ
    assert Gives(features)(None, nn.Identity(), (32, 48)) is features


@pytest.mark.parametrize(
    ('result', 'found'),
    [
        (TOKENS, r'\(2, 6, 5\) instead of BackboneFeatures'),
        (None, 'NoneType instead of BackboneFeatures'),
        ((POOLED, TOKENS), r'tuple of \(2, 5\), \(2, 6, 5\) instead of BackboneFeatures'),
        (BackboneFeatures(TOKENS, TOKENS, (2, 3)), r'pooled \(2, 6, 5\)'),
        (BackboneFeatures(POOLED, POOLED, (2, 3)), r'tokens \(2, 5\)'),
        (BackboneFeatures(POOLED, TOKENS, (2.0, 3)), r'grid \(2.0, 3\)'),
        (BackboneFeatures(POOLED, TOKENS, 6), 'grid 6'),
        (
            BackboneFeatures(POOLED, TOKENS, (2, 2)),
            r'pooled \(2, 5\), tokens \(2, 6, 5\) and grid \(2, 2\)',
        ),
        (
            BackboneFeatures(POOLED[:1], TOKENS, (2, 3)),
            r'pooled \(1, 5\), tokens \(2, 6, 5\) and grid \(2, 3\)',
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(result, found):
    message = (
        f'the adapter Gives read {found} from the output of the backbone Identity for images '
        'of 32x48'
    )
    with pytest.raises(ValueError, match=message):
        Gives(result)(None, nn.Identity(), (32, 48))


def test_an_adapter_reads():
    with pytest.raises(TypeError, match='abstract'):
        BackboneAdapter()
