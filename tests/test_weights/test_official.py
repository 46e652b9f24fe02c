# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from itertools import count

import pytest
import torch

from mmmokd.weights import from_official, to_official

# Their name and ours, one of each kind.
SHARED = {
    'head.mlp.4.bias': 'projector.mlp.4.bias',
    'head.last_layer.weight_g': 'projector.last_layer.parametrizations.weight.original0',
    'head.last_layer.weight_v': 'projector.last_layer.parametrizations.weight.original1',
    'transhead.patch_embed.bias': 'search_head.projection.bias',
    'transhead.pos_embed': 'search_head.pos_embed',
    'transhead.blocks.2.norm1.weight': 'search_head.blocks.2.ln1.weight',
    'transhead.blocks.2.attn.qkv.weight': 'search_head.blocks.2.attn.qkv.weight',
    'transhead.blocks.2.mlp.fc1.bias': 'search_head.blocks.2.ffn.layers.0.0.bias',
    'transhead.norm.weight': 'search_head.norm.weight',
    'transhead.last_layer.weight_v': 'search_head.last_layer.parametrizations.weight.original1',
}
NAMES = {
    'cnn': {
        'backbone.bn1.num_batches_tracked': 'backbone.bn1.num_batches_tracked',
        'backbone.layer2.0.downsample.1.weight': 'backbone.layer2.0.downsample.1.weight',
        **SHARED,
    },
    'vit': {
        'backbone.cls_token': 'backbone.cls_token',
        'backbone.patch_embed.proj.weight': 'backbone.patch_embed.projection.weight',
        'backbone.blocks.11.norm2.weight': 'backbone.layers.11.ln2.weight',
        'backbone.blocks.11.mlp.fc2.weight': 'backbone.layers.11.ffn.layers.1.weight',
        'backbone.norm.bias': 'backbone.ln1.bias',
        **SHARED,
    },
}


def official(**strange):
    """A checkpoint of theirs in which no two tensors are alike, with a further weight of a kind."""
    checkpoint, numbers = {}, count()
    for kind, names in NAMES.items():
        for network in ('student', 'teacher'):
            weights = checkpoint[f'{network}_{kind}'] = {}
            for name in (*names, *strange.get(kind, ())):
                weights[f'module.{name}'] = torch.tensor(next(numbers))
    return checkpoint


def test_every_kind_of_name_there_and_back():
    theirs = official()
    ours = from_official(theirs)
    for kind, names in NAMES.items():
        for network in ('student', 'teacher'):
            for their, our in names.items():
                value = theirs[f'{network}_{kind}'][f'module.{their}']
                assert ours.pop(f'branches.{kind}.{network}.{our}') == value
    assert not ours
    assert to_official(from_official(theirs)) == theirs


@pytest.mark.parametrize(
    'kind, their, our',
    [
        ('vit', 'backbone.blocks.0.ls1.gamma', 'backbone.layers.0.ls1.gamma'),
        ('vit', 'transhead.blocks.0.ls1.gamma', 'search_head.blocks.0.ls1.gamma'),
        ('cnn', 'head.mlp.1.running_mean', 'projector.mlp.1.running_mean'),
    ],
)
def test_a_weight_without_place_goes_with_its_part(kind, their, our):
    ours = from_official(official(**{kind: [their]}))
    assert f'branches.{kind}.teacher.{our}' in ours
    with pytest.raises(ValueError, match=f'there is no place for {their}'):
        to_official(ours)


def without(state_dict, prefix):
    return {key: value for key, value in state_dict.items() if not key.startswith(prefix)}


def test_what_the_official_format_has_no_place_for_is_one_message():
    """A frozen branch, one without a teacher, further necks, predictors, a missing search head."""
    ours = from_official(official())
    zero = torch.zeros(1)
    for changed, message in (
        (without(ours, 'branches.cnn.student.'), 'cnn has no student. The'),
        (without(ours, 'branches.vit.teacher.'), 'vit has no teacher. The'),
        (
            without(ours, 'branches.vit.student.search_head.'),
            'vit lacks transhead.pos_embed, transh',
        ),
        ({**ours, 'branches.vit.student.moco.0.weight': zero}, 'no place for moco.0.weight of vit'),
        (
            {**ours, 'branches.cnn.heads.sm.head.predictor.0.bias': zero},
            'no place for the weights of cnn.heads: sm.head.predictor.0.bias. The',
        ),
        (
            without({**ours, 'branches.cnn.student.moco.0.bias': zero}, 'branches.vit.teacher.'),
            'no place for moco.0.bias of cnn; vit has no teacher. The',
        ),
    ):
        with pytest.raises(ValueError, match=f"branches 'cnn' and 'vit' are not .* {message}"):
            to_official(changed)
    centered = {
        **ours,
        'branches.cnn.heads.cm.vit.center': zero,
        'branches.vit.heads.own.center': zero,
    }
    assert to_official(centered)['loss_cnn_ct_fn'] == dict(center=zero)
