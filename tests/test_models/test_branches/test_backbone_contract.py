# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""One contract for the backbones of mmpretrain and timm, whatever their output looks like."""

import math

import pytest
import torch
from backbone_families import FAMILIES, FURTHER
from mmpretrain.models.necks import GlobalAveragePooling
from timm.layers import SelectAdaptivePool2d
from timm.layers.pool1d import global_pool_nlc
from torch import nn

from mmmokd.models.branches import infer_features
from mmmokd.registry import MODELS


def timm_model(backbone):
    """timm's own model in mmpretrain's wrapper, None for a backbone of mmpretrain."""
    return getattr(backbone, 'timm_model', None)


def channels_first(backbone, output):
    fmt = str(getattr(timm_model(backbone), 'output_fmt', 'NCHW'))
    return output.permute(0, 3, 1, 2) if fmt.endswith('NHWC') else output


def pooled_by_the_library(backbone, images, output):
    """The class token or the mean over the map, as mmpretrain or timm itself gives it."""
    model = timm_model(backbone)
    if output.dim() == 4:
        if model is None:
            return GlobalAveragePooling()((output,))[-1]
        fmt = str(getattr(model, 'output_fmt', 'NCHW')).split('.')[-1]
        return SelectAdaptivePool2d(pool_type='avg', flatten=True, input_fmt=fmt)(output)
    if model is not None:
        token = getattr(model, 'cls_token', None) is not None
        prefix = getattr(model, 'num_prefix_tokens', 1 if token else 0)
        return global_pool_nlc(output, 'token' if token else 'avg', num_prefix_tokens=prefix)
    if getattr(backbone, 'cls_token', None) is None:
        return output.mean(dim=1)
    backbone.out_type = 'cls_token'
    token = backbone(images)[-1]
    backbone.out_type = 'raw'
    return token[0] if isinstance(token, tuple) else token


def map_by_the_library(backbone, images, output):
    """The (B, C, h, w) map, where mmpretrain or timm itself gives one, else None."""
    model = timm_model(backbone)
    if output.dim() == 4:
        return channels_first(backbone, output)
    if hasattr(model, 'forward_intermediates'):
        normed = hasattr(model, 'norm')
        maps = model.forward_intermediates(images, indices=1, norm=normed, intermediates_only=True)
        # Without a class token timm has its last norm behind the pooling, Hiera in its head.
        last_norm = getattr(model, 'fc_norm', getattr(model.head, 'norm', nn.Identity()))
        return last_norm(maps[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    if hasattr(backbone, '_format_output') and 'featmap' in getattr(backbone, 'OUT_TYPES', ()):
        backbone.out_type = 'featmap'
        found = backbone(images)[-1]
        backbone.out_type = 'raw'
        return found
    return None


def check_features(backbone, images, outputs, features, grid):
    pooled = pooled_by_the_library(backbone, images, outputs[-1])
    maps = map_by_the_library(backbone, images, outputs[-1])
    assert features.grid == grid
    assert features.tokens.shape == (len(images), math.prod(grid), pooled.shape[1])
    torch.testing.assert_close(features.pooled, pooled, rtol=1e-5, atol=1e-6)
    if maps is None:
        assert torch.equal(features.tokens, outputs[-1][:, -math.prod(grid) :])
        return
    for row in range(grid[0]):
        for column in range(grid[1]):
            token = features.tokens[:, row * grid[1] + column]
            torch.testing.assert_close(token, maps[:, :, row, column])


def build_model(family):
    """A MOKD of one branch; what its necks need to know of the backbone is inferred."""
    torch.manual_seed(0)
    branch = dict(
        backbone=family.cfg,
        adapter=family.adapter,
        projector=dict(hid_channels=32, bottleneck_channels=12),
        search_head=dict(num_layers=1, num_heads=2),
    )
    return MODELS.build(
        dict(
            type='mmmokd.MOKD',
            branches=dict(x=branch),
            global_size=family.sizes[0],
            neck_defaults=dict(out_channels=10, embed_dims=24),
            data_preprocessor=dict(type='mmengine.BaseDataPreprocessor'),
        )
    )


def check_step(branch, family, model):
    """One step: student and teacher begin alike, every weight that should takes a gradient."""
    student, teacher = branch.student.state_dict(), branch.teacher.state_dict()
    assert student.keys() == teacher.keys()
    assert all(torch.equal(student[key], teacher[key]) for key in student)
    views = [torch.randn(2, 3, *size) for size in family.sizes for _ in range(2)]
    loss, _ = model.parse_losses(model(views, mode='loss'))
    loss.backward()
    assert loss.isfinite() and all(p.grad is None for p in branch.teacher.parameters())
    trained = [(n, p) for n, p in branch.student.named_parameters() if p.requires_grad]
    unread = [n for n, p in trained if p.grad is None]
    assert [n for n in unread if not any(part in n for part in family.unread)] == []
    assert bool(unread) == bool(family.unread)
    before = {n: p.detach().clone() for n, p in trained}
    torch.optim.SGD([p for _, p in trained], lr=0.1).step()
    moved = [n for n, p in trained if not torch.equal(p, before[n])]
    assert any(n.startswith('backbone.') for n in moved)


@torch.no_grad()
def check_drop_path(branch, size):
    """The student drops paths, the teacher does not."""
    images = torch.randn(2, 3, *size)
    student, teacher = (
        [network.extract(images).pooled for _ in range(2)]
        for network in (branch.student, branch.teacher)
    )
    assert not torch.equal(*student) and torch.equal(*teacher)


@pytest.mark.parametrize(
    'name', [*FAMILIES, *(pytest.param(name, marks=pytest.mark.long) for name in FURTHER)]
)
def test_family(name, monkeypatch):
    family, said = {**FAMILIES, **FURTHER}[name], []
    monkeypatch.setattr(
        'mmmokd.models.branches.backbone.print_log', lambda text, **kwargs: said.append(text)
    )
    model = build_model(family)
    assert [text.partition(' is built with ')[2] for text in said] == [
        ', '.join(found) for found in [family.set_by_branch] if found
    ]
    branch = model.branches['x']
    model.eval()  # That of some of mmpretrain's backbones returns nothing.
    network = branch.student
    before = {key: value.clone() for key, value in network.state_dict().items()}
    for size, grid in zip(family.sizes, family.grids, strict=True):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            features = network.extract(images)
            assert features.grid == grid
            if family.adapter is None:
                outputs = network.backbone(images)
                check_features(network.backbone, images, outputs, features, grid)
        found = infer_features(network.backbone, size, network.adapter)
        assert found == (features.pooled.shape[1], features.tokens.shape[2], grid, size)
    after = network.state_dict()  # that of a network that saw the last size
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    model.init_weights()
    model.train()
    check_step(branch, family, model)
    if family.cfg.get('drop_path_rate'):
        check_drop_path(branch, family.sizes[0])
