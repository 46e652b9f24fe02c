# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmmokd.transfer.libraries.base import LIBRARIES, Library, load_line

if TYPE_CHECKING:
    from torch import nn

# By width: the letter in torchvision's names, layers, heads.
VIT_SIZES = {768: ('b', 12, 12), 1024: ('l', 24, 16), 1280: ('h', 32, 16)}


@LIBRARIES.register_module('torchvision')
class TorchVision(Library):
    """torchvision: a model by its name, without its classifier."""

    takes = 'a ResNet of depth 18 to 152, and a ViT of the sizes B, L and H that it has'

    def build(self) -> nn.Module:
        import torchvision
        from torch import nn

        self.options = {}
        if self.info.family == 'ResNet':
            self.called, self.head = f'resnet{self.info.cfg["depth"]}', 'fc'
        else:
            self.called, self.head = self._vit_name(), 'heads'
            self.options['image_size'] = self.info.img_size
        if self.called not in torchvision.models.list_models():
            raise self.refuse(f'torchvision has no {self.called}')
        model = torchvision.models.get_model(self.called, **self.options)
        setattr(model, self.head, nn.Identity())
        return model

    def _vit_name(self) -> str:
        info = self.info
        size, layers, heads = VIT_SIZES.get(info.width, ('', 0, 0))
        sizes = (sum(info.blocks), info.heads, info.mlp_ratio)
        if not info.is_vit or sizes != (layers, heads, 4):
            raise self.refuse()
        return f'vit_{size}_{info.patch}'

    def usage(self, file: Path) -> str:
        options = ', '.join(f'{key}={value!r}' for key, value in self.options.items())
        return (
            f'model = torchvision.models.{self.called}({options})\n'
            f'model.{self.head} = torch.nn.Identity()\n{load_line(file)}'
        )
