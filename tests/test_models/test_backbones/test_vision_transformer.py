# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from functools import partial

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import save_checkpoint
from mmpretrain.models.backbones import VisionTransformer as MMPretrainViT
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import nn

from mmmokd.registry import MODELS

ARCH = dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=48)


def build(**kwargs):
    cfg = dict(type='mmmokd.VisionTransformer', arch=ARCH, img_size=32, patch_size=8)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(dict(cfg, **kwargs))


def randomize(model):
    torch.manual_seed(0)
    for param in model.parameters():
        nn.init.normal_(param, std=0.2)
    return model


def timm_vit(model, img_size, pos_embed):
    """timm's ViT for another image size with the weights of ours."""
    other = TimmViT(
        img_size=img_size, patch_size=8, embed_dim=24, depth=3, num_heads=2, mlp_ratio=2,
        num_classes=0, norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    renamed = {}
    for key, value in model.state_dict().items():
        for ours, theirs in (
            ('patch_embed.projection', 'patch_embed.proj'),
            ('.ffn.layers.0.0', '.mlp.fc1'),
            ('.ffn.layers.1', '.mlp.fc2'),
            ('layers.', 'blocks.'),
            ('.ln1.', '.norm1.'),
            ('.ln2.', '.norm2.'),
            ('ln1.', 'norm.'),
        ):
            key = key.replace(ours, theirs)
        renamed[key] = value
    other.load_state_dict(dict(renamed, pos_embed=pos_embed))
    return other


@pytest.mark.parametrize('size', [32, 24, 16, 48])
def test_features_are_those_of_timm(size, float64):
    """timm's, built for the size, with the embedding resized as DINO does."""
    model = randomize(build())
    side = size // 8
    grid = model.pos_embed[:, 1:].reshape(1, 4, 4, 24).permute(0, 3, 1, 2)
    if side != 4:
        grid = nn.functional.interpolate(
            grid, scale_factor=((side + 0.1) / 4, (side + 0.1) / 4), mode='bicubic'
        )
    resized = torch.cat((model.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)), dim=1)
    images = torch.randn(2, 3, size, size)
    (found,) = model(images)
    assert found.shape == (2, 1 + side**2, 24)
    expected = timm_vit(model, size, resized).forward_features(images)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize('out_type', ['raw', 'cls_token', 'featmap'])
@pytest.mark.parametrize('size', [(32, 32), (16, 40)])
def test_outputs_are_those_of_mmpretrain(out_type, size):
    """With the embedding resized to the exact size; every layer's output on request."""
    settings = dict(arch=ARCH, img_size=32, patch_size=8, out_type=out_type, out_indices=[0, 2])
    model = randomize(build(pos_embed_scale_offset=None, **settings))
    other = MMPretrainViT(**settings)
    other.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, *size)
    found, expected = model(images), other(images)
    assert len(found) == len(expected) == 2
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_normed_outputs():
    """As DINO's linear evaluation reads them: the final LayerNorm after each of the layers."""
    model = randomize(build(out_indices=[0, 1, 2], out_type='cls_token', norm_outputs=True))
    plain = build(out_indices=[0, 1, 2], out_type='cls_token')
    plain.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    first, second, last = plain(images)
    norm = nn.functional.layer_norm
    ln1 = ((24,), model.ln1.weight, model.ln1.bias, 1e-6)
    expected = norm(first, *ln1), norm(second, *ln1), last
    for one, two in zip(model(images), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match='norm_outputs=True needs the final LayerNorm'):
        build(norm_outputs=True, final_norm=False)


@pytest.mark.parametrize('frozen', [1, 3])
def test_frozen_layers_stay_in_evaluation_mode(frozen):
    settings = dict(drop_path_rate=0.5, drop_rate=0.5)
    model = build(frozen_stages=frozen, **settings)
    assert model.train() is model and model.eval() is model and model.train(True) is model
    assert not any(module.training for layer in model.layers[:frozen] for module in layer.modules())
    assert all(layer.training for layer in model.layers[frozen:])
    trainable = {name.split('.')[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == (set() if frozen == 3 else {'layers', 'ln1'})
    if frozen == 3:
        images = torch.randn(1, 3, 32, 32)
        assert torch.equal(model(images)[0], model(images)[0])
    assert all(module.training for module in build(**settings).modules())


def test_without_a_class_token():
    model = build(with_cls_token=False)
    assert model(torch.rand(1, 3, 16, 16))[0].shape == (1, 4, 24)


def test_initial_weights():
    torch.manual_seed(0)
    model = build(arch='deit-tiny', img_size=224, patch_size=16)
    model.init_weights()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert float(module.weight.std()) == pytest.approx(0.02, rel=0.02)
            assert not module.bias.any()
        if isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-6
            assert torch.all(module.weight == 1) and not module.bias.any()
    assert float(model.pos_embed.std()) == pytest.approx(0.02, rel=0.02)
    assert float(model.cls_token.std()) == pytest.approx(0.02, rel=0.15)


@pytest.mark.parametrize(
    ('arch', 'width', 'heads'),
    [('deit-tiny', 192, 3), ('deit-small', 384, 6), ('deit-base', 768, 12)],
)
def test_architectures_of_the_paper(arch, width, heads):
    with torch.device('meta'):
        model = build(arch=arch, img_size=224, patch_size=16)
    assert len(model.layers) == 12
    assert model.embed_dims == width and model.layers[0].attn.num_heads == heads
    assert model.pos_embed.shape == (1, 1 + 14 * 14, width)


def test_drop_path_rises_with_depth():
    rates = [layer.attn.out_drop.drop_prob for layer in build(drop_path_rate=0.1).layers]
    assert rates == pytest.approx([0, 0.05, 0.1])


def test_weights_of_a_checkpoint_stay(tmp_path):
    source = randomize(build())
    save_checkpoint(dict(state_dict=source.state_dict()), str(tmp_path / 'vit.pth'))
    model = build(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'vit.pth')))
    model.init_weights()
    for key, value in model.state_dict().items():
        assert torch.equal(value, source.state_dict()[key]), key
