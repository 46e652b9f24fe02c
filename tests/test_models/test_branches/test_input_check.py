# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmengine.registry import DefaultScope
from mokd_testing import branch_cfg, copy_of, random_views, with_batch_norm

from mmmokd.models.branches import (
    Branch,
    PyramidAdapter,
    ViewPass,
    check_gradients,
    check_views,
    find_lonely_norms,
    find_unread_parameters,
    input_check,
)
from mmmokd.structures import Views

TIMM_VIT = dict(
    type='TIMMBackbone', model_name='vit_tiny_patch16_224', img_size=64, depth=1, embed_dim=24,
    num_heads=2,
)  # fmt: skip
SWIN = dict(
    type='SwinTransformer', window_size=7, img_size=64,
    arch=dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
)  # fmt: skip
BEIT = dict(
    type='BEiTViT', img_size=64,
    arch=dict(embed_dims=24, num_layers=1, num_heads=2, feedforward_channels=48),
)  # fmt: skip


def build(backbone, channels, projector=None, **kwargs):
    template = branch_cfg('cnn')
    norm = dict(norm_cfg=dict(type='BN1d')) if projector == 'BN1d' else {}
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return Branch(
            backbone=backbone,
            projector=dict(template['projector'], in_channels=channels, **norm),
            search_head=dict(template['search_head'], in_channels=channels, **kwargs),
        )


def norm_branch(**kwargs):
    """A CNN of stride 4 with batch norms."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return Branch(**with_batch_norm(**kwargs))


def test_grids_and_nothing_else():
    """Weights, statistics, modes and random numbers stay, also where a part is frozen."""
    branch = norm_branch()
    frozen = branch.student.backbone.layer1.eval()
    before, state = copy_of(branch.state_dict()), torch.get_rng_state()
    modes = [module.training for module in branch.modules()]
    assert check_views('cnn', branch.student, [(32, 32), (24, 16), (32, 32)]) == {
        (32, 32): (8, 8),
        (24, 16): (6, 4),
    }
    assert find_lonely_norms(branch.student, [ViewPass((4, 4), 1)], 1)
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [module.training for module in branch.modules()] and not frozen.training
    assert all(torch.equal(value, before[key]) for key, value in branch.state_dict().items())


@pytest.mark.parametrize(
    ('backbone', 'channels', 'sides', 'message'),
    [
        (
            dict(TIMM_VIT, dynamic_img_size=False), 24, (64, 96),
            r'branch vit: the backbone TIMMBackbone \(vit_tiny_patch16_224\) cannot take images of '
            r"96x96: Input height \(96\) .*\. Set dynamic_img_size=True in model.branches.vit.backbone$",
        ),
        (
            dict(TIMM_VIT, dynamic_img_pad=False), 24, (64, 40),
            'images of 40x40: .* Set dynamic_img_pad=True in model.branches.vit.backbone$',
        ),
        (
            dict(SWIN, pad_small_map=False), 128, (64,),
            'SwinTransformer cannot take images of 64x64: .* Set pad_small_map=True in',
        ),
        (
            BEIT, 24, (64, 96),
            'BEiTViT cannot take images of 96x96: .* Of the sizes tested, it takes 64x64. Give views',
        ),
        (dict(type='LeViT', arch='128s', img_size=128), 384, (64,), 'tested, it takes 128x128. Give'),
        (
            dict(type='MlpMixer', arch='s', img_size=64), 512, (64,),
            'branch vit: the backbone MlpMixer gave .* form no grid',
        ),
        (
            dict(type='VisionTransformer', arch='deit-t', img_size=32, out_type='cls_token'), 192,
            (32,), r'branch vit: the backbone VisionTransformer gave \(1, 192\), .*out_type',
        ),
        (SWIN, 100, (64,), 'branch vit: .* 128 channels, but DINOProjector .* in_channels=100'),
        (
            dict(SWIN, in_channels=4), 128, (64,),
            r'branch vit: the backbone SwinTransformer takes images of 4 channels \(in_channels\), but',
        ),
    ],
)  # fmt: skip
def test_what_a_branch_cannot_take(backbone, channels, sides, message):
    branch = build(backbone, channels)
    sizes = [(side, side) for side in sides]
    with pytest.raises(ValueError, match=message):
        check_views('vit', branch.student, sizes)


def test_memory_that_runs_out_is_no_matter_of_sizes(monkeypatch):
    def run_out(*args):
        raise torch.OutOfMemoryError

    branch = norm_branch()
    monkeypatch.setattr(branch.student, 'extract', run_out)
    with pytest.raises(torch.OutOfMemoryError):
        check_views('cnn', branch.student, [(32, 32)])


G, L = ViewPass((32, 32), 2), ViewPass((4, 4), 1)


@pytest.mark.parametrize(
    ('groups', 'num_global_views', 'found'),
    [
        ([G, L], 2, True),  # a map of one place, one view of one image
        ([G, ViewPass((4, 4), 2)], 2, False),
        ([G, ViewPass((8, 8), 1)], 2, False),
        ([G], 2, False),
        ([ViewPass((4, 4), 2)], 2, False),
        ([ViewPass((4, 4), 2)], 1, True),  # the teacher sees one view
    ],
)
def test_lonely_norms_are_those_that_pytorch_refuses(groups, num_global_views, found):
    branch = norm_branch()
    norms = find_lonely_norms(branch.student, groups, num_global_views)
    assert bool(norms) is found
    # A training step on one image as proof.
    views = [torch.randn(1, 3, *g.size) for g in groups for _ in range(g.num)]
    split = Views(views[:num_global_views], views[num_global_views:])
    try:
        for output in (branch.forward_teacher(split), branch.forward_student(split)):
            assert all(output[neck].isfinite().all() for neck in branch.student.neck_names)
    except ValueError as error:
        assert found and 'Expected more than 1 value per channel' in str(error)
        assert norms[0] == ('backbone.layer2.0.bn1', (4, 4))
    else:
        assert not found


def test_lonely_norms_of_the_projector():
    cfg = branch_cfg('cnn')['backbone']
    branch = build(cfg, 16, projector='BN1d')
    assert [norm.name for norm in find_lonely_norms(branch.student, [G], 1)] == [
        f'projector.mlp.{i}' for i in (1, 4)
    ]
    assert not find_lonely_norms(branch.student, [G], 2)
    with pytest.raises(ValueError, match='Expected more than 1 value'):
        branch.forward_teacher(Views(random_views(1)[:1], []))['projector']


def test_norms_that_are_frozen_or_synchronized_refuse_nothing(monkeypatch):
    branch = norm_branch()
    sync = torch.nn.SyncBatchNorm.convert_sync_batchnorm(norm_branch())
    assert find_lonely_norms(sync.student, [G, L], 2)
    monkeypatch.setattr(input_check, 'get_world_size', lambda: 2)
    assert find_lonely_norms(branch.student, [G, L], 2)
    assert not find_lonely_norms(sync.student, [G, L], 2)
    for module in branch.student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    assert not find_lonely_norms(branch.student, [G, L], 2)


@pytest.mark.parametrize('kind', ['cnn', 'vit'])
def test_a_gray_backbone_reads_the_mean_of_three_channels(kind):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        gray = Branch(**branch_cfg(kind, backbone=dict(in_channels=1)))
        color = Branch(**branch_cfg(kind))
    images = torch.randn(2, 1, 32, 32)
    expected = gray.student.extract(images)
    found = gray.student.extract(images.expand(-1, 3, -1, -1))
    torch.testing.assert_close(found.tokens, expected.tokens)
    assert torch.equal(
        color.student.extract(images).tokens,
        color.student.extract(images.repeat(1, 3, 1, 1)).tokens,
    )
    check_views(kind, gray.student, [(32, 32), (24, 24)])
    with pytest.raises(ValueError, match=r'takes images of 1 channels .* give 4'):
        gray.student.extract(torch.zeros(1, 4, 32, 32))


HRNET = dict(
    type='HRNet',
    extra={
        f'stage{n}': dict(
            num_modules=1, num_branches=n, block='BASIC' if n > 1 else 'BOTTLENECK',
            num_blocks=(1,) * n, num_channels=(4, 8, 12, 16)[:n],
        )
        for n in (1, 2, 3, 4)
    },
)  # fmt: skip


def test_parameters_that_no_gradient_reaches():
    branch = build(HRNET, 16)
    before = copy_of(branch.state_dict())
    unread = find_unread_parameters(branch.student, (64, 64))
    assert len(unread) == 30 and all(n.startswith('stage4.0.fuse_layers.') for n in unread)
    assert all(torch.equal(value, before[key]) for key, value in branch.state_dict().items())
    assert all(p.grad is None for p in branch.parameters()) and branch.training
    message = (
        r'branch cnn: no gradient reaches 30 parameters of the backbone HRNet \(stage4.* and 27 '
    )
    with pytest.raises(
        ValueError, match=message + r'more\), .* Set find_unused_parameters=True in'
    ):
        check_gradients('cnn', branch.student, (64, 64))
    branch.student.adapter = PyramidAdapter()
    for neck in ('projector', 'search_head'):
        getattr(branch.student, neck).in_channels = 40
    check_gradients('cnn', branch.student, (64, 64))
