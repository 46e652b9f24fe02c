# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# The augmentation of DeiT (arXiv 2012.12877), with which ViTs are fine-tuned; Mixup and CutMix are
# the model's.
_base_ = './imagenet_bs128_224.py'

load, crop, flip, pack = _base_.train_dataloader.dataset.pipeline
mean, std = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]  # BGR
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            load,
            dict(crop, interpolation='bicubic'),
            flip,
            dict(
                type='RandAugment',
                policies='timm_increasing',
                num_policies=2,
                total_level=10,
                magnitude_level=9,
                magnitude_std=0.5,
                hparams=dict(pad_val=[round(x) for x in mean], interpolation='bicubic'),
            ),
            dict(
                type='RandomErasing',
                erase_prob=0.25,
                mode='rand',
                min_area_ratio=0.02,
                max_area_ratio=1 / 3,
                fill_color=mean,
                fill_std=std,
            ),
            pack,
        ]
    )
)
