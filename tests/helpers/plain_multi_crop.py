# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""MultiCrop as it was before its views were made without Pillow: the same random numbers and pixels."""

import numpy as np
import torch
from PIL import Image
from plain_views import plain_view

from mmmokd.datasets import MultiCrop
from mmmokd.registry import TRANSFORMS


@TRANSFORMS.register_module()
class PlainMultiCrop(MultiCrop):
    """Draws and cuts by torchvision and Pillow; takes RGB."""

    def transform(self, results):
        img = Image.fromarray(results['img'])
        seed = torch.randint(2**63 - 1, (), generator=self.generator.get()).item()
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)
        results['img'] = [np.array(plain_view(view)(img)) for view in self.sampler.views]
        torch.set_rng_state(state)
        return results
