# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Loaded weights stay, and nothing is skipped, in the models of every library."""

import copy
import importlib

import pytest
import timm
import torch
from mmengine.model import BaseModule, PretrainedInit, initialize
from mmengine.runner import Runner, load_checkpoint
from torch import nn
from weights_testing import CNN, IMAGE_SIZE, build, mokd_cfg, randomize

from mmmokd.engine.resume.find import load_checkpoint_strict
from mmmokd.weights.initialization import reads_checkpoint_itself
from mmmokd.weights.loaded import loaded_names

RESNET = dict(type='ResNet', depth=18)
ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
PLAIN_VIT = dict(arch=ARCH, img_size=IMAGE_SIZE, patch_size=16)
WINDOWS = dict(embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), pretrain_img_size=64)
SEG_VIT = dict(img_size=(64, 64), patch_size=16, embed_dims=32, num_layers=2, num_heads=2)
# Each draws, after what is loaded, in a way of its own; those of mmdet and mmseg read the file as well.
BACKBONES = {
    'ResNet': RESNET,
    'frozen': dict(RESNET, frozen_stages=2),
    'mmmokd.VisionTransformer': dict(type='mmmokd.VisionTransformer', **PLAIN_VIT),
    'VisionTransformer': dict(type='VisionTransformer', **PLAIN_VIT),
    'MAEViT': dict(type='MAEViT', **PLAIN_VIT),
    'MoCoV3ViT': dict(type='MoCoV3ViT', **PLAIN_VIT),
    'BEiTViT': dict(type='BEiTViT', **PLAIN_VIT),
    'XCiT': dict(type='XCiT', embed_dims=32, depth=1, cls_attn_layers=1, num_heads=2),
    'ShuffleNetV2': dict(type='ShuffleNetV2', widen_factor=0.5),
    'TIMMBackbone': dict(
        type='TIMMBackbone', model_name='vit_tiny_patch16_224', img_size=64, depth=2
    ),
    'mmdet.ResNet': dict(type='ResNet', depth=18),
    'mmdet.SwinTransformer': dict(type='SwinTransformer', **WINDOWS),
    'mmdet.PyramidVisionTransformer': dict(
        type='PyramidVisionTransformer', embed_dims=16, num_layers=[1] * 4, pretrain_img_size=64
    ),
    'mmseg.VisionTransformer': dict(type='VisionTransformer', **SEG_VIT),
    'mmseg.MAE': dict(type='MAE', **SEG_VIT),
    'mmseg.BEiT': dict(type='BEiT', **SEG_VIT),
    'mmseg.SwinTransformer': dict(type='SwinTransformer', **WINDOWS),
}
# An init_cfg, given the entry that loads.
INIT_CFGS = {
    'dict': lambda load: load,
    'list': lambda load: [load],
    'last': lambda load: [dict(type='TruncNormal', layer='Linear', std=0.5), load],
    'first': lambda load: [load, dict(type='Constant', layer=['Linear', 'Conv2d'], val=3.0)],
    'class': lambda load: dict(load, type=PretrainedInit),
    'scoped': lambda load: [dict(load, type='mmengine.Pretrained')],
}


def scope_of(kind):
    scope = kind.partition('.')[0]
    if scope not in ('mmdet', 'mmseg'):
        return 'mmpretrain'
    pytest.importorskip('mmcv.ops')
    pytest.importorskip(scope)
    importlib.import_module(f'{scope}.models')
    return scope


def assert_same(model, expected):
    own = model.state_dict()
    assert own.keys() == expected.keys()
    assert [key for key in own if not torch.equal(own[key], expected[key])] == []


def save_like(cfg, scope, path, prefix=''):
    source = build(cfg, scope)
    randomize(source)
    weights = {f'{prefix}{key}': value for key, value in source.state_dict().items()}
    torch.save({'state_dict': weights}, path)
    return source.state_dict()


@pytest.mark.parametrize('kind', BACKBONES)
def test_every_backbone_is_as_in_the_file(tmp_path, kind):
    """Whatever the form of init_cfg, below a prefix, and when initialized again."""
    scope, cfg = scope_of(kind), BACKBONES[kind]
    expected = save_like(cfg, scope, tmp_path / 'a.pth', 'backbone.')
    load = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'), prefix='backbone.')
    for make in INIT_CFGS.values():
        model = build(dict(cfg, init_cfg=make(load)), scope)
        model.init_weights()
        assert_same(model, expected)
    model.init_weights()
    assert_same(model, expected)


def test_which_classes_read_checkpoints_themselves():
    scope_of('mmdet'), scope_of('mmseg')
    expected = {
        'mmdet': {'SwinTransformer', 'PyramidVisionTransformer', 'DetectoRS_ResNet'},
        'mmseg': {'VisionTransformer', 'MAE', 'BEiT', 'SwinTransformer', 'PIDNet'},
    }
    for library, names in expected.items():
        backbones = vars(importlib.import_module(f'{library}.models.backbones'))
        classes = [x for x in backbones.values() if isinstance(x, type)]
        found = {cls.__name__ for cls in classes if reads_checkpoint_itself(cls)}
        assert found - {'PyramidVisionTransformerV2', 'DetectoRS_ResNeXt', 'SSDVGG'} == names
    assert not reads_checkpoint_itself(BaseModule)


@pytest.mark.parametrize('make', INIT_CFGS.values(), ids=INIT_CFGS)
def test_list_of_a_branch_is_as_strict_as_a_dict(tmp_path, make):
    expected = save_like(CNN, 'mmpretrain', tmp_path / 'a.pth')
    load = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    cfg = mokd_cfg(cnn=dict(CNN, zero_init_residual=True, init_cfg=make(load)))
    model = build(cfg)
    model.init_weights()
    for network in ('student', 'teacher'):
        assert_same(getattr(model.branches['cnn'], network).backbone, expected)
    part = {key: value for key, value in expected.items() if 'layer4' not in key}
    torch.save(part, tmp_path / 'a.pth')
    for whole in (mokd_cfg(cnn=cfg['branches']['cnn']['backbone']), classifier(make(load))):
        with pytest.raises(ValueError, match=r'lacks 25 of the 120 weights .*layer4\.0'):
            build(whole).init_weights()


def test_two_files_in_a_list_load_one_after_the_other(tmp_path):
    first = save_like(RESNET, 'mmpretrain', tmp_path / 'a.pth')
    torch.save({'conv1.weight': torch.ones(64, 3, 7, 7)}, tmp_path / 'b.pth')
    loads = [dict(type='Pretrained', checkpoint=str(tmp_path / f'{name}.pth')) for name in 'ab']
    model = build(dict(RESNET, init_cfg=loads))
    model.init_weights()
    assert_same(model, {**first, 'conv1.weight': torch.ones(64, 3, 7, 7)})


def classifier(init_cfg=None):
    return dict(
        type='ImageClassifier',
        backbone=dict(RESNET, init_cfg=init_cfg),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=2, in_channels=512),
    )


@pytest.mark.parametrize('where', ['model', 'branch', 'classifier', 'head', 'override'])
def test_init_cfg_of_other_parts(tmp_path, mokd, where):
    path, source = mokd
    load = dict(type='Pretrained', checkpoint=str(path))
    if where == 'model':
        model, expected = build(dict(mokd_cfg(), init_cfg=[load])), source.state_dict()
    elif where == 'branch':
        cfg = mokd_cfg()
        cfg['branches']['cnn']['init_cfg'] = dict(load, prefix='branches.cnn.')
        model = build(cfg)
        expected = source.branches['cnn'].state_dict()
    else:
        expected = save_like(classifier(), 'mmpretrain', tmp_path / 'a.pth')
        load['checkpoint'] = str(tmp_path / 'a.pth')
        head = dict(load, prefix='head.')
        override = dict(type='Normal', layer='Conv2d', override=dict(head, name='head'))
        cfg = classifier()
        if where == 'head':
            cfg['head']['init_cfg'] = [dict(type='Normal', layer='Linear'), head]
        else:
            cfg['init_cfg'] = load if where == 'classifier' else override
        model = build(cfg)
    model.init_weights()
    prefix = ''
    if where == 'branch':
        model = model.branches['cnn']
    elif where in ('head', 'override'):
        model, prefix = model.head, 'head.'
    assert_same(
        model, {k.removeprefix(prefix): v for k, v in expected.items() if k.startswith(prefix)}
    )


def start_training(model, tmp_path):
    """Do what Runner.train() does with a model's weights before the first step."""
    name = f'start-{tmp_path.name}'
    runner = Runner(model=model, work_dir=str(tmp_path), experiment_name=name, log_level='ERROR')
    runner._init_model_weights()


LOADERS = {
    'load_state_dict': lambda model, path, weights: model.load_state_dict(weights),
    'mmengine': lambda model, path, weights: load_checkpoint(model, str(path)),
    'strict': lambda model, path, weights: load_checkpoint_strict(model, path),
}


@pytest.mark.parametrize('load', LOADERS.values(), ids=LOADERS)
def test_runner_keeps_what_python_loaded(tmp_path, mokd, load):
    path, source = mokd
    model = build(mokd_cfg())
    load(model, path, source.state_dict())
    start_training(model, tmp_path)
    assert_same(model, source.state_dict())


def test_runner_keeps_a_part_and_the_teacher_follows(tmp_path, mokd):
    path, source = mokd
    model = build(mokd_cfg())
    cnn, vit = model.branches['cnn'], model.branches['vit']
    prefix = 'branches.cnn.teacher.backbone.'
    load_checkpoint_strict(cnn.student.backbone, path, prefix=prefix)
    vit.teacher.load_state_dict(source.branches['vit'].student.state_dict())
    copied = copy.deepcopy(model)  # as mmengine's averages do
    for each in (model, copied):
        start_training(each, tmp_path)
        cnn, vit = each.branches['cnn'], each.branches['vit']
        assert_same(cnn.student.backbone, source.branches['cnn'].teacher.backbone.state_dict())
        assert_same(cnn.teacher, cnn.student.state_dict())
        assert_same(vit.teacher, source.branches['vit'].student.state_dict())
        assert not torch.equal(vit.student.backbone.cls_token, vit.teacher.backbone.cls_token)


def test_runner_keeps_what_was_loaded_into_a_model_of_timm(tmp_path):
    options = dict(img_size=64, depth=2)
    theirs = timm.create_model('vit_tiny_patch16_224', num_classes=0, **options)
    randomize(theirs)
    model = build(mokd_cfg(vit=BACKBONES['TIMMBackbone']))
    student, teacher = model.branches['vit'].student, model.branches['vit'].teacher
    student.backbone.timm_model.load_state_dict(theirs.state_dict())
    assert loaded_names(student.backbone.timm_model) == set(theirs.state_dict())
    start_training(model, tmp_path)
    for network in (student, teacher):
        assert_same(network.backbone.timm_model, theirs.state_dict())


def test_other_models_keep_it_too(tmp_path, mokd):
    path, source = mokd
    expected = source.branches['cnn'].teacher.backbone.state_dict()
    model = build(classifier())
    before = model.head.fc.weight.clone()
    model.backbone.load_state_dict(expected)
    start_training(model, tmp_path)
    assert_same(model.backbone, expected)
    assert not torch.equal(model.head.fc.weight, before)  # which was not loaded, and drawn


def test_python_counts_before_init_cfg(tmp_path, mokd):
    """Who loads in Python after building has the last word."""
    save_like(RESNET, 'mmpretrain', tmp_path / 'a.pth')
    load = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    model = build(classifier(load))
    expected = mokd[1].branches['cnn'].teacher.backbone.state_dict()
    model.backbone.load_state_dict(expected)
    model.init_weights()
    assert_same(model.backbone, expected)


def test_other_shapes_are_not_kept():
    """A head for other classes is not loaded, so it is drawn."""
    model = build(classifier())
    weights = {'head.fc.weight': torch.ones(7, 512), 'head.fc.bias': torch.ones(2)}
    with pytest.raises(RuntimeError, match='size mismatch for head.fc.weight'):
        model.load_state_dict(weights, strict=False)
    assert loaded_names(model) == {'head.fc.bias'}


def detector():
    scope_of('mmdet')
    return build(
        dict(
            type='RetinaNet',
            backbone=RESNET,
            neck=dict(type='FPN', in_channels=[64, 128, 256, 512], out_channels=8, num_outs=5),
            bbox_head=dict(type='RetinaHead', num_classes=2, in_channels=8, feat_channels=8),
        ),
        'mmdet',
    )


def segmentor():
    scope_of('mmseg')
    head = dict(type='FCNHead', in_channels=512, channels=8, num_classes=3)
    cfg = dict(type='EncoderDecoder', backbone=RESNET, decode_head=head)
    return build(dict(cfg, test_cfg=dict(mode='whole')), 'mmseg')


@pytest.mark.parametrize('make', [lambda: build(classifier()), detector, segmentor])
def test_whole_checkpoint_in_a_foreign_model_is_an_error(tmp_path, mokd, make):
    model = make()
    message = (
        r'would load nothing: .* branches cnn, vit\. Instead of load_from or pretrained, give the '
        r"backbone init_cfg=dict\(type='Pretrained'.*prefix='branches\.cnn\.teacher\.backbone\.'"
    )
    with pytest.raises(ValueError, match=message):
        load_checkpoint(model, str(mokd[0]))
    with pytest.raises(ValueError, match=message):
        model.load_state_dict(mokd[1].state_dict(), strict=False)
    runner = Runner(
        model=model,
        work_dir=str(tmp_path),
        experiment_name=f'foreign-{tmp_path.name}',
        load_from=str(mokd[0]),
        log_level='ERROR',
    )
    with pytest.raises(ValueError, match=message):
        runner.load_or_resume()


def test_whole_checkpoint_in_a_mokd_of_other_branches_is_an_error(mokd):
    cfg = mokd_cfg()
    model = build(dict(cfg, branches=dict(r18=cfg['branches']['cnn'])))
    with pytest.raises(
        ValueError, match='not one of its weights is for this MOKD with the branches r18'
    ):
        load_checkpoint(model, str(mokd[0]))


OWN_READERS = [kind for kind, cfg in BACKBONES.items() if '.' in kind and cfg['type'] != 'ResNet'][
    1:
]


@pytest.mark.parametrize('kind', OWN_READERS)
def test_a_class_that_reads_checkpoints_itself_cannot_pass_over_one(tmp_path, mokd, kind):
    scope, cfg = scope_of(kind), BACKBONES[kind]
    torch.save({'other.weight': torch.zeros(1)}, tmp_path / 'other.pth')
    for path, prefix in ((mokd[0], None), (mokd[0], 'branches.cnn.teacher.backbone.')):
        load = dict(type='Pretrained', checkpoint=str(path), prefix=prefix)
        with pytest.raises(ValueError, match='would load nothing|no prefix for|finds nothing'):
            build(dict(cfg, init_cfg=load), scope).init_weights()
    load = dict(type='Pretrained', checkpoint=str(tmp_path / 'other.pth'))
    with pytest.raises(ValueError, match='would load nothing|not one of|finds nothing'):
        build(dict(cfg, init_cfg=load), scope).init_weights()


def test_mmsegs_own_vit_takes_a_branch(mokd):
    scope_of('mmseg')
    prefix = 'branches.vit.teacher.backbone.'
    load = dict(type='Pretrained', checkpoint=str(mokd[0]), prefix=prefix)
    sizes = dict(SEG_VIT, embed_dims=192, num_layers=3, num_heads=3)
    norm = dict(norm_cfg=dict(type='LN', eps=1e-6), final_norm=True, patch_bias=True)
    model = build(dict(type='VisionTransformer', init_cfg=load, **sizes, **norm), 'mmseg')
    model.init_weights()
    model.eval()
    theirs = mokd[1].branches['vit'].teacher.backbone
    theirs.eval()
    images = torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    expected = theirs(images)[-1][:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    assert torch.allclose(model(images)[-1], expected, atol=1e-5)


def test_initializers_of_mmengine_draw_as_before():
    """Weights that were not loaded are drawn, in mmengine's order."""

    class Part(BaseModule):
        def __init__(self):
            super().__init__(dict(type='Constant', layer='Linear', val=1))
            self.linear = nn.Linear(2, 2)

        def init_weights(self):
            super().init_weights()
            nn.init.constant_(self.linear.bias, 2)

    part = Part()
    part.init_weights()
    assert (part.linear.weight == 1).all() and (part.linear.bias == 2).all()
    initialize(part, dict(type='Constant', layer='Linear', val=3))
    assert (part.linear.weight == 3).all()
