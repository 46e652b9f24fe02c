# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Backbones of mmpretrain and timm in tiny sizes,
of every kind of output that a branch may meet."""

from typing import NamedTuple

import torch
from mmengine.registry import DefaultScope

from mmmokd.models.branches import build_backbone

VIT = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
SWIN = dict(embed_dims=16, depths=[2, 1, 1, 1], num_heads=[1, 1, 2, 2])
TIMM_VIT = dict(depth=2, embed_dim=24, num_heads=2)
TIMM_SWIN = dict(embed_dim=16, depths=(2, 1, 1, 1), num_heads=(1, 1, 2, 2))
STAGES = dict(depths=(1, 1, 1, 1), embed_dims=(8, 8, 16, 16))


class Family(NamedTuple):
    """A backbone, and what a branch has to read from it.

    ``grids`` are the maps' (h, w) for images of ``sizes``,
    those of the global and of the local views.
    ``set_by_branch`` are the arguments that a branch has to set, ``unread`` are parts of names of
    parameters that the library's own forward pass leaves without a gradient.
    """

    cfg: dict
    grids: tuple = ((2, 3), (1, 1))
    sizes: tuple = ((64, 96), (32, 32))
    adapter: dict | None = None
    set_by_branch: tuple = ()
    unread: tuple = ()


def mmpretrain(kind, *args, patch=None, **kwargs):
    """A backbone of mmpretrain: of stride 32, or of a patch size."""
    return _family(dict(type=kind), patch, args, kwargs)


def timm(name, *args, patch=None, **kwargs):
    """A model of timm: of stride 32, or of a patch size."""
    return _family(dict(type='TIMMBackbone', model_name=name), patch, args, kwargs)


def _family(cfg, patch, args, kwargs):
    fields = {key: kwargs.pop(key) for key in Family._fields if key in kwargs}
    if patch:
        sizes = fields.get('sizes', ((64, 96), (32, 32)))
        fields.setdefault('grids', tuple(tuple(-(-x // patch) for x in size) for size in sizes))
    return Family(dict(cfg, **kwargs), *args, **fields)


ONE_SIZE = ((64, 64), (64, 64))  # of backbones that take no other
FOR_SIZES = ('dynamic_img_size=True', 'dynamic_img_pad=True')
MAP_ONLY = ('features_only=True', 'out_indices=(-1,)')
FAMILIES = dict(
    # CNNs of mmpretrain
    resnet=mmpretrain(
        'ResNet', depth=18, base_channels=8, stem_channels=8, drop_path_rate=0.5,
        zero_init_residual=False,
    ),
    resnet_cifar=mmpretrain('ResNet_CIFAR', patch=8, depth=18, stem_channels=8, base_channels=8),
    regnet=mmpretrain(
        'RegNet', arch=dict(w0=8, wa=8, wm=2.0, group_w=8, depth=6, bot_mul=1.0)
    ),
    mobilenet_v3=mmpretrain('MobileNetV3', arch='small_050'),
    hrnet=mmpretrain(
        'HRNet',
        extra=dict(
            stage1=dict(
                num_modules=1, num_branches=1, block='BOTTLENECK', num_blocks=(1,),
                num_channels=(8,),
            ),
            **{
                f'stage{n}': dict(
                    num_modules=1, num_branches=n, block='BASIC', num_blocks=(1,) * n,
                    num_channels=(4, 8, 12, 16)[:n],
                )
                for n in (2, 3, 4)
            },
        ),
        adapter=dict(type='mmmokd.PyramidAdapter'),
    ),
    repvgg=mmpretrain(
        'RepVGG',
        arch=dict(
            num_blocks=[1, 1, 1, 1], width_factor=[0.25, 0.25, 0.25, 0.25], group_layer_map=None,
            se_cfg=None, stem_channels=16,
        ),
    ),
    mobileone=mmpretrain(
        'MobileOne',
        arch=dict(
            num_blocks=[1, 1, 1, 1], width_factor=[0.25] * 4, num_conv_branches=[2] * 4,
            num_se_blocks=[0, 0, 0, 1],
        ),
    ),
    densenet=mmpretrain(
        'DenseNet', arch=dict(growth_rate=8, depths=[1, 1, 1, 1], init_channels=16),
    ),
    # CNNs with layers of transformers
    convnext=mmpretrain(
        'ConvNeXt', arch=dict(depths=[1, 1, 1, 1], channels=[8, 8, 16, 16]), drop_path_rate=0.5,
        set_by_branch=('gap_before_final_norm=False',),
    ),
    convmixer=mmpretrain(
        'ConvMixer', patch=16, arch=dict(embed_dims=32, depth=1, patch_size=16, kernel_size=3)
    ),
    edgenext=mmpretrain(
        'EdgeNeXt', arch=dict(channels=[8, 16, 16, 32], depths=[1, 1, 2, 2], num_heads=[2] * 4),
        set_by_branch=('gap_before_final_norm=False',),
    ),
    hornet=mmpretrain(
        'HorNet',
        arch=dict(
            base_dim=16, depths=[1, 1, 1, 1], orders=[2, 3, 4, 5],
            dw_cfg=[dict(type='DW', kernel_size=7)] * 4,
        ),
        set_by_branch=('gap_before_final_norm=False',),
    ),
    van=mmpretrain(
        'VAN', arch=dict(embed_dims=[8, 8, 16, 16], depths=[1, 1, 1, 1], ffn_ratios=[2, 2, 2, 2])
    ),
    poolformer=mmpretrain(
        'PoolFormer',
        arch=dict(
            layers=[1, 1, 1, 1], embed_dims=[8, 16, 24, 32], mlp_ratios=[2] * 4,
            layer_scale_init_value=0.1,
        ),
    ),
    efficientformer=mmpretrain(
        'EfficientFormer',
        arch=dict(
            layers=[1, 1, 1, 2], embed_dims=[8, 8, 16, 16], downsamples=[False, True, True, True],
            vit_num=1,
        ),
        sizes=((224, 224), (224, 224)), grids=((7, 7), (7, 7)),
        set_by_branch=('reshape_last_feat=True',),
    ),
    # Pyramids of transformers of mmpretrain
    swin=mmpretrain(
        'SwinTransformer', window_size=2, img_size=64, drop_path_rate=0.5, arch=SWIN,
        set_by_branch=('pad_small_map=True where a map is smaller than a window',),
    ),
    swin_small_map=mmpretrain(
        'SwinTransformer', window_size=7, img_size=224, arch=SWIN,
        set_by_branch=('pad_small_map=True where a map is smaller than a window',),
    ),
    swin_v2=mmpretrain(
        'SwinTransformerV2', window_size=8, img_size=256, arch=dict(SWIN,
        extra_norm_every_n_blocks=0),
        set_by_branch=('pad_small_map=True where a map is smaller than a window',),
    ),
    davit=mmpretrain(
        'DaViT', window_size=2, drop_path_rate=0.5, arch=dict(SWIN, depths=[1, 1, 1, 1]),
        set_by_branch=('pad_small_map=True where a map is smaller than a window',),
    ),
    pvt=mmpretrain(
        'PCPVT',
        arch=dict(
            embed_dims=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2],
            patch_sizes=[4, 2, 2, 2], strides=[4, 2, 2, 2], mlp_ratios=[2] * 4, sr_ratios=[8, 4,
            2, 1],
        ),
    ),
    mvit=mmpretrain(
        'MViT', img_size=64,
        arch=dict(embed_dims=16, num_layers=4, num_heads=1, downscale_indices=[1, 2, 3]),
    ),
    tinyvit=mmpretrain(
        'TinyViT', img_size=(64, 64), window_size=[2, 2, 2, 2],
        arch=dict(channels=[16, 16, 32, 32], num_heads=[1, 1, 2, 2], depths=[1, 1, 1, 1]),
        sizes=ONE_SIZE, grids=((2, 2), (2, 2)), set_by_branch=('gap_before_final_norm=False',),
    ),
    # Plain transformers of mmpretrain
    vit_raw=mmpretrain(
        'VisionTransformer', patch=16, arch=VIT, img_size=64, out_type='raw', drop_path_rate=0.8
    ),
    vit_pooled_by_default=mmpretrain(
        'VisionTransformer', patch=16, arch=VIT, img_size=64, set_by_branch=("out_type='raw'",)
    ),
    vit_raw_no_class_token=mmpretrain(
        'VisionTransformer', patch=16, arch=VIT, img_size=64, out_type='raw', with_cls_token=False
    ),
    vit_map=mmpretrain('VisionTransformer', patch=16, arch=VIT, img_size=64, out_type='featmap'),
    vit_several_layers=mmpretrain(
        'VisionTransformer', patch=16, arch=VIT, img_size=64, out_type='raw', out_indices=[0, 1]
    ),
    vit_patch_14=mmpretrain(
        'VisionTransformer', patch=14, arch=VIT, img_size=56, patch_size=14, out_type='raw'
    ),
    vit_ours=mmpretrain(
        'mmmokd.VisionTransformer', patch=16, arch=VIT, img_size=64, drop_path_rate=0.8
    ),
    deit_distilled=mmpretrain(
        'DistilledVisionTransformer', patch=16, arch=VIT, img_size=64,
        set_by_branch=("out_type='raw'",),
    ),
    deit3=mmpretrain(
        'DeiT3', patch=16, arch=VIT, img_size=64, set_by_branch=("out_type='raw'",),
        unread=('.ln2.',),
    ),
    beit=mmpretrain(
        'BEiTViT', patch=16, arch=VIT, img_size=(64, 96), sizes=((64, 96), (64, 96)),
        set_by_branch=("out_type='raw'",),
    ),
    eva02=mmpretrain(
        'ViTEVA02', patch=14, patch_size=14, arch=VIT, img_size=56,
        set_by_branch=("out_type='raw'",),
    ),
    reversible=mmpretrain(
        'RevVisionTransformer', patch=16, arch=VIT, img_size=64, set_by_branch=("out_type='raw'",)
    ),
    sam=mmpretrain(
        'ViTSAM', patch=16, arch=dict(VIT, global_attn_indexes=[1]), img_size=64, out_channels=16
    ),
    xcit_uncounted_class_token=mmpretrain(
        'XCiT', patch=16, patch_size=16, embed_dims=32, depth=1, num_heads=2, cls_attn_layers=1,
        mlp_ratio=2, set_by_branch=("out_type='raw'",),
    ),
    t2t=mmpretrain(
        'T2T_ViT', patch=16, img_size=64, embed_dims=32, num_layers=1,
        t2t_cfg=dict(token_dims=16, use_performer=False),
        layer_cfgs=dict(num_heads=2, feedforward_channels=32), set_by_branch=("out_type='raw'",),
    ),
    mixer_channels_first=mmpretrain(
        'MlpMixer', patch=16, img_size=64,
        arch=dict(embed_dims=32, num_layers=1, tokens_mlp_dims=8, channels_mlp_dims=8),
        sizes=ONE_SIZE,
        adapter=dict(type='mmmokd.TokenAdapter', num_extra_tokens=0, channels_first=True),
    ),
    # CNNs of timm
    timm_resnet=timm('test_resnet'),
    timm_resnet_features=timm('test_resnet', features_only=True),
    timm_mobilenet_v3=timm('mobilenetv3_small_050', drop_path_rate=0.5),
    timm_efficientnet=timm('test_efficientnet'),
    timm_convnext=timm(
        'convnext_atto', dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), drop_path_rate=0.5,
    ),
    timm_mambaout_channels_last=timm('mambaout_femto', dims=(8, 8, 16, 16), depths=(1, 1, 1, 1)),
    timm_inception_next_refuses_no_pooling=timm(
        'inception_next_atto', dims=(8, 8, 16, 16), depths=(1, 1, 1, 1),
        set_by_branch=MAP_ONLY,
    ),
    timm_efficientvit=timm(
        'efficientvit_b0', widths=(8, 8, 16, 16, 16), depths=(1, 1, 1, 1, 1),
        set_by_branch=MAP_ONLY,
    ),
    # Pyramids of transformers of timm
    timm_swin=timm(
        'swin_tiny_patch4_window7_224', img_size=(64, 96), window_size=2, drop_path_rate=0.5,
        **TIMM_SWIN,
        set_by_branch=('dynamic_img_size=True',),
    ),
    timm_swin_features=timm(
        'swin_tiny_patch4_window7_224', img_size=(64, 96), window_size=2, drop_path_rate=0.5,
        **TIMM_SWIN,
        features_only=True,
    ),
    timm_swin_v2_small_map=timm(
        'swinv2_tiny_window8_256', **TIMM_SWIN, set_by_branch=('dynamic_img_size=True',),
    ),
    timm_pvt=timm('pvt_v2_b0', num_heads=(1, 1, 2, 2), **STAGES),
    timm_twins=timm('twins_pcpvt_small', num_heads=(1, 1, 2, 2), **STAGES),
    timm_maxvit=timm(
        'maxvit_pico_rw_256', img_size=64, embed_dim=(16, 16, 32, 32), depths=(1, 1, 1, 1),
        stem_width=16, transformer_dim_head=8,
        sizes=((128, 128), (64, 64)), grids=((4, 4), (2, 2)),
    ),
    timm_coat=timm(
        'coat_lite_tiny', img_size=64, embed_dims=(16, 16, 32, 32), serial_depths=(1, 1, 1, 1),
        num_heads=8,
        sizes=ONE_SIZE, grids=((2, 2), (2, 2)), set_by_branch=MAP_ONLY,
    ),
    timm_hiera=timm(
        'hiera_tiny_224', img_size=64, embed_dim=16, stages=(1, 1, 1, 1), sizes=ONE_SIZE,
        grids=((2, 2), (2, 2)),
    ),
    # Plain transformers of timm
    timm_vit=timm(
        'vit_tiny_patch16_224', patch=16, drop_path_rate=0.8, **TIMM_VIT, set_by_branch=FOR_SIZES
    ),
    timm_vit_padded=timm(
        'vit_tiny_patch16_224', patch=16, sizes=((72, 96), (40, 40)), **TIMM_VIT,
        set_by_branch=FOR_SIZES,
    ),
    timm_vit_features=timm(
        'vit_tiny_patch16_224', patch=16, **TIMM_VIT, features_only=True, out_indices=(1,),
        set_by_branch=FOR_SIZES,
    ),
    timm_vit_no_class_token=timm(
        'vit_tiny_patch16_224', patch=16, **TIMM_VIT, class_token=False, global_pool='avg',
        set_by_branch=FOR_SIZES,
    ),
    timm_vit_registers_patch_14=timm(
        'vit_small_patch14_reg4_dinov2', patch=14, img_size=56, **TIMM_VIT, set_by_branch=FOR_SIZES,
    ),
    timm_dinov3_rope_registers=timm(
        'vit_small_patch16_dinov3', patch=16, **TIMM_VIT, set_by_branch=FOR_SIZES,
    ),
    timm_siglip=timm('vit_base_patch16_siglip_224', patch=16, **TIMM_VIT, set_by_branch=FOR_SIZES),
    timm_deit=timm('deit_tiny_patch16_224', patch=16, **TIMM_VIT, set_by_branch=FOR_SIZES),
    timm_deit_distilled_pooled=timm(
        'deit_tiny_distilled_patch16_224', patch=16, **TIMM_VIT,
        set_by_branch=(*MAP_ONLY, *FOR_SIZES),
    ),
    timm_beit=timm('beit_base_patch16_224', patch=16, img_size=64, **TIMM_VIT, sizes=ONE_SIZE),
    timm_eva02=timm(
        'eva02_tiny_patch14_224', patch=14, img_size=56, **TIMM_VIT, set_by_branch=FOR_SIZES,
    ),
    timm_cait=timm('cait_xxs24_224', patch=16, img_size=64, **TIMM_VIT, sizes=ONE_SIZE),
    timm_xcit=timm('xcit_nano_12_p16_224', patch=16, **TIMM_VIT),
    timm_pit_pooled=timm(
        'pit_ti_224', img_size=64, base_dims=(8, 8, 8), heads=(2, 2, 2), depth=(1, 1, 1),
        sizes=ONE_SIZE,
        grids=((2, 2), (2, 2)), set_by_branch=MAP_ONLY, unread=('.norm.',),
    ),
)  # fmt: skip
# Further ones of the same kinds, and some that exist in their own size only.
FURTHER = dict(
    resnext=mmpretrain(
        'ResNeXt', depth=50, base_channels=8, stem_channels=8, groups=4, width_per_group=4,
    ),
    resnest=mmpretrain('ResNeSt', depth=50, base_channels=8, stem_channels=8),
    res2net=mmpretrain(
        'Res2Net', depth=50, scales=4, base_width=4, base_channels=16, stem_channels=8,
    ),
    mobilenet_v2=mmpretrain('MobileNetV2', widen_factor=0.25),
    shufflenet_v2=mmpretrain('ShuffleNetV2', widen_factor=0.5),
    efficientnet=mmpretrain('EfficientNet', arch='b0', drop_path_rate=0.5),
    mobilevit=mmpretrain('MobileViT', arch='xx_small'),
    timm_regnet=timm('regnetx_002'),
    timm_repvgg=timm('repvgg_a0'),
    timm_mobilenet_v4=timm('mobilenetv4_conv_small_050'),
    timm_davit=timm('davit_tiny', num_heads=(1, 1, 2, 2), **STAGES),
    vgg=mmpretrain('VGG', depth=11, norm_cfg=dict(type='BN')),
    cspdarknet=mmpretrain('CSPDarkNet', depth=53),
    levit=mmpretrain('LeViT', arch='128s', img_size=64, sizes=ONE_SIZE, grids=((1, 1), (1, 1))),
    vig=mmpretrain('Vig', patch=16, arch='tiny', sizes=((224, 224), (224, 224))),
    timm_hrnet=timm('hrnet_w18_small'),
    timm_ghostnet=timm('ghostnet_050'),
    timm_poolformer=timm('poolformer_s12'),
    timm_caformer=timm('caformer_s18'),
    timm_fastvit=timm('fastvit_t8'),
    timm_focalnet=timm('focalnet_tiny_srf'),
    timm_tiny_vit=timm('tiny_vit_5m_224'),
    timm_mvit_v2=timm('mvitv2_tiny'),
    timm_coatnet=timm(
        'coatnet_nano_rw_224', img_size=64, sizes=ONE_SIZE, grids=((2, 2), (2, 2))
    ),
    timm_gcvit=timm('gcvit_xxtiny', sizes=((224, 224), (224, 224)), grids=((7, 7), (7, 7))),
    timm_levit=timm('levit_128s', sizes=((224, 224), (224, 224)), grids=((4, 4), (4, 4))),
    timm_mixer=timm('mixer_s16_224', patch=16, img_size=64, sizes=ONE_SIZE),
    timm_volo=timm('volo_d1_224', patch=16, img_size=64, sizes=ONE_SIZE),
    timm_crossvit=timm(
        'crossvit_tiny_240', grids=((14, 14), (14, 14)), set_by_branch=MAP_ONLY,
        unread=('blocks.2.projs.0.', 'blocks.2.fusion.0.', 'blocks.2.revert_projs.0.'),
    ),
)  # fmt: skip


def build(cfg, builder=build_backbone):
    """A backbone with weights of a fixed seed, in evaluation mode."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        backbone = builder(cfg)
    backbone.eval()  # That of some of mmpretrain's returns nothing.
    return backbone
