# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""A dataset that holds its images as arrays, as CIFAR does."""

import numpy as np
from mmengine.dataset import BaseDataset

from mmmokd.datasets import LoadImage
from mmmokd.registry import DATASETS

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 5, 6, 3), dtype=np.uint8)
LOAD = LoadImage(channel_order='rgb', to_rgb=True)


@DATASETS.register_module()
class Arrays(BaseDataset):
    """Images in RGB, of three classes."""

    def __init__(self, pixels=PIXELS, more=None, pipeline=(LOAD,), **kwargs):
        self.pixels, self.more = pixels, more or {}
        super().__init__(pipeline=list(pipeline), **kwargs)

    def load_data_list(self):
        return [{'img': img, 'gt_label': i % 3, **self.more} for i, img in enumerate(self.pixels)]
