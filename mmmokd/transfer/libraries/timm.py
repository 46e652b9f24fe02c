# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmmokd.transfer.libraries.base import LIBRARIES, Library, load_line, pooled
from mmmokd.transfer.libraries.timm_names import (
    MobileNames,
    convnext_to_timm,
    mobile_to_timm,
    swin_to_timm,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

# Of a TIMMBackbone's config: what is not for timm, or would load weights.
NOT_FOR_TIMM = ('type', 'model_name', 'pretrained', 'checkpoint_path', 'in_channels', 'out_indices')
ACTIVATIONS = {'Swish': 'silu', 'SiLU': 'silu', 'ReLU': 'relu', 'ReLU6': 'relu6'}


@LIBRARIES.register_module('timm')
class Timm(Library):
    """timm: one of its models by name and arguments, without a classifier."""

    takes = (
        'a ResNet, a ViT with a class token, a ConvNeXt, a SwinTransformer, a MobileNetV2 or '
        'V3, an EfficientNet, and any TIMMBackbone'
    )

    def build(self) -> nn.Module:
        self.head = ''  # how the classifier is taken off after the model is built
        if self.info.family == 'TIMMBackbone':
            return self._build_own()
        plan = PLANS.get(self.info.family)
        if plan is None:
            raise self.refuse()
        self.called, self.options, self.rename = plan(self)
        channels = self.info.cfg.get('in_channels', 3)
        if channels != 3:
            self.options['in_chans'] = channels
        if 'features_only' not in self.options:
            self.options['num_classes'] = 0
        return self._create()

    def _build_own(self) -> nn.Module:
        """A TIMMBackbone's model, by its own name."""
        cfg = self.info.cfg
        self.called, self.rename = cfg['model_name'], _without_prefix
        self.options = {key: value for key, value in cfg.items() if key not in NOT_FOR_TIMM}
        if not self.options.get('features_only'):
            self.options.pop('features_only', None)
        if cfg.get('in_channels', 3) != 3:
            self.options['in_chans'] = cfg['in_channels']
        if self.options.get('features_only'):
            if 'out_indices' in cfg:
                self.options['out_indices'] = tuple(cfg['out_indices'])
            return self._create()
        # As TIMMBackbone does it: some models keep other weights when they are built without one.
        full = self._create()
        full.reset_classifier(0, '')
        self.options['num_classes'] = 0
        model = self._create()
        if model.state_dict().keys() == full.state_dict().keys():
            return model
        del self.options['num_classes']
        self.head = "model.reset_classifier(0, '')\n"
        return full

    def _create(self) -> nn.Module:
        import timm

        if not timm.is_model(self.called.partition('.')[0]):
            raise self.refuse(f'timm has no {self.called}')
        try:
            return timm.create_model(self.called, **self.options)
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            why = f'timm cannot build {self._call()}: {str(error) or type(error).__name__}'
            raise self.refuse(why) from error

    def _call(self, **more: Any) -> str:
        options = {**self.options, **more}
        texts = [repr(self.called), *(f'{key}={value!r}' for key, value in options.items())]
        return f'timm.create_model({", ".join(texts)})'

    def usage(self, file: Path) -> str:
        if self.options.get('features_only') or self.head:  # for which timm loads no file by itself
            return f'model = {self._call()}\n{self.head}{load_line(file)}'
        return f'model = {self._call(checkpoint_path=str(file))}'

    def convert(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.rename(weights, self.model.state_dict())

    def features(self, images: Tensor) -> Tensor | None:
        return None if self.info.family == 'TIMMBackbone' else pooled(self.model(images))


# timm's name of a model, the arguments for it, and how its weights are named: called with the
# branch's weights and those of timm's model.
Rename = Callable[[Mapping[str, 'Tensor'], Mapping[str, 'Tensor']], dict[str, 'Tensor']]
Plan = tuple[str, dict[str, Any], Rename]


def _unchanged(weights: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(weights)


def _without_prefix(
    weights: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    return {key.removeprefix('timm_model.'): value for key, value in weights.items()}


def _resnet(library: Timm) -> Plan:
    return f'resnet{library.info.cfg["depth"]}', {}, _unchanged


def _vit(library: Timm) -> Plan:
    info = library.info
    if not (info.is_vit and info.class_token):
        raise library.refuse()
    options = dict(
        img_size=info.img_size,
        patch_size=info.patch,
        embed_dim=info.width,
        depth=sum(info.blocks),
        num_heads=info.heads,
        mlp_ratio=info.mlp_ratio,
    )
    if not info.cfg.get('qkv_bias', True):
        options['qkv_bias'] = False
    return 'vit_base_patch16_224', options, _unchanged


def _convnext(library: Timm) -> Plan:
    from mmpretrain.models import ConvNeXt

    cfg = library.info.cfg
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
    return name, options, lambda weights, _: convnext_to_timm(weights, norm)


def _swin(library: Timm) -> Plan:
    from mmpretrain.models import SwinTransformer

    cfg = library.info.cfg
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
        raise library.refuse(why)
    return 'swin_tiny_patch4_window7_224', options, lambda weights, _: swin_to_timm(weights)


def _mobilenet_v2(library: Timm) -> Plan:
    width = round(100 * library.info.cfg.get('widen_factor', 1.0))
    names = MobileNames(r'layer\d+\.\d+', 'conv1', 'conv2')
    return f'mobilenetv2_{width:03d}', _norm_eps(library, 1e-5, 1e-5), _mobile(names)


def _mobilenet_v3(library: Timm) -> Plan:
    from mmpretrain.models import MobileNetV3

    arch = library.info.cfg.get('arch', 'small')
    last = f'layer{len(MobileNetV3.arch_settings[arch]) + 1}'
    name = f'mobilenetv3_{arch}' + ('' if arch[-1].isdigit() else '_100')
    # timm's classifier begins with a convolution behind the pooling, which no backbone has.
    options = dict(features_only=True, out_indices=(4,), **_norm_eps(library, 1e-3, 1e-5))
    names = MobileNames(rf'layer(?!0\.|{last[5:]}\.)\d+', 'layer0', last, None)
    return name, options, _mobile(names)


def _efficientnet(library: Timm) -> Plan:
    cfg = library.info.cfg
    arch = cfg.get('arch', 'b0')
    conv = cfg.get('conv_cfg', dict(type='Conv2dAdaptivePadding')) or {}
    tf = 'tf_' if conv.get('type') == 'Conv2dAdaptivePadding' else ''
    options: dict[str, Any] = _norm_eps(library, 1e-3, 1e-3 if tf else 1e-5)
    activation = ACTIVATIONS.get((cfg.get('act_cfg') or dict(type='Swish'))['type'])
    if activation != ('relu' if arch.startswith('e') else 'silu'):
        options['act_layer'] = activation
    names = MobileNames(r'layers\.\d+\.\d+(?=\.)', 'layers.0', 'layers.6')
    return f'{tf}efficientnet_{arch}', options, _mobile(names)


def _mobile(names: MobileNames) -> Rename:
    return partial(mobile_to_timm, names=names)


def _norm_eps(library: Timm, default: float, timms: float) -> dict[str, float]:
    """The option for the batch norms' epsilon, where it is not timm's."""
    norm = library.info.cfg.get('norm_cfg') or dict(eps=default)
    eps = norm.get('eps', 1e-5)
    return {} if eps == timms else dict(bn_eps=eps)


# By the family of the branch's backbone.
PLANS: dict[str, Callable[[Timm], Plan]] = {
    'ResNet': _resnet,
    'VisionTransformer': _vit,
    'ConvNeXt': _convnext,
    'SwinTransformer': _swin,
    'MobileNetV2': _mobilenet_v2,
    'MobileNetV3': _mobilenet_v3,
    'EfficientNet': _efficientnet,
}
