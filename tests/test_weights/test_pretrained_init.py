# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""`init_cfg=dict(type='Pretrained', ...)` in the configs of every library."""

import importlib

import pytest
import timm
import torch
from mmengine.model.weight_init import PretrainedInit as MmenginePretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS
from weights_testing import CNN, IMAGE_SIZE, VIT, build, mokd_cfg, randomize

from mmmokd.weights import PretrainedInit, to_official

RESNET = dict(type='ResNet', depth=18)
SCOPES = ['mmpretrain', 'mmdet', 'mmseg']


def require(scope):
    if scope != 'mmpretrain':
        pytest.importorskip('mmcv.ops')
        importlib.import_module(pytest.importorskip(scope).__name__ + '.models')


def init_cfg(path, branch='cnn', network='teacher'):
    prefix = f'branches.{branch}.{network}.backbone.'
    return dict(type='Pretrained', checkpoint=str(path), prefix=prefix)


def initialized(cfg, scope='mmpretrain'):
    model = build(cfg, scope)
    model.init_weights()
    model.eval()
    return model


def assert_same(model, source, but=()):
    expected = source.state_dict()
    for key, value in model.state_dict().items():
        if key not in but:
            assert torch.equal(value, expected[key]), key


def test_is_a_subclass_in_mmengines_place():
    assert issubclass(PretrainedInit, MmenginePretrainedInit)
    assert WEIGHT_INITIALIZERS.get('Pretrained') is PretrainedInit


@pytest.mark.parametrize('scope', SCOPES)
@pytest.mark.parametrize('network', ['teacher', 'student'])
def test_resnet_of_every_library(mokd, scope, network):
    require(scope)
    path, source = mokd
    model = initialized(dict(RESNET, init_cfg=init_cfg(path, 'cnn', network)), scope)
    assert_same(model, getattr(source.branches['cnn'], network).backbone)


@pytest.mark.parametrize('kind', ['VisionTransformer', 'mmmokd.VisionTransformer'])
@pytest.mark.parametrize('scope', SCOPES)
def test_vit_of_every_library(mokd, scope, kind):
    require(scope)
    path, source = mokd
    kind = kind if '.' in kind else f'mmpretrain.{kind}'
    model = initialized(dict(VIT, type=kind, init_cfg=init_cfg(path, 'vit')), scope)
    assert_same(model, source.branches['vit'].teacher.backbone)


def test_position_embedding_of_another_size_is_resized(mokd):
    path, source = mokd
    model = initialized(dict(VIT, img_size=96, init_cfg=init_cfg(path, 'vit')))
    assert model.pos_embed.shape == (1, 37, 192)
    assert_same(model, source.branches['vit'].teacher.backbone, but=['pos_embed'])
    images = torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert torch.isfinite(model(images)[0]).all()


def test_parts_that_a_model_lacks_are_left_out(mokd):
    require('mmdet')
    path, source = mokd
    backbone = source.branches['cnn'].teacher.backbone
    cfg = dict(RESNET, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,))
    assert_same(initialized(dict(cfg, init_cfg=init_cfg(path)), 'mmdet'), backbone)


def test_shared_head_takes_the_last_stage(mokd):
    """As Mask R-CNN with C4 has it: the last stage stands in the head."""
    require('mmdet')
    path, source = mokd
    head = build(dict(type='ResLayer', depth=18, stage=3, init_cfg=init_cfg(path)), 'mmdet')
    head.init_weights()
    assert_same(head, source.branches['cnn'].teacher.backbone)


def test_starts_another_algorithm(mokd):
    path, source = mokd
    byol = build(
        dict(
            type='BYOL',
            backbone=dict(CNN, init_cfg=init_cfg(path)),
            neck=dict(
                type='NonLinearNeck', in_channels=512, hid_channels=8, out_channels=4, num_layers=2
            ),
            head=dict(
                type='LatentPredictHead',
                loss=dict(type='CosineSimilarityLoss'),
                predictor=dict(
                    type='NonLinearNeck',
                    in_channels=4,
                    hid_channels=8,
                    out_channels=4,
                    num_layers=2,
                ),
            ),
        )
    )
    byol.init_weights()
    assert_same(byol.backbone, source.branches['cnn'].teacher.backbone)


WRONG = {
    'branches.resnet.teacher.backbone.': r'no weights below .*holds the branches cnn \(student, '
    r"teacher\), vit \(student, teacher\): give, for example, the prefix 'branches\.cnn\.teacher",
    'backbone': 'no weights below .*holds the branches cnn',
    None: 'gives no prefix for the MOKD checkpoint .*holds the branches cnn',
}


@pytest.mark.parametrize('scope', SCOPES)
@pytest.mark.parametrize('prefix', WRONG)
def test_wrong_prefix_lists_the_branches(mokd, scope, prefix):
    require(scope)
    cfg = dict(init_cfg(mokd[0]), prefix=prefix)
    with pytest.raises(ValueError, match=WRONG[prefix]):
        initialized(dict(RESNET, init_cfg=cfg), scope)


@pytest.mark.parametrize(
    ('cfg', 'branch', 'message'),
    [
        (
            dict(RESNET, depth=34),
            'cnn',
            'of a ResNet of 2-2-2-2 basic blocks, 64 wide, the model that they should go to is a '
            'ResNet of 3-4-6-3 basic blocks, 64 wide',
        ),
        (dict(RESNET, depth=50), 'cnn', 'is a ResNet of 3-4-6-3 bottleneck blocks, 64 wide'),
        (dict(RESNET, base_channels=32), 'cnn', 'is a ResNet of 2-2-2-2 basic blocks, 32 wide'),
        (
            dict(VIT, patch_size=8),
            'vit',
            'of a ViT of 3 layers, 192 wide, with patches of 16, the model that they should go to '
            'is a ViT of 3 layers, 192 wide, with patches of 8',
        ),
        (dict(VIT, arch='deit-small'), 'vit', 'is a ViT of 12 layers, 384 wide'),
        (dict(VIT, arch=dict(VIT['arch'], num_layers=2)), 'vit', 'is a ViT of 2 layers, 192 wide'),
        (RESNET, 'vit', 'of a ViT of 3 layers.* is a ResNet of 2-2-2-2'),
    ],
)
def test_what_does_not_fit_names_both_sides(mokd, cfg, branch, message):
    with pytest.raises(ValueError, match=message):
        initialized(dict(cfg, init_cfg=init_cfg(mokd[0], branch)))


def test_fewer_layers_are_no_fit_though_all_weights_are_there(tmp_path):
    deeper = build(dict(RESNET, depth=34))
    weights = {f'branches.cnn.teacher.backbone.{k}': v for k, v in deeper.state_dict().items()}
    torch.save(weights, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'has \d+ weights that ResNet has no place for: layer1.2'):
        initialized(dict(RESNET, init_cfg=init_cfg(tmp_path / 'a.pth')))


def test_missing_damaged_and_foreign_files(tmp_path, mokd):
    cfg = init_cfg(tmp_path / 'none.pth')
    with pytest.raises(FileNotFoundError, match=r'none\.pth does not exist'):
        initialized(dict(RESNET, init_cfg=cfg))
    with pytest.raises(ValueError, match='names no checkpoint'):
        initialized(dict(RESNET, init_cfg=dict(cfg, checkpoint=None)))
    (tmp_path / 'cut.pth').write_bytes(mokd[0].read_bytes()[:10000])
    with pytest.raises(ValueError, match=r'cut\.pth'):
        initialized(dict(RESNET, init_cfg=init_cfg(tmp_path / 'cut.pth')))
    torch.save({'encoder.weight': torch.zeros(3)}, tmp_path / 'other.pth')
    cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'other.pth'))
    with pytest.raises(ValueError, match='not one of the 1 weights of .*other.pth fits'):
        initialized(dict(RESNET, init_cfg=cfg))


def test_other_files_load_as_mmengine_loads_them(tmp_path):
    """Weights that are missing are logged, not an error: part of a model is what some want."""
    part = {'conv1.weight': torch.ones(64, 3, 7, 7), 'fc.weight': torch.zeros(10, 512)}
    torch.save({'state_dict': part}, tmp_path / 'part.pth')
    cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'part.pth'))
    model = initialized(dict(RESNET, init_cfg=cfg))
    assert (model.conv1.weight == 1).all()
    assert not (model.layer1[0].conv1.weight == 1).any()


def branch_from(path, cnn=None, vit=None, **kwargs):
    """A new MOKD, one backbone of which starts from a file."""
    cfg = dict(type='Pretrained', checkpoint=str(path), **kwargs)
    model = build(
        mokd_cfg(
            cnn=dict(CNN, init_cfg=cfg) if cnn else CNN, vit=dict(VIT, init_cfg=cfg) if vit else VIT
        )
    )
    model.init_weights()
    return model.branches['cnn' if cnn else 'vit']


def test_branch_starts_from_mmpretrain(tmp_path):
    classifier = build(
        dict(
            type='ImageClassifier',
            backbone=RESNET,
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=3, in_channels=512),
        )
    )
    randomize(classifier)
    torch.save({'state_dict': classifier.state_dict()}, tmp_path / 'a.pth')
    branch = branch_from(tmp_path / 'a.pth', cnn=True, prefix='backbone.')
    for network in (branch.student, branch.teacher):
        assert_same(network.backbone, classifier.backbone)


def test_branch_starts_from_timm(tmp_path):
    theirs = {
        'cnn': timm.create_model('resnet18'),
        'vit': timm.create_model(
            'vit_tiny_patch16_224', img_size=IMAGE_SIZE, depth=VIT['arch']['num_layers']
        ),
    }
    images = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    for name, model in theirs.items():
        randomize(model)
        torch.save(model.eval().state_dict(), tmp_path / f'{name}.pth')
        branch = branch_from(tmp_path / f'{name}.pth', **{name: True}).eval()
        for network in (branch.student, branch.teacher):
            expected = model.forward_head(model.forward_features(images), pre_logits=True)
            assert torch.allclose(network.extract(images).pooled, expected, atol=1e-5)


def test_branch_refuses_layer_scale_that_its_vit_lacks(tmp_path):
    model = timm.create_model(
        'vit_tiny_patch16_224',
        img_size=IMAGE_SIZE,
        depth=VIT['arch']['num_layers'],
        init_values=1e-5,
    )
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'has no place for: .*gamma1.*layer_scale_init'):
        branch_from(tmp_path / 'a.pth', vit=True)


def test_branch_starts_from_the_authors_format(tmp_path):
    source = build(mokd_cfg())
    for branch in source.branches.values():  # the authors' ViT has a search head without projection
        randomize(branch)
    weights = source.state_dict()
    for network in ('student', 'teacher'):
        for leaf in ('weight', 'bias'):
            del weights[f'branches.vit.{network}.search_head.projection.{leaf}']
    torch.save(to_official(weights), tmp_path / 'theirs.pth')
    prefix = 'branches.vit.teacher.backbone.'
    branch = branch_from(tmp_path / 'theirs.pth', vit=True, prefix=prefix)
    assert_same(branch.student.backbone, source.branches['vit'].teacher.backbone)


def test_branch_wants_every_weight(tmp_path):
    weights = build(RESNET).state_dict()
    del weights['layer3.1.bn2.running_var']
    torch.save(weights, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='lacks 1 of the 120 weights of ResNet: layer3.1.bn2'):
        branch_from(tmp_path / 'a.pth', cnn=True)
