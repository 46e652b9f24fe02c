# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""A branch in every library: the same features, or an error."""

import importlib
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from backbone_families import FAMILIES
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import _load_checkpoint_with_prefix, load_checkpoint
from torch import nn
from weights_testing import IMAGE_SIZE, build, randomize, run_double, save_mokd

from mmmokd.cli.config import load_config
from mmmokd.models.branches import AutoAdapter, build_backbone
from mmmokd.transfer.branch_info import complete_info
from mmmokd.transfer.export import export_branch, key_report
from mmmokd.transfer.libraries import build_library
from mmmokd.transfer.libraries.base import pooled
from mmmokd.weights import read_weights

IMAGES = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
TOLERANCE = 1e-5
CASES = [
    *[
        (library, branch)
        for library in ('mmpretrain', 'mmdet', 'mmseg')
        for branch in ('cnn', 'vit')
    ],
    *[('timm', 'cnn'), ('timm', 'vit'), ('torchvision', 'cnn')],
]


def require(library):
    if library in ('mmdet', 'mmseg'):
        pytest.importorskip('mmcv.ops')
        importlib.import_module(pytest.importorskip(library).__name__ + '.models')


@torch.no_grad()
def branch_features(model, branch):
    """The teacher's pooled feature, and its map (B, C, h, w)."""
    features = model.branches[branch].teacher.extract(IMAGES)
    return features.pooled, features.tokens.transpose(1, 2).unflatten(2, features.grid)


def follow(lines, file):
    """Build and load a model as the report says, by the library alone."""
    text = '\n'.join(lines[lines.index('use it by') + 1 :]).partition('\npixels:')[0]
    scope = dict(timm=timm, torchvision=torchvision, torch=torch, safetensors=safetensors)
    if 'backbone=' not in text:
        exec(text, scope)
        return scope['model']
    config = dict(exec(text, scope) or scope)
    backbone = config['backbone']
    init_cfg = backbone.pop('init_cfg')
    assert init_cfg.pop('type') == 'Pretrained'
    return backbone, init_cfg


def load_plainly(model, init_cfg):
    """As mmengine does without this package."""
    if 'prefix' in init_cfg:
        weights = _load_checkpoint_with_prefix(init_cfg['prefix'], init_cfg['checkpoint'])
        model.load_state_dict(weights, strict=True)
    else:
        load_checkpoint(model, init_cfg['checkpoint'], strict=True)


@torch.no_grad()
def library_map(model, images):
    """The last map (B, C, h, w), or the pooled feature (B, C)."""
    model.eval()
    output = model.forward_features(images) if hasattr(model, 'forward_features') else model(images)
    return output[-1] if isinstance(output, list | tuple) else output


@pytest.mark.parametrize(('library', 'branch'), CASES)
def test_features_are_the_branchs(mokd, tmp_path, library, branch):
    require(library)
    path, source = mokd
    out = tmp_path / 'out.pth'
    lines = export_branch(path, out, library, branch)
    count = len(source.branches[branch].teacher.backbone.state_dict())
    assert lines[1:4] == [
        f'matched    {count} of {count} weights (100 %)',
        'missing    none',
        'unexpected none',
    ]
    assert lines[-1] == 'pixels: mean [123.0, 116.0, 103.0], std [58.0, 57.0, 56.0], channels RGB'

    model = follow(lines, out)
    if isinstance(model, tuple):
        cfg, init_cfg = model
        model = build(cfg, library)
        load_plainly(model, init_cfg)
    pooled, feature_map = branch_features(source, branch)
    found = library_map(model, IMAGES)
    if found.ndim == 3:  # timm's tokens, the class token first
        assert torch.allclose(found[:, 0], pooled, atol=TOLERANCE)
        found = found[:, 1:].transpose(1, 2).unflatten(2, feature_map.shape[2:])
    expected = feature_map if found.ndim == 4 else pooled
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=TOLERANCE)


def save_branch(path, cfg):
    """Write a checkpoint with one branch, named a; returns its backbone, which gives maps."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        backbone = build_backbone(dict(cfg))
    randomize(backbone)
    weights = {f'branches.a.teacher.backbone.{k}': v for k, v in backbone.state_dict().items()}
    text = Config(dict(model=dict(branches=dict(a=dict(backbone=cfg))))).pretty_text
    torch.save(dict(state_dict=weights, meta=dict(cfg=text)), path)
    return backbone


@pytest.mark.parametrize(
    'cfg',
    [
        dict(type='ConvNeXt', arch=dict(depths=[1] * 4, channels=[8] * 4), out_indices=[0, 3]),
        dict(type='MobileNetV3', arch='small_050'),
    ],
)
def test_networks_of_convolutions_in_timm(tmp_path, cfg):
    backbone = save_branch(tmp_path / 'a.pth', cfg)
    out = tmp_path / 'out.safetensors'
    lines = export_branch(tmp_path / 'a.pth', out, 'timm')
    left = '2, the model has no part for norm0.weight, norm0.bias'
    assert lines[3] == f'unexpected {left if cfg["type"] == "ConvNeXt" else "none"}'
    assert lines[-1] == 'pixels: the checkpoint does not tell how they were normalized'
    model = follow(lines, out)
    expected = pooled(run_double(backbone, IMAGES))
    assert torch.allclose(pooled(run_double(model, IMAGES)), expected, rtol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize('name', ['convnext', 'beit', 'eva02', 'timm_pit_pooled', 'timm_coat'])
def test_what_a_branch_sets_is_exported(tmp_path, name):
    """Arguments that its config does not have, and on which weights and features depend."""
    family = FAMILIES[name]
    backbone = save_branch(tmp_path / 'a.pth', family.cfg)
    out = tmp_path / 'out.pth'
    cfg, init_cfg = follow(export_branch(tmp_path / 'a.pth', out, 'mmpretrain'), out)
    model = build(cfg)
    load_plainly(model, init_cfg)
    backbone.eval(), model.eval()  # of which some return nothing
    size = family.sizes[0]
    images = torch.rand(2, 3, *size)
    expected = AutoAdapter()(backbone(images), backbone, size).pooled
    found = model(images)
    if not isinstance(found[-1], torch.Tensor) or found[-1].ndim != 2:
        found = [AutoAdapter()(found, model, size).pooled]
    assert torch.allclose(found[-1], expected, atol=TOLERANCE)


def test_nothing_is_written_of_what_computes_something_else(tmp_path):
    save_branch(tmp_path / 'a.pth', dict(type='ResNet', depth=18, strides=(1, 2, 2, 1)))
    for library, name in (('timm', 'out.pth'), ('detectron2', 'out.pkl')):
        message = f'but its features differ by .* --to {library} takes a ResNet'
        with pytest.raises(ValueError, match=message):
            export_branch(tmp_path / 'a.pth', tmp_path / name, library)
    assert [file.name for file in tmp_path.iterdir()] == ['a.pth']


def test_detectron2(mokd, tmp_path):
    lines = export_branch(mokd[0], tmp_path / 'out.pkl', 'detectron2', 'cnn')
    usage = lines[lines.index('use it by') + 1 : -1]
    assert '-> detectron2.ResNet, a ResNet of 2-2-2-2 basic blocks, 64 wide' in lines[0]
    assert usage[1] == f'  WEIGHTS: {tmp_path / "out.pkl"}'
    assert '  PIXEL_MEAN: [123.0, 116.0, 103.0]' in usage
    content = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    weight = mokd[1].branches['cnn'].teacher.backbone.conv1.weight
    assert np.array_equal(content['model']['stem.conv1.weight'], weight.detach().numpy())
    with pytest.raises(ValueError, match='already exists'):
        export_branch(mokd[0], tmp_path / 'out.pkl', 'detectron2', 'cnn')


def test_transformers(mokd, tmp_path):
    transformers = pytest.importorskip('transformers')
    out = tmp_path / 'out'
    lines = export_branch(mokd[0], out, 'transformers', 'vit', img_size=96)
    exec(
        '\n'.join(lines[lines.index('use it by') + 1 : -1]),
        scope := dict(transformers=transformers),
    )
    assert scope['model'].config.image_size == 96
    assert scope['processor'].image_mean == [value / 255 for value in (123.0, 116.0, 103.0)]
    with pytest.raises(ValueError, match='already exists: choose another folder'):
        export_branch(mokd[0], out, 'transformers', 'cnn')
    (out / 'README.md').touch()
    export_branch(mokd[0], out, 'transformers', 'cnn', overwrite=True)
    assert type(transformers.AutoModel.from_pretrained(out)).__name__ == 'ResNetModel'
    assert (out / 'README.md').is_file()  # other files are left
    assert [file.name for file in tmp_path.iterdir()] == ['out']


@torch.no_grad()
def test_torchvisions_vit(tmp_path):
    vit = build(dict(type='mmmokd.VisionTransformer', arch='deit-base', img_size=IMAGE_SIZE))
    randomize(vit)
    weights = vit.state_dict()
    target = build_library('torchvision', complete_info(weights))
    assert target.usage(Path('x.pth')).startswith(
        'model = torchvision.models.vit_b_16(image_size=64)\n'
    )
    report = key_report(target.model, weights, 'here')
    assert report[1] == 'matched    150 of 150 weights (100 %)'
    vit.eval()
    expected = vit(IMAGES)[0][:, 0]
    assert torch.allclose(target.model.eval()(IMAGES), expected, atol=TOLERANCE)


@pytest.mark.parametrize('branch', ['cnn', 'vit'])
def test_without_its_config_a_standard_model_is_told_from_its_weights(tmp_path, branch):
    model = save_mokd(tmp_path / 'a.pth', with_config=False)
    lines = export_branch(tmp_path / 'a.pth', tmp_path / 'out.pth', 'mmpretrain', branch)
    cfg, init_cfg = follow(lines, tmp_path / 'out.pth')
    copy = build(cfg)
    load_plainly(copy, init_cfg)
    copy.eval()
    pooled, feature_map = branch_features(model, branch)
    found = library_map(copy, IMAGES)
    assert torch.allclose(found, feature_map if found.ndim == 4 else pooled, atol=TOLERANCE)


@pytest.mark.parametrize('library', ['mmpretrain', 'mmseg', 'timm'])
def test_position_embedding_is_resized(mokd, tmp_path, library):
    require(library)
    out = tmp_path / 'out.pth'
    export_branch(mokd[0], out, library, 'vit', img_size=96)
    weights = read_weights(out).weights
    (embedding,) = (value for key, value in weights.items() if key.endswith('pos_embed'))
    source = mokd[1].branches['vit'].teacher.backbone.pos_embed.detach()
    grid = source[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(grid, size=(6, 6), mode='bicubic').flatten(2)
    assert torch.equal(embedding[:, :1], source[:, :1])
    assert torch.allclose(embedding[:, 1:], expected.transpose(1, 2), atol=1e-6)


def test_config_of_the_target(mokd, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(
        "default_scope = 'mmpretrain'\n"
        "model = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18))"
    )
    lines = export_branch(
        mokd[0], tmp_path / 'a.pth', 'mmpretrain', 'cnn', target_config=load_config(config)
    )
    assert f'model.backbone.init_cfg.checkpoint={tmp_path / "a.pth"}' in lines[-2]
    config.write_text(config.read_text().replace('depth=18', 'depth=50'))
    with pytest.raises(ValueError, match='of a ResNet of 2-2-2-2 basic .* of 3-4-6-3 bottleneck'):
        export_branch(
            mokd[0], tmp_path / 'b.pth', 'mmpretrain', 'cnn', target_config=load_config(config)
        )
    assert not (tmp_path / 'b.pth').exists()
    with pytest.raises(ValueError, match='is a config of mmpretrain, not of mmdet'):
        export_branch(
            mokd[0], tmp_path / 'b.pth', 'mmdet', 'cnn', target_config=load_config(config)
        )


def test_safetensors(mokd, tmp_path):
    out = tmp_path / 'out.safetensors'
    lines = export_branch(mokd[0], out, 'timm', 'cnn', network='student')
    model = follow(lines, out)
    expected = mokd[1].branches['cnn'].student.backbone.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(library='mmpretrain'), 'which branch.* holds cnn, vit'),
        (dict(library='mmpretrain', branch='x'), "no branch 'x' in .* holds cnn, vit"),
        (
            dict(library='timm', branch='cnn', img_size=96),
            'only a ViT .*but the branch is a ResNet',
        ),
        (
            dict(library='torchvision', branch='vit'),
            '--to torchvision takes a ResNet .* but the branch',
        ),
        (
            dict(library='detectron2', branch='vit'),
            'reads such a file by its suffix: .*out.pth should',
        ),
        (
            dict(library='transformers', branch='vit'),
            'loads a folder: .*out.pth should be the name',
        ),
    ],
)
def test_what_cannot_be_exported(mokd, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        export_branch(mokd[0], tmp_path / 'out.pth', **arguments)
    assert not (tmp_path / 'out.pth').exists()


def test_other_files_are_refused(tmp_path, mokd):
    torch.save({'weight': torch.zeros(1)}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'is not a MOKD checkpoint. It holds 1 weights: weight'):
        export_branch(tmp_path / 'other.pth', tmp_path / 'out.pth', 'timm')
    (tmp_path / 'there.pth').touch()
    with pytest.raises(ValueError, match='already exists'):
        export_branch(mokd[0], tmp_path / 'there.pth', 'timm', 'cnn')
    model = save_mokd(tmp_path / 'a.pth')
    weights = model.state_dict()
    del weights['branches.cnn.teacher.backbone.conv1.weight']
    torch.save(weights, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=re.escape('lacks 1 of the 120 weights of ResNet: conv1')):
        export_branch(
            tmp_path / 'a.pth',
            tmp_path / 'out.pth',
            'timm',
            'cnn',
            config=load_config(_config(tmp_path)),
        )


def _config(folder):
    path = folder / 'mokd.py'
    backbone = "dict(type='ResNet', depth=18)"
    path.write_text(
        f"model = dict(type='mmmokd.MOKD', branches=dict(cnn=dict(backbone={backbone})))"
    )
    return path
