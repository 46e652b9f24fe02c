# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Files as other projects publish them, as the start of a branch and of a downstream model."""

import pytest
import timm
import torch
from mmengine.runner import CheckpointLoader
from weights_testing import build, randomize

WIDTH, DEPTH, PATCH = 64, 2, 14
SIZES = dict(embed_dim=WIDTH, depth=DEPTH, num_heads=1, num_classes=0)
ARCH = dict(embed_dims=WIDTH, num_layers=DEPTH, num_heads=1, feedforward_channels=4 * WIDTH)


def below(prefix, weights):
    return {f'{prefix}{key}': value for key, value in weights.items()}


def chunked(weights):
    """As DINOv2 keeps its blocks for training: in chunks, numbered with them."""
    return {
        key.replace('blocks.', f'blocks.{key.split(".")[1]}.')
        if key.startswith('blocks.')
        else key: v
        for key, v in weights.items()
    }


def with_mask_token(weights):
    return {**weights, 'mask_token': torch.zeros(1, WIDTH)}


# What a project's file looks like, given a network's weights and those of another one (or of itself
# at another time), and the beginning of the names that the log should tell.
LAYOUTS = {
    'plain': (lambda w, x: w, None),
    'ddp': (lambda w, x: below('module.', w), None),
    'compiled': (lambda w, x: {'state_dict': below('_orig_mod.', w)}, None),
    'compiled ddp': (lambda w, x: {'model': below('module._orig_mod.', w)}, 'model.'),
    'ema': (lambda w, x: below('ema.', w), 'ema.'),
    'timm with ema': (
        lambda w, x: {'arch': 'x', 'state_dict': x, 'state_dict_ema': below('module.', w)},
        'state_dict_ema.',
    ),
    'lightning': (
        lambda w, x: {
            'pytorch-lightning_version': '2.0',
            'state_dict': {**below('model.backbone.', w), 'head.weight': torch.zeros(2)},
        },
        'model.backbone.',
    ),
    'lightly': (
        lambda w, x: {
            'state_dict': {**below('student_backbone.', x), **below('teacher_backbone.', w)}
        },
        'teacher_backbone.',
    ),
    'MoCo': (
        lambda w, x: {
            'epoch': 200,
            'state_dict': {
                **below('module.encoder_q.', w),
                **below('module.encoder_k.', x),
                'module.encoder_q.fc.0.weight': torch.zeros(2, 2),
                'module.encoder_k.fc.0.weight': torch.zeros(2, 2),
                'module.queue': torch.zeros(2, 2),
            },
            'optimizer': {'state': {0: {'momentum_buffer': torch.zeros(2)}}},
        },
        'encoder_q.',
    ),
    'MoCo v3': (
        lambda w, x: {
            'state_dict': {
                **below('module.base_encoder.', w),
                **below('module.momentum_encoder.', x),
                'module.predictor.0.weight': torch.zeros(2, 2),
            }
        },
        'base_encoder.',
    ),
    'SwAV': (
        lambda w, x: below(
            'module.',
            {
                **w,
                'projection_head.0.weight': torch.zeros(2, 2),
                'prototypes.weight': torch.zeros(3, 2),
            },
        ),
        None,
    ),
    'VISSL': (
        lambda w, x: {
            'phase_idx': 1,
            'classy_state_dict': {
                'base_model': {
                    'model': {
                        'trunk': below('_feature_blocks.', w),
                        'heads': {'0.clf.0.weight': torch.zeros(2, 2)},
                    },
                    'meta': {},
                },
                'optimizer': {'state': {}},
            },
        },
        'classy_state_dict.base_model.model.trunk._feature_blocks.',
    ),
    'DINO': (
        lambda w, x: {
            'student': below(
                'module.', {**below('backbone.', x), 'head.last.weight': torch.ones(1)}
            ),
            'teacher': {**below('backbone.', w), 'head.last.weight': torch.ones(1)},
            'optimizer': {'state': {0: {'exp_avg': torch.zeros(2)}}},
            'epoch': 100,
        },
        'teacher.backbone.',
    ),
}


@pytest.fixture
def log(monkeypatch):
    lines = []
    monkeypatch.setattr(
        'mmmokd.weights.pretrained_init.print_log', lambda text, **kwargs: lines.append(text)
    )
    return lines


@pytest.fixture(scope='module')
def resnets():
    made = [timm.create_model('resnet18', num_classes=0, global_pool='') for _ in range(2)]
    for seed, model in enumerate(made):
        randomize(model, seed)
    return [model.eval() for model in made]


def timm_vit(size=4 * PATCH, seed=0, **kwargs):
    model = timm.create_model(
        'vit_small_patch14_dinov2', img_size=size, init_values=1e-5, **SIZES, **kwargs
    )
    randomize(model, seed)
    return model.eval()


@pytest.fixture(scope='module')
def vits():
    return [timm_vit(seed=seed) for seed in range(2)]


def start(tmp_path, content, cfg, **init_cfg):
    torch.save(content, tmp_path / 'theirs.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'theirs.pth'), **init_cfg)
    model = build(dict(cfg, init_cfg=init_cfg))
    model.init_weights()
    model.eval()
    return model


RESNET = dict(type='ResNet', depth=18)
VIT = dict(
    type='mmmokd.VisionTransformer',
    arch=ARCH,
    img_size=4 * PATCH,
    patch_size=PATCH,
    layer_scale_init_value=1e-5,
)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_resnet(tmp_path, resnets, log, layout):
    make, prefix = LAYOUTS[layout]
    model = start(tmp_path, make(*(each.state_dict() for each in resnets)), RESNET)
    images = torch.rand(1, 3, 32, 32)
    assert torch.allclose(model(images)[-1], resnets[0].forward_features(images), atol=1e-5)
    told = log[-1]
    assert 'all 120 weights loaded' in told
    assert prefix is None or repr(prefix) in told
    if layout in ('MoCo', 'MoCo v3', 'SwAV', 'VISSL', 'DINO'):
        assert f'official {layout}' in told


DINOV2 = {
    'backbone': lambda w, x: with_mask_token(w),
    'training': lambda w, x: {
        'teacher': {
            **below('backbone.', chunked(with_mask_token(w))),
            'dino_head.mlp.0.weight': torch.zeros(2, 2),
        }
    },
    'DINO': LAYOUTS['DINO'][0],
    'MoCo v3': LAYOUTS['MoCo v3'][0],
    'VISSL': LAYOUTS['VISSL'][0],
}


@pytest.mark.parametrize('kind', ['mmmokd.VisionTransformer', 'VisionTransformer'])
@pytest.mark.parametrize('layout', DINOV2)
def test_vit_with_layer_scales(tmp_path, vits, log, layout, kind):
    content = DINOV2[layout](*(each.state_dict() for each in vits))
    model = start(tmp_path, content, dict(VIT, type=kind, out_type='raw'))
    images = torch.rand(1, 3, 4 * PATCH, 4 * PATCH)
    assert torch.allclose(model(images)[-1], vits[0].forward_features(images), atol=1e-5)
    assert ('official DINOv2' in log[-1]) == (layout in ('backbone', 'training'))


def test_dinov2s_position_embedding_is_resized(tmp_path):
    """The published one is of 37 x 37 patches; between two sizes, DINOv2 resizes as this ViT does."""
    theirs = timm_vit(size=37 * PATCH)
    model = start(tmp_path, with_mask_token(theirs.state_dict()), dict(VIT, img_size=37 * PATCH))
    assert torch.equal(model.pos_embed, theirs.pos_embed)
    assert torch.isfinite(model(torch.rand(1, 3, 4 * PATCH, 4 * PATCH))[-1]).all()
    smaller = start(tmp_path, with_mask_token(theirs.state_dict()), VIT)
    grid = theirs.pos_embed[:, 1:].unflatten(1, (37, 37)).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (4, 4), mode='bicubic')
    assert torch.allclose(smaller.pos_embed[:, 1:], grid.flatten(2).transpose(1, 2), atol=1e-6)


def test_gated_layers_of_dinov2_giant(tmp_path):
    gated = dict(layer_cfgs=dict(ffn_type='swiglu_fused'))
    ours = build(dict(VIT, **gated))
    randomize(ours)
    names = {'layers.': 'blocks.', '.ln': '.norm', 'ffn.w': 'mlp.w', 'projection': 'proj'}
    names |= {'attn.gamma1.weight': 'ls1.gamma', 'ffn.gamma2.weight': 'ls2.gamma'}
    theirs = {}
    for key, value in ours.state_dict().items():
        key = 'norm' + key.removeprefix('ln1') if key.startswith('ln1') else key
        for old, new in names.items():
            key = key.replace(old, new)
        theirs[key] = value
    assert 'blocks.1.mlp.w12.weight' in theirs
    model = start(tmp_path, with_mask_token(theirs), dict(VIT, **gated))
    for key, value in model.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key])
    with pytest.raises(ValueError, match='swiglu_fused'):
        start(tmp_path, with_mask_token(theirs), VIT)


WRAPPER = dict(
    type='TIMMBackbone', model_name='vit_small_patch14_dinov2', img_size=4 * PATCH, **SIZES
)
del WRAPPER['num_classes']


@pytest.mark.parametrize('layout', DINOV2)
def test_wrapper_of_timm(tmp_path, vits, layout):
    content = DINOV2[layout](*(each.state_dict() for each in vits))
    model = start(tmp_path, content, dict(WRAPPER, init_values=1e-5), strict=True)
    images = torch.rand(1, 3, 4 * PATCH, 4 * PATCH)
    assert torch.allclose(model(images)[-1], vits[0].forward_features(images), atol=1e-5)


def test_register_tokens(tmp_path):
    """Only a model that has registers takes them; timm adds the class token's position to it."""
    theirs = timm_vit(reg_tokens=4, no_embed_class=True)
    weights = with_mask_token(theirs.state_dict())
    weights['register_tokens'] = weights.pop('reg_token')
    position = torch.rand(1, 1, WIDTH)
    weights['cls_token'] = weights['cls_token'] - position
    weights['pos_embed'] = torch.cat([position, weights['pos_embed']], 1)
    cfg = dict(WRAPPER, model_name='vit_small_patch14_reg4_dinov2', init_values=1e-5)
    model = start(tmp_path, weights, cfg)
    images = torch.rand(1, 3, 4 * PATCH, 4 * PATCH)
    assert torch.allclose(model(images)[-1], theirs.forward_features(images), atol=1e-5)
    for cfg in (VIT, dict(WRAPPER, init_values=1e-5)):
        with pytest.raises(ValueError, match='its model has register tokens'):
            start(tmp_path, weights, cfg)
    with pytest.raises(ValueError, match='its model has register tokens'):
        start(tmp_path, theirs.state_dict(), VIT)  # of timm, whose positions are of patches alone


def test_rotary_embedding_of_dinov3_does_not_fit(tmp_path, vits):
    weights = with_mask_token(vits[0].state_dict())
    del weights['pos_embed']
    weights['rope_embed.periods'] = torch.rand(4)
    with pytest.raises(ValueError, match=r'\(official DINOv3\).*a rotary position embedding'):
        start(tmp_path, weights, VIT)


def official_dinov3(model, biases):
    """As DINOv3's authors name their weights; the biases of all layers are ``biases``, or timm's."""
    weights = {}
    for key, value in model.state_dict().items():
        key = key.replace('gamma_', 'ls').replace('reg_token', 'storage_tokens')
        if key.endswith(('ls1', 'ls2')):
            key += '.gamma'
        if not key.endswith(('q_bias', 'v_bias')):
            weights[key] = value
    for n, block in enumerate(model.blocks):
        if biases is None:
            masked = torch.full((WIDTH,), torch.nan)
            bias = torch.cat([block.attn.q_bias.detach(), masked, block.attn.v_bias.detach()])
        weights[f'blocks.{n}.attn.qkv.bias'] = bias if biases is None else biases.clone()
        weights[f'blocks.{n}.attn.qkv.bias_mask'] = torch.ones(3 * WIDTH)
    return {**with_mask_token(weights), 'rope_embed.periods': torch.ones(16)}


DINOV3 = {
    'timm': lambda w, official: w,
    'DINOv3': lambda w, official: official,
    'training': lambda w, official: {
        'teacher': below('backbone._fsdp_wrapped_module.', chunked(official))
    },
}


@pytest.mark.parametrize('layout', DINOV3)
@pytest.mark.parametrize('name', ['vit_small_patch16_dinov3', 'vit_small_patch16_dinov3_qkvb'])
def test_dinov3(tmp_path, log, name, layout):
    theirs = timm.create_model(name, img_size=32, **SIZES).eval()
    randomize(theirs)
    biases = None if name.endswith('qkvb') else torch.zeros(3 * WIDTH)
    official = official_dinov3(theirs, biases)
    sizes = {key: value for key, value in SIZES.items() if key != 'num_classes'}
    cfg = dict(type='TIMMBackbone', model_name=name, img_size=32, **sizes)
    content = DINOV3[layout](theirs.state_dict(), official)
    model = start(tmp_path, content, cfg, strict=True)
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(model(images)[-1], theirs.forward_features(images))
    assert ('official DINOv3' in log[-1]) == (layout != 'timm')
    if biases is None and layout != 'timm':
        with pytest.raises(ValueError, match=r'has biases .*blocks.0.attn.qkv.bias.*dinov3_qkvb'):
            start(tmp_path, content, dict(cfg, model_name='vit_small_patch16_dinov3'))


@pytest.mark.parametrize('kind', ['resnet18', 'convnext_atto', 'vit_tiny_patch16_224'])
def test_features_only_of_timm(tmp_path, kind):
    """Names of timm's features_only are those of the whole model, but for a level and some dots."""
    options = dict(img_size=32, depth=3) if 'vit' in kind else {}
    whole = timm.create_model(kind, num_classes=0, **options)
    randomize(whole)
    features = timm.create_model(kind, features_only=True, **options)
    cfg = dict(type='TIMMBackbone', model_name=kind, **options)
    images = torch.rand(1, 3, 32, 32)
    model = start(tmp_path, whole.state_dict(), dict(cfg, features_only=True), strict=True)
    inner = model.timm_model.state_dict()
    features.load_state_dict(inner)
    features.eval(), whole.eval()
    last = features(images)[-1]
    assert torch.equal(model(images)[-1], last)
    if kind == 'convnext_atto':  # its last norm is not part of the features
        return
    expected = whole.forward_features(images)
    if kind == 'resnet18':
        assert torch.allclose(last, expected, atol=1e-5)
        again = start(tmp_path, features.state_dict(), RESNET, strict=True)
        assert torch.allclose(again(images)[-1], expected, atol=1e-5)


@pytest.mark.parametrize(
    ('content', 'match'),
    [
        (lambda w: {**below('left.', w), **below('right.', w)}, "prefixes 'left.', 'right.'"),
        (lambda w: {'teacher': {**below('a.', w), **below('b.', w)}}, "'teacher.a.', 'teacher.b.'"),
    ],
)
def test_which_of_several_is_not_guessed(tmp_path, resnets, content, match):
    with pytest.raises(ValueError, match=match):
        start(tmp_path, content(resnets[0].state_dict()), RESNET)


@pytest.mark.parametrize(
    ('layout', 'prefix'),
    [
        ('MoCo', 'module.encoder_k.'),
        ('MoCo', 'encoder_k'),
        ('DINO', 'student'),
        ('DINO', 'student.backbone.'),
        ('timm with ema', 'state_dict_ema'),
        ('timm with ema', 'state_dict'),
    ],
)
def test_prefix_chooses(tmp_path, resnets, layout, prefix):
    other = 0 if prefix == 'state_dict_ema' else 1
    content = LAYOUTS[layout][0](*(each.state_dict() for each in resnets))
    model = start(tmp_path, content, RESNET, prefix=prefix)
    assert torch.equal(model.conv1.weight, resnets[other].conv1.weight)


NO_SCALES = {key: value for key, value in VIT.items() if key != 'layer_scale_init_value'}


@pytest.mark.parametrize('part', ['backbone', 'classifier', 'segmentor'])
def test_layer_scales_are_not_left_out(tmp_path, vits, part):
    cfg = dict(NO_SCALES, type='VisionTransformer')
    if part == 'segmentor':
        pytest.importorskip('mmcv.ops')
        pytest.importorskip('mmseg.models')
        sizes = dict(embed_dims=WIDTH, num_layers=DEPTH, num_heads=1, patch_bias=True)
        cfg = dict(type='mmseg.VisionTransformer', img_size=56, patch_size=PATCH, **sizes)
    torch.save(with_mask_token(vits[0].state_dict()), tmp_path / 'theirs.pth')
    cfg['init_cfg'] = dict(type='Pretrained', checkpoint=str(tmp_path / 'theirs.pth'))
    if part == 'classifier':
        cfg = dict(type='ImageClassifier', backbone=cfg)
    message = 'layer_scale_init_value=1e-5' if part != 'segmentor' else 'no place for: layers.0'
    with pytest.raises(ValueError, match=message):
        build(cfg).init_weights()


def test_a_model_with_layer_scales_wants_them(tmp_path):
    plain = timm.create_model('vit_tiny_patch16_224', img_size=56, patch_size=PATCH, **SIZES)
    with pytest.raises(
        ValueError, match='only the model has layer scales: leave layer_scale_init_value'
    ):
        start(tmp_path, plain.state_dict(), VIT)


@pytest.mark.parametrize(
    ('drop', 'more', 'match'),
    [
        ('layer3.1.bn2.running_var', {}, 'lacks 1 of the 120 weights'),
        (None, {'layer2.2.conv1.weight': torch.zeros(1)}, 'has no place for: layer2.2.conv1'),
    ],
)
def test_plain_resnet_of_any_file_is_whole(tmp_path, resnets, drop, more, match):
    weights = {key: v for key, v in resnets[0].state_dict().items() if key != drop}
    with pytest.raises(ValueError, match=match):
        start(tmp_path, {**weights, **more}, RESNET)


@pytest.mark.parametrize(
    ('cfg', 'match'),
    [
        (dict(type='ResNetV1c', depth=18), r'lacks \d+ of the 132 weights of ResNetV1c: stem\.0'),
        (dict(type='SEResNet', depth=50), 'SEResNet'),
    ],
)
def test_other_stems_and_blocks_do_not_start_at_random(tmp_path, resnets, cfg, match):
    with pytest.raises(ValueError, match=match):
        start(tmp_path, resnets[0].state_dict(), cfg)


def test_deformable_convolutions_start_without_offsets(tmp_path, resnets):
    pytest.importorskip('mmcv.ops')
    pytest.importorskip('mmdet.models')
    theirs = build(dict(type='ResNet', depth=50))
    randomize(theirs)
    dcn = dict(dcn=dict(type='DCN', deform_groups=1, fallback_on_stride=False))
    cfg = dict(type='mmdet.ResNet', depth=50, stage_with_dcn=(False, False, False, True), **dcn)
    model = start(tmp_path, theirs.state_dict(), cfg)
    assert torch.equal(model.layer4[0].conv2.weight, theirs.layer4[0].conv2.weight)
    assert not model.layer4[0].conv2.conv_offset.weight.any()


def test_vit_without_class_token(tmp_path, vits):
    options = dict(type='VisionTransformer', with_cls_token=False, out_type='featmap')
    model = start(tmp_path, vits[0].state_dict(), dict(VIT, **options))
    assert torch.equal(model.pos_embed, vits[0].pos_embed[:, 1:])


def test_what_a_plain_model_has_not_may_be_missing(tmp_path, resnets, vits):
    """Another final norm than the pretraining had, as mmpretrain's fine-tuning of MAE has it."""
    cfg = dict(VIT, type='VisionTransformer', out_type='avg_featmap', final_norm=False)
    model = start(tmp_path, vits[0].state_dict(), cfg)
    assert (model.ln2.weight == 1).all()
    assert torch.equal(model.cls_token, vits[0].cls_token)


@pytest.mark.parametrize('address', ['open-mmlab://detectron/resnet', 'https://a.b/resnet.pth'])
def test_models_that_mmengine_knows_by_name_load_as_they_do_there(monkeypatch, resnets, address):
    """A bias of Caffe's first convolution is left out of them alone."""
    weights = {**resnets[0].state_dict(), 'conv1.bias': torch.zeros(64)}
    monkeypatch.setattr(CheckpointLoader, 'load_checkpoint', lambda *args: {'state_dict': weights})
    model = build(dict(RESNET, init_cfg=dict(type='Pretrained', checkpoint=address)))
    if address.startswith('https'):
        with pytest.raises(ValueError, match=r'no place for: conv1\.bias'):
            model.init_weights()
    else:
        model.init_weights()
        assert torch.equal(model.conv1.weight, weights['conv1.weight'])
