# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmengine.registry import DefaultScope
from mokd_testing import BACKBONES, branch_cfg, copy_of
from torch import nn

from mmmokd.models.branches import BranchNetwork

PROJECTOR = dict(type='mmmokd.DINOProjector', out_channels=5, hid_channels=8)
SEARCH_HEAD = dict(type='mmmokd.TransformerSearchHead', out_channels=5, embed_dims=24)


def build(backbone, **kwargs):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return BranchNetwork(backbone, **kwargs)


@pytest.mark.parametrize(
    ('kind', 'size', 'channels', 'grid'),
    [('cnn', 32, 16, (8, 8)), ('vit', (32, 16), 24, (4, 2)), ('vit', None, 24, (4, 4))],
)
def test_necks_are_made_for_the_backbone(kind, size, channels, grid):
    """As with explicit values, and without drawing a number or touching a statistic."""
    backbone = dict(BACKBONES[kind], **(dict(norm_cfg=dict(type='BN')) if kind == 'cnn' else {}))
    found = build(backbone, global_size=size, projector=PROJECTOR, search_head=SEARCH_HEAD)
    explicit = build(
        backbone,
        projector=dict(PROJECTOR, in_channels=channels),
        search_head=dict(
            SEARCH_HEAD, in_channels=channels, grid_size=grid, projection=kind != 'vit'
        ),
    )
    expected = explicit.state_dict()
    assert list(found.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[key]) for key, value in found.state_dict().items())
    assert found.search_head.grid_size == grid
    assert [found.width(name) for name in ('pooled', 'tokens', 'projector')] == [channels] * 2 + [5]


def test_explicit_values_win():
    neck = dict(SEARCH_HEAD, grid_size=3, projection=True)
    assert build(BACKBONES['vit'], global_size=32, neck=neck).neck.grid_size == (3, 3)
    wrong = build(BACKBONES['vit'], global_size=32, neck=dict(PROJECTOR, in_channels=7))
    with pytest.raises(ValueError, match='gives 24 channels, but DINOProjector .* in_channels=7'):
        wrong.extract(torch.zeros(1, 3, 32, 32))


def test_no_image_is_passed_where_all_is_explicit(monkeypatch):
    monkeypatch.setattr('mmmokd.models.branches.network.infer_features', None)
    cfg = branch_cfg('cnn')
    network = build(cfg['backbone'], projector=cfg['projector'], search_head=cfg['search_head'])
    assert network.neck_names == ('projector', 'search_head')


def test_neck_of_mmpretrain():
    neck = dict(
        type='mmpretrain.NonLinearNeck', hid_channels=6, out_channels=4, num_layers=2,
        with_avg_pool=False, norm_cfg=dict(type='BN1d'),
    )  # fmt: skip
    network = build(BACKBONES['cnn'], global_size=32, moco=neck).eval()
    images = [torch.randn(2, 3, 32, 32) for _ in range(3)]
    found = network([images[:2], images[2:]], batch=2)['moco']
    pooled = network.extract(torch.cat(images)).pooled
    torch.testing.assert_close(found, network.moco((pooled,))[0].unflatten(0, (3, 2)))
    assert network.width('moco') == 4


def test_size_that_the_backbone_cannot_take():
    backbone = dict(
        type='BEiTViT', img_size=64,
        arch=dict(embed_dims=24, num_layers=1, num_heads=2, feedforward_channels=48),
    )  # fmt: skip
    with pytest.raises(ValueError, match='cannot take an image of 3x32x32: .* model.global_size'):
        build(backbone, global_size=32, projector=PROJECTOR)


@pytest.mark.parametrize('name', ['train', 'pooled', 'backbone_cfg', 'a-b'])
def test_names_that_are_taken(name):
    with pytest.raises(ValueError, match=f'a neck cannot be named {name!r}'):
        build(BACKBONES['vit'], **{name: dict(PROJECTOR, in_channels=24)})


def test_state_dict_has_backbone_and_necks_alone():
    cfg = branch_cfg('vit')
    network = build(cfg['backbone'], search_head=cfg['search_head'], projector=cfg['projector'])
    parts = list(dict.fromkeys(key.split('.')[0] for key in copy_of(network.state_dict())))
    assert parts == ['backbone', 'search_head', 'projector']
    assert isinstance(network.adapter, nn.Module)


def test_neck_that_reads_a_neck():
    """As a predictor on a projector: it is made for its width, and detached where that is."""
    mlp = dict(type='mmpretrain.NonLinearNeck', with_avg_pool=False, norm_cfg=dict(type='BN1d'))
    projector = dict(mlp, hid_channels=6, out_channels=4)
    predictor = dict(mlp, reads='projector', hid_channels=3, out_channels=5)
    kwargs = dict(global_size=32, projector=projector, predictor=predictor)
    network = build(BACKBONES['cnn'], **kwargs).eval()
    images = [torch.randn(2, 3, 32, 32) for _ in range(3)]
    output = network([images[:2], images[2:]], batch=2)
    pooled = network.extract(torch.cat(images)).pooled
    expected = network.predictor(network.projector((pooled,)))[0].unflatten(0, (3, 2))
    torch.testing.assert_close(output['predictor'], expected)
    target = output.detach(2)['predictor']
    assert torch.equal(target, output['predictor'][:2]) and not target.requires_grad
    assert network.width('predictor') == 5
    with pytest.raises(ValueError, match=r"a.reads must be 'pooled' or a neck before it \(none\)"):
        build(BACKBONES['cnn'], global_size=32, a=dict(predictor, reads='b'), b=projector)
    searching = dict(SEARCH_HEAD, reads='projector')
    with pytest.raises(ValueError, match='Head. reads feature maps, so it takes no reads='):
        build(BACKBONES['cnn'], global_size=32, projector=projector, searching=searching)
