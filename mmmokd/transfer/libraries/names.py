# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""What each library takes of a branch. Light to import: for a command's help, too."""

EXPORT_TAKES = {
    'mmpretrain': 'any backbone',
    'mmdet': "any backbone: a ResNet as mmdet's own, others as mmpretrain's",
    'mmseg': "any backbone: a ResNet or a ViT as mmseg's own, others as mmpretrain's",
    'timm': 'a ResNet, a ViT with a class token, a ConvNeXt, a SwinTransformer, a MobileNetV2 or '
    'V3, an EfficientNet, and any TIMMBackbone',
    'torchvision': 'a ResNet of depth 18 to 152, and a ViT of the sizes B, L and H that it has',
    'transformers': 'a ResNet, and a ViT with a class token',
    'detectron2': 'a ResNet',
}
