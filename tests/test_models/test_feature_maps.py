# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""A detector or segmentor that is made for other maps than its backbone gives."""

import copy
import importlib
from pathlib import Path

import pytest
from mmengine.config import Config
from transfer_testing import BENCHMARKS, need

from mmmokd.models.feature_maps import check_feature_maps

FPN = BENCHMARKS / 'detection' / 'mask-rcnn_r50_fpn_1x_coco.py'
PYRAMID = BENCHMARKS / 'detection' / 'mask-rcnn_vit-small-p16_sfp_1x_coco.py'
RETINA = BENCHMARKS / 'detection' / 'retinanet_r50_fpn_1x_coco.py'
UPERNET = BENCHMARKS / 'segmentation' / 'upernet_r50_4xb4-20k_voc12aug-512x512.py'
VIT_UPERNET = BENCHMARKS / 'segmentation' / 'upernet_vit-small-p16_8xb2-20k_voc12aug-512x512.py'
FCN = BENCHMARKS / 'segmentation' / 'fcn_r50-d8_4xb4-20k_voc12aug-512x512.py'
VIT = dict(_delete_=True, type='mmmokd.VisionTransformer', arch='deit-small', img_size=224)
ONE_MAP = dict(VIT, out_type='featmap')
MAPS = dict(ONE_MAP, out_indices=(2, 5, 8, 11))
CONVNEXT = dict(_delete_=True, type='mmpretrain.ConvNeXt', arch='atto', out_indices=[0, 1, 2, 3])
TIMM = dict(
    _delete_=True,
    type='mmpretrain.TIMMBackbone',
    model_name='mobilenetv3_small_050',
    pretrained=True,
)
WIDTHS = dict(in_channels=[384] * 4)
FROM_VIT = 'gives 4 maps of stride .16, 16, 16, 16. .*mmmokd.SimpleFeaturePyramid'
REFUSED = [
    (
        FPN,
        dict(backbone=VIT),
        'VisionTransformer, gives .*, not maps, .* set its out_type=.featmap',
    ),
    (FPN, dict(backbone=dict(VIT, type='mmpretrain.VisionTransformer')), r'\(1, 384\), not maps'),
    (FPN, dict(backbone=ONE_MAP), 'FPN, takes maps .* gives 1 map .*mmmokd.SimpleFeaturePyramid'),
    (FPN, dict(backbone=ONE_MAP, neck=dict(in_channels=[384])), '16, 32, 64, 128, 256.*SimpleF'),
    (FPN, dict(backbone=MAPS, neck=WIDTHS), 'model.neck, FPN, is made for maps of .*' + FROM_VIT),
    (FPN, dict(backbone=MAPS, neck=dict(WIDTHS, type='PAFPN')), 'model.neck, PAFPN, .*' + FROM_VIT),
    (
        FPN,
        dict(
            backbone=MAPS,
            neck=dict(WIDTHS, _delete_=True, type='ChannelMapper', out_channels=256),
        ),
        'model.neck, ChannelMapper, .*' + FROM_VIT,
    ),
    (RETINA, dict(backbone=ONE_MAP, neck=None), 'bbox_head.anchor_generator counts on .*SimpleF'),
    (PYRAMID, dict(backbone=dict(out_type='cls_token')), 'not maps'),
    (PYRAMID, dict(backbone=dict(patch_size=8)), r'strides \[4, 8.* \[2, 4, .*change the one or'),
    (
        FPN,
        dict(backbone=dict(depth=18)),
        r'\[256, 512, 1024, 2048\] channels, .*\[64, 128, 256, 512',
    ),
    (FPN, dict(backbone=dict(out_indices=(3,))), 'gives 1 map of stride .32. .*change the one or'),
    (
        FPN,
        dict(backbone=CONVNEXT),
        'ConvNeXt, gives 4 outputs .* set its gap_before_final_norm=False',
    ),
    (FPN, dict(backbone=TIMM), 'FPN, takes maps .* gives 1 map of stride .32. .*change the one'),
    (VIT_UPERNET, dict(backbone=dict(out_type='cls_token')), r'\(1, 384\), not maps, which mmseg'),
    (
        VIT_UPERNET,
        dict(backbone=dict(out_indices=-1)),
        'Feature2Pyramid, but model.backbone gives 1 map of stride .16.',
    ),
    (FCN, dict(backbone=VIT), 'not maps, which mmseg takes'),
    (FCN, dict(backbone=ONE_MAP), r'FCNHead takes the maps \[3\] .*gives 1 map .* in_index and'),
    (
        UPERNET,
        dict(backbone=dict(depth=18)),
        r'UPerHead takes .*2048\] channels, but .*, 512\] chan',
    ),
]
TAKEN = [
    (FPN, {}),
    (PYRAMID, {}),
    (VIT_UPERNET, {}),
    (UPERNET, dict(backbone=MAPS, decode_head=WIDTHS, auxiliary_head=dict(in_channels=384))),
    (
        FPN,
        dict(
            backbone=dict(CONVNEXT, gap_before_final_norm=False),
            neck=dict(in_channels=[40, 80, 160, 320]),
        ),
    ),
    (
        FPN,
        dict(
            backbone=dict(TIMM, features_only=True, out_indices=(1, 2, 3, 4)),
            neck=dict(in_channels=[8, 16, 24, 288]),
        ),
    ),
]


def load(path, changes):
    need('mmseg' if path.parent.name == 'segmentation' else 'mmdet', 'mmcv.ops')
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(dict(model=copy.deepcopy(changes)))  # takes `_delete_` out of it
    return cfg


@pytest.mark.parametrize(
    ('path', 'changes', 'message'), REFUSED, ids=[str(n) for n in range(len(REFUSED))]
)
def test_refused(path, changes, message):
    with pytest.raises(ValueError, match=message):
        check_feature_maps(load(path, changes))


@pytest.mark.parametrize(('path', 'changes'), TAKEN, ids=[str(n) for n in range(len(TAKEN))])
def test_taken(path, changes):
    check_feature_maps(load(path, changes))


def test_what_cannot_be_told_is_let_through():
    cfg = load(FPN, {})
    cfg.model.backbone = dict(type='mmdet.ResNet', depth=51)  # building it says what is wrong
    check_feature_maps(cfg)
    check_feature_maps(Config(dict(default_scope='mmpretrain', model=dict(backbone=VIT))))


@pytest.mark.long
@pytest.mark.parametrize('library', ['mmdet', 'mmseg'])
def test_no_config_of_the_libraries_is_refused(library):
    need(library, 'mmcv.ops')
    configs = (
        Path(importlib.import_module(f'{library}.models').__file__).parents[1] / '.mim/configs'
    )
    seen = set()
    for path in sorted(configs.glob('[!_]*/*.py')):
        try:
            model = Config.fromfile(path).get('model')
        except (ImportError, FileNotFoundError, KeyError, AttributeError):
            continue  # of another project, or not meant to be read alone
        if model and str(model) not in seen:
            seen.add(str(model))
            check_feature_maps(Config(dict(default_scope=library, model=model)))
    assert len(seen) > 100
