# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The run behind ``tests/data/resume``: a checkpoint of an early commit, and the losses that followed.

At commit ace3bc4, before the first release, ``python tests/helpers/old_run.py tests/data/resume``
trained the tiny pair below for two epochs, kept the checkpoint of the second, and resumed it twice,
in float32 and in float64, for two epochs more. The losses of these are in ``losses.json``, beside
the versions and the processor that they were computed with. Do not write the files again: that a
later commit continues as that one did is what they are for.

The module runs at that commit and at today's.
"""

import json
import lzma
import platform
import sys
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

import mmmokd.datasets
import mmmokd.engine
import mmmokd.models  # noqa: F401

NUM_IMAGES, BATCH_SIZE = 12, 4
BEFORE, AFTER = 2, 2  # epochs up to the checkpoint, and from it
OLD_NAMES = hasattr(mmmokd.datasets, 'PictureFolder')
PROTOTYPES, WIDTH = 16, 12
if not OLD_NAMES:
    import plain_multi_crop  # noqa: F401


def write_images(folder):
    """Patterns of color, from whole numbers alone: the same bytes everywhere."""
    folder.mkdir(parents=True)
    rows, columns = np.mgrid[:40, :48]
    for i in range(NUM_IMAGES):
        channels = [
            rows * (3 + i) + columns * (5 - i),
            (rows // (4 + i)) * 40 + (columns // 6) * 30,
            rows * columns // (6 + i) + 17 * i,
        ]
        pixels = np.stack(channels, axis=-1) % 256
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f'{i:02}.png')


def branch(backbone, channels, grid, **kwargs):
    return dict(
        backbone=backbone,
        projector=dict(
            type='mmmokd.DINOProjector', in_channels=channels, out_channels=PROTOTYPES,
            hid_channels=10, bottleneck_channels=6, num_layers=2, train_gain=kwargs.pop('gain'),
        ),
        search_head=dict(
            type='mmmokd.TransformerSearchHead', in_channels=channels, embed_dims=WIDTH,
            out_channels=PROTOTYPES, grid_size=grid, num_layers=1, num_heads=2, mlp_ratio=1.0,
            projection=kwargs.pop('projection'),
        ),
        **kwargs,
    )  # fmt: skip


def model_cfg():
    resnet = dict(
        type='ResNet_CIFAR', depth=18, stem_channels=4, base_channels=4, num_stages=1, strides=(2,),
        dilations=(1,), out_indices=(0,), norm_cfg=dict(type='BN'),
    )  # fmt: skip
    vit = dict(
        type='mmmokd.VisionTransformer', img_size=16, patch_size=4, drop_path_rate=0.1,
        arch=dict(embed_dims=WIDTH, num_layers=2, num_heads=2, feedforward_channels=WIDTH),
    )  # fmt: skip
    heads = dict(sm=dict(warmup_teacher_temp_epochs=4))
    return dict(
        type='mmmokd.MOKD',
        branches=dict(
            cnn=branch(resnet, 4, 8, gain=False, projection=True, heads=heads),
            vit=branch(vit, WIDTH, 4, gain=True, projection=False, cross_weight=0.1),
        ),
    )


def schedule(param_name, final, **kwargs):
    return dict(
        type='mmmokd.WarmupCosineParamScheduler', param_name=param_name, final=final,
        by_epoch=True, convert_to_iter_based=True, **kwargs,
    )  # fmt: skip


def transformer(part):
    return [schedule('lr', 1e-5, warmup=1, part=part), schedule('weight_decay', 0.4, part=part)]


def optim_wrapper_cfg():
    return dict(
        type='OptimWrapper',
        constructor='mmmokd.BranchOptimWrapperConstructor',
        clip_grad=dict(max_norm=3.0, per_parameter=True),
        branches=dict(
            cnn=dict(
                optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4),
                parts=dict(search_head=dict(lr=3e-3, weight_decay=0.04, decay_all=True)),
            ),
            vit=dict(optimizer=dict(type='AdamW', lr=3e-3, weight_decay=0.04)),
        ),
    )


def run_cfg(images, work_dir, epochs, **kwargs):
    """Config of a run as that of a folder of images is shipped, made tiny."""
    views = [
        dict(num=1, size=16, scale=(0.25, 1.0), blur=1.0),
        dict(num=1, size=16, scale=(0.25, 1.0), blur=0.1, solarize=0.2),
        dict(num=2, size=8, scale=(0.05, 0.25), blur=0.5),
    ]
    word, load = ('Picture', {}) if OLD_NAMES else ('Image', dict(to_rgb=True))
    # Today's views are others of the same distribution; the losses are to be compared on the same ones.
    crop = 'MultiCrop' if OLD_NAMES else 'PlainMultiCrop'
    return Config(
        dict(
            default_scope='mmpretrain',
            work_dir=str(work_dir),
            model=model_cfg(),
            data_preprocessor=dict(
                type='SelfSupDataPreprocessor', mean=[123.675, 116.28, 103.53],
                std=[58.395, 57.12, 57.375], to_rgb=OLD_NAMES,
            ),
            train_dataloader=dict(
                batch_size=BATCH_SIZE,
                num_workers=0,
                dataset=dict(
                    type=f'mmmokd.{word}Folder',
                    data_root=str(images),
                    pipeline=[
                        dict(type=f'mmmokd.Load{word}', value_range=None, **load),
                        dict(type=f'mmmokd.{crop}', groups=views),
                        dict(type='PackInputs'),
                    ],
                ),
                sampler=dict(type='DefaultSampler', shuffle=True),
                collate_fn=dict(type='default_collate'),
                drop_last=True,
            ),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            auto_scale_lr=dict(base_batch_size=32, enable=True),
            optim_wrapper=optim_wrapper_cfg(),
            param_scheduler=dict(
                cnn=[schedule('lr', 0.0048, warmup=1), *transformer('search_head')],
                vit=transformer('main'),
            ),
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', interval=1),
                ema_teacher=dict(type='mmmokd.EMATeacherHook', base_momentum=0.9),
                head_schedule=dict(type='mmmokd.HeadScheduleHook'),
                prototype_freeze=dict(type='mmmokd.PrototypeFreezeHook', freeze_epochs=1),
                accumulated_lr=dict(type='mmmokd.AccumulatedLRHook'),
                epoch_seed=dict(type='mmmokd.EpochSeedHook'),
                data_health=dict(type='mmmokd.DataHealthHook', max_bad_share=0.01),
                collapse_monitor=dict(type='mmmokd.CollapseMonitorHook', interval=2),
                non_finite_loss=dict(type='mmmokd.NonFiniteLossHook'),
            ),
            custom_hooks=new_hooks(),
            randomness=dict(seed=3),
            log_level='WARNING',
            **kwargs,
        )
    )  # fmt: skip


def new_hooks():
    """Parts that today's configs and tools have as well."""
    names = () if OLD_NAMES else ('CheckpointCheckHook', 'ResumeHook', 'InputCheckHook')
    return [dict(type=f'mmmokd.{name}') for name in names]


class Losses(Hook):
    """Keeps the loss terms of every iteration."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append({key: value.item() for key, value in outputs.items() if 'loss' in key})


def losses_after(images, work_dir, checkpoint, double=False, **kwargs):
    """Losses of the epochs that follow a checkpoint: loss terms of every iteration."""
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    try:
        cfg = run_cfg(
            images, work_dir, BEFORE + AFTER, resume=True, load_from=str(checkpoint),
            experiment_name=Path(work_dir).name, **kwargs,
        )  # fmt: skip
        runner, hook = Runner.from_cfg(cfg), Losses()
        if double:
            runner.model.data_preprocessor.register_forward_hook(_to_float64)
        runner.register_hook(hook)
        runner.train()
        return hook.seen
    finally:
        torch.set_default_dtype(torch.float32)


def _to_float64(module, args, output):
    return dict(output, inputs=[view.double() for view in output['inputs']])


def machine():
    """Describe what the last bits of a float32 loss depend on."""
    lines = Path('/proc/cpuinfo').read_text().splitlines() if sys.platform == 'linux' else ()
    models = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    return dict(
        cpu=models[0] if models else platform.processor(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        torch=torch.__version__,
    )


def main(folder):
    folder, work = Path(folder), Path('work_dirs/old_run')
    torch.set_num_threads(1)
    write_images(work / 'images')
    hook = Losses()
    runner = Runner.from_cfg(run_cfg(work / 'images', work / 'run', BEFORE + AFTER))
    runner.register_hook(hook)
    runner.train()
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = work / 'run' / f'epoch_{BEFORE}.pth'
    with lzma.open(folder / f'{checkpoint.name}.xz', 'wb', preset=9) as file:
        file.write(checkpoint.read_bytes())
    losses = {
        'float64' if double else 'float32': losses_after(
            work / 'images', work / f'resumed{double}', checkpoint, double
        )
        for double in (False, True)
    }
    # The early commit resumed exactly as well.
    assert losses['float32'] == hook.seen[BEFORE * NUM_IMAGES // BATCH_SIZE :]
    record = json.dumps(dict(machine=machine(), **losses), indent=1)
    (folder / 'losses.json').write_text(f'{record}\n')


if __name__ == '__main__':
    main(sys.argv[1])
