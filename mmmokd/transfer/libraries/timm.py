# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""A branch's backbone as a model of timm."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from mmmokd.transfer.backbone_info import Source
from mmmokd.transfer.libraries.base import FILE, Target, not_taken, unchanged
from mmmokd.transfer.same_features import pooled
from mmmokd.weights.timm_names import MobileNames, convnext_to_timm, mobile_to_timm, swin_to_timm

LOAD = f'model.load_state_dict(torch.load({FILE!r}, weights_only=True))'
# Of a TIMMBackbone's config: what is not for timm, or would load weights.
NOT_FOR_TIMM = ('type', 'model_name', 'pretrained', 'checkpoint_path', 'in_channels', 'out_indices')
Convert = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
Plan = tuple[str, dict[str, Any], Convert]
MOBILENET_V2 = MobileNames(r'layer\d+\.\d+', 'conv1', 'conv2')


def timm_target(source: Source) -> Target:
    """Build timm's model for a branch.

    Args:
        source (Source): The backbone to hand over.

    Returns:
        Target: The model, without a classifier.

    Raises:
        ImportError: If timm is not installed.
        ValueError: If timm has no such model.
    """
    if source.kind == 'TIMMBackbone':
        return _own(source)
    plan = PLANS.get(source.kind)
    if plan is None or (source.kind == 'VisionTransformer' and not source.vit):
        raise not_taken('timm', source)
    name, options, convert = plan(source)
    channels = source.cfg.get('in_channels', 3)
    if channels != 3:
        options['in_chans'] = channels
    if 'features_only' not in options:
        options['num_classes'] = 0
    model = _create(name, options, source)
    if isinstance(convert, MobileNames):
        convert = partial(mobile_to_timm, target=model.state_dict(), names=convert)
    return Target(model, '', _usage(name, options), convert, lambda model, x: pooled(model(x)))


def _create(name: str, options: dict[str, Any], source: Source) -> nn.Module:
    import timm

    if not timm.is_model(name.partition('.')[0]):
        raise not_taken('timm', source, f'timm has no {name}')
    try:
        return timm.create_model(name, **options)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        why = f'timm cannot build {_call(name, options)}: {str(error) or type(error).__name__}'
        raise not_taken('timm', source, why) from error


def _call(name: str, options: Mapping[str, Any]) -> str:
    return f'timm.create_model({name!r}' + ''.join(f', {k}={v!r}' for k, v in options.items()) + ')'


def _usage(name: str, options: Mapping[str, Any], head: str = '') -> str:
    if options.get('features_only') or head:  # for which timm loads no file by itself
        return f'model = {_call(name, options)}\n{head}{LOAD}'
    return f'model = {_call(name, options)[:-1]}, checkpoint_path={FILE!r})'


def _own(source: Source) -> Target:
    """A TIMMBackbone's model, by its own name."""
    cfg = source.cfg
    name = cfg['model_name']
    options = {key: value for key, value in cfg.items() if key not in NOT_FOR_TIMM}
    if not options.get('features_only'):
        options.pop('features_only', None)
    if cfg.get('in_channels', 3) != 3:
        options['in_chans'] = cfg['in_channels']
    head = ''
    if options.get('features_only'):
        if 'out_indices' in cfg:
            options['out_indices'] = tuple(cfg['out_indices'])
        model = _create(name, options, source)
    else:
        # As TIMMBackbone does it: some models keep other weights when they are built without one.
        full = _create(name, options, source)
        full.reset_classifier(0, '')
        options['num_classes'] = 0
        model = _create(name, options, source)
        if model.state_dict().keys() != full.state_dict().keys():
            del options['num_classes']
            model, head = full, "model.reset_classifier(0, '')\n"
    return Target(model, '', _usage(name, options, head), _without_prefix)


def _without_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix('timm_model.'): value for key, value in weights.items()}


def _resnet(source: Source) -> Plan:
    return f'resnet{source.cfg["depth"]}', {}, unchanged


def _vit(source: Source) -> Plan:
    if not source.cfg.get('with_cls_token', True):
        raise not_taken('timm', source)
    vit = source.vit
    options = dict(
        img_size=vit['img_size'],
        patch_size=vit['patch_size'],
        embed_dim=vit['embed_dims'],
        depth=vit['num_layers'],
        num_heads=vit['num_heads'],
        mlp_ratio=vit['mlp_ratio'],
    )
    if not source.cfg.get('qkv_bias', True):
        options['qkv_bias'] = False
    return 'vit_base_patch16_224', options, unchanged


def _convnext(source: Source) -> Plan:
    from mmpretrain.models import ConvNeXt

    cfg = source.cfg
    arch = cfg.get('arch', 'tiny')
    scaled, grn = cfg.get('layer_scale_init_value', 1e-6) > 0, bool(cfg.get('use_grn'))
    name, options = 'convnext_tiny' if scaled else 'convnextv2_tiny', {}
    if scaled and arch in ('tiny', 'small', 'base', 'large', 'xlarge'):
        name = f'convnext_{arch}'
    else:
        sizes = ConvNeXt.arch_settings[arch] if isinstance(arch, str) else arch
        options = dict(depths=tuple(sizes['depths']), dims=tuple(sizes['channels']))
    if grn == scaled:  # the first version has layer scales, the second has response norms
        options['use_grn'] = grn
    if not cfg.get('linear_pw_conv', True):
        options['conv_mlp'] = True
    eps = (cfg.get('norm_cfg') or {}).get('eps', 1e-6)
    if eps != 1e-6:
        options['norm_eps'] = eps
    norm = 'head.norm'
    if not cfg.get('gap_before_final_norm', True):
        options['head_norm_first'] = True
        norm = 'norm_pre'
    return name, options, partial(convnext_to_timm, norm=norm)


def _swin(source: Source) -> Plan:
    from mmpretrain.models import SwinTransformer

    cfg = source.cfg
    arch = cfg.get('arch', 'tiny')
    arch = SwinTransformer.arch_zoo[arch.lower()] if isinstance(arch, str) else arch
    options = dict(
        img_size=cfg.get('img_size', 224),
        patch_size=cfg.get('patch_size', 4),
        window_size=cfg.get('window_size', 7),
        embed_dim=arch['embed_dims'],
        depths=tuple(arch['depths']),
        num_heads=tuple(arch['num_heads']),
    )
    if cfg.get('pad_small_map'):  # then windows of small maps are neither shrunk nor left unshifted
        options['always_partition'] = True
    size, step = options['img_size'], options['patch_size'] * 2 ** (len(options['depths']) - 1)
    if isinstance(size, int) and size % (step * options['window_size']):
        why = (
            f'timm and mmpretrain pad maps differently, so that images should be a multiple of '
            f'{step * options["window_size"]} pixels wide, not {size}: see --img-size'
        )
        raise not_taken('timm', source, why)
    return 'swin_tiny_patch4_window7_224', options, swin_to_timm


def _mobilenet_v2(source: Source) -> Plan:
    width = round(100 * source.cfg.get('widen_factor', 1.0))
    return f'mobilenetv2_{width:03d}', _norm_eps(source, 1e-5, 1e-5), MOBILENET_V2


def _mobilenet_v3(source: Source) -> Plan:
    from mmpretrain.models import MobileNetV3

    arch = source.cfg.get('arch', 'small')
    last = f'layer{len(MobileNetV3.arch_settings[arch]) + 1}'
    name = f'mobilenetv3_{arch}' + ('' if arch[-1].isdigit() else '_100')
    # timm's classifier begins with a convolution behind the pooling, which no backbone has.
    options = dict(features_only=True, out_indices=(4,), **_norm_eps(source, 1e-3, 1e-5))
    names = MobileNames(rf'layer(?!0\.|{last[5:]}\.)\d+', 'layer0', last, None)
    return name, options, names


def _efficientnet(source: Source) -> Plan:
    cfg = source.cfg
    arch = cfg.get('arch', 'b0')
    conv = cfg.get('conv_cfg', dict(type='Conv2dAdaptivePadding')) or {}
    tf = 'tf_' if conv.get('type') == 'Conv2dAdaptivePadding' else ''
    options: dict[str, Any] = _norm_eps(source, 1e-3, 1e-3 if tf else 1e-5)
    activation = ACTIVATIONS.get((cfg.get('act_cfg') or dict(type='Swish'))['type'])
    if activation != ('relu' if arch.startswith('e') else 'silu'):
        options['act_layer'] = activation
    return f'{tf}efficientnet_{arch}', options, EFFICIENTNET


def _norm_eps(source: Source, default: float, timms: float) -> dict[str, float]:
    """The option for the batch norms' epsilon, where it is not timm's."""
    norm = source.cfg.get('norm_cfg') or dict(eps=default)
    eps = norm.get('eps', 1e-5)
    return {} if eps == timms else dict(bn_eps=eps)


ACTIVATIONS = {'Swish': 'silu', 'SiLU': 'silu', 'ReLU': 'relu', 'ReLU6': 'relu6'}
EFFICIENTNET = MobileNames(r'layers\.\d+\.\d+(?=\.)', 'layers.0', 'layers.6')
PLANS: dict[str, Callable[[Source], Plan]] = {
    'ResNet': _resnet,
    'VisionTransformer': _vit,
    'ConvNeXt': _convnext,
    'SwinTransformer': _swin,
    'MobileNetV2': _mobilenet_v2,
    'MobileNetV3': _mobilenet_v3,
    'EfficientNet': _efficientnet,
}
