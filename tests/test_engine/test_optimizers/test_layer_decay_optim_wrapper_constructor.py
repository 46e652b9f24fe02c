# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor
from torch import nn

from mmmokd.engine import LayerDecayOptimWrapperConstructor
from mmmokd.registry import MODELS

VIT = dict(
    type='mmmokd.VisionTransformer', img_size=32, patch_size=8, out_type='cls_token',
    arch=dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=48),
)  # fmt: skip
OPTIMIZER = dict(type='AdamW', lr=2e-3, weight_decay=0.05)
NO_DECAY = {'.cls_token': dict(decay_mult=0.0), '.pos_embed': dict(decay_mult=0.5)}
PARAMWISE = [
    dict(layer_decay_rate=0.65),
    dict(layer_decay_rate=0.75, norm_decay_mult=0.0, bias_decay_mult=0.1, custom_keys=NO_DECAY),
    dict(layer_decay_rate=0.5, flat_decay_mult=0.0, custom_keys={'.ffn': dict(eps=1e-4)}),
]


class Detector(nn.Module):
    """In the form of a detector: it has a backbone, and no layers of its own to tell."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Sequential(nn.Conv2d(24, 8, 1), nn.BatchNorm2d(8))


def build(backbone):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(backbone)


def build_classifier(backbone, in_channels):
    head = dict(type='LinearClsHead', num_classes=5, in_channels=in_channels)
    return build(dict(type='ImageClassifier', backbone=backbone, head=head))


def settings_by_name(model, wrapper):
    """Learning rate, weight decay and epsilon of every parameter."""
    names = {id(param): name for name, param in model.named_parameters()}
    found = {}
    for group in wrapper.optimizer.param_groups:
        for param in group['params']:
            assert names[id(param)] not in found
            found[names[id(param)]] = (group['lr'], group['weight_decay'], group['eps'])
    return found


@pytest.mark.parametrize('paramwise_cfg', PARAMWISE)
@pytest.mark.parametrize(
    ('backbone', 'in_channels'),
    [
        (VIT, 24),
        (dict(type='ResNet', depth=50), 2048),
        (dict(type='ConvNeXt', arch=dict(depths=[1, 1, 3, 1], channels=[4, 8, 12, 16])), 16),
    ],
    ids=['vit', 'resnet', 'convnext'],
)
def test_settings_are_those_of_mmpretrain(backbone, in_channels, paramwise_cfg):
    model = build_classifier(backbone, in_channels)
    first = next(model.backbone.parameters())
    first.requires_grad = False
    cfg = dict(optimizer=OPTIMIZER)
    found = LayerDecayOptimWrapperConstructor(cfg, paramwise_cfg)(model)
    expected = LearningRateDecayOptimWrapperConstructor(cfg, paramwise_cfg)(model)
    found, expected = (settings_by_name(model, wrapper) for wrapper in (found, expected))
    assert found == expected
    assert len(found) == len(list(model.parameters())) - 1


def test_detector():
    """A plain formula: 2 embeddings, 3 blocks, the final norm with all that follows."""
    model = Detector(build(VIT))
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor='mmmokd.LayerDecayOptimWrapperConstructor',
            optimizer=OPTIMIZER,
            paramwise_cfg=dict(
                layer_decay_rate=0.7, norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys=NO_DECAY
            ),
        ),
    )
    expected = {}
    for name, param in model.named_parameters():
        layer = 4
        if name.startswith(('backbone.cls_token', 'backbone.pos_embed', 'backbone.patch_embed')):
            layer = 0
        elif name.startswith('backbone.layers.'):
            layer = int(name.split('.')[2]) + 1
        decay = 0.05 * (param.dim() > 1)
        decay *= {'backbone.cls_token': 0, 'backbone.pos_embed': 0.5}.get(name, 1)
        expected[name] = pytest.approx((2e-3 * 0.7 ** (4 - layer), decay, 1e-8), rel=1e-12)
    assert settings_by_name(model, wrapper) == expected
    # Of the embeddings, cls_token and bias are not decayed, pos_embed half, and the projection fully.
    assert len(wrapper.optimizer.param_groups) == 3 + 4 * 2
    # The log shows the first of these.
    lrs = wrapper.get_lr()
    assert lrs.keys() == {'lr'} and lrs['lr'][0] == max(lrs['lr']) == 2e-3


def test_other_backbones_are_refused():
    constructor = LayerDecayOptimWrapperConstructor(dict(optimizer=OPTIMIZER), PARAMWISE[0])
    with pytest.raises(ValueError, match='but Detector has torch.nn.modules.conv.Conv2d'):
        constructor(Detector(nn.Conv2d(3, 24, 1)))
    with pytest.raises(ValueError, match='but Linear has none'):
        constructor(nn.Linear(2, 2))
    small = Detector(build(dict(type='ResNet', depth=18, base_channels=4, stem_channels=4)))
    with pytest.raises(ValueError, match='resnet.ResNet does not define the layers of this depth'):
        constructor(small)


@pytest.mark.parametrize(
    ('optimizer', 'paramwise_cfg', 'message'),
    [
        (dict(type='AdamW', lr=1e-3), PARAMWISE[0], 'needs weight_decay in optim_wrapper.optim'),
        (OPTIMIZER, None, r'needs layer_decay_rate .* but has \[\]'),
        (OPTIMIZER, dict(norm_decay_mult=0.0), r"needs layer_decay_rate .* \['norm_decay_mult'\]"),
        (OPTIMIZER, dict(PARAMWISE[0], bias_lr_mult=2.0), r"but has \['bias_lr_mult', 'layer_dec"),
        (
            OPTIMIZER,
            dict(PARAMWISE[0], custom_keys={'head': dict(lr_mult=10)}),
            r"custom_keys\['head'\] has lr_mult",
        ),
    ],
)
def test_settings_that_do_not_fit(optimizer, paramwise_cfg, message):
    with pytest.raises(ValueError, match=message):
        LayerDecayOptimWrapperConstructor(dict(optimizer=optimizer), paramwise_cfg)
