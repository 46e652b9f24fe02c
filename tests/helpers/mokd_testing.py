# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Tiny models, data and runs, and slow plain formulas, for the tests of MOKD.

All are plain functions that processes started by a test can import too.
"""

import itertools
import math
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch.utils.data import Dataset

import mmmokd.models  # noqa: F401
from mmmokd.registry import DATASETS, MODELS

PROTOTYPES = 10
WIDTH = 24  # of the search heads and of the ViT
_RUNS = itertools.count()

# Backbones without batch norm: a batch in two halves is a batch.
BACKBONES = dict(
    cnn=dict(
        type='ResNet_CIFAR', depth=18, stem_channels=8, base_channels=8, num_stages=2,
        strides=(2, 2), dilations=(1, 1), out_indices=(1,), zero_init_residual=False,
        norm_cfg=dict(type='GN', num_groups=2),
    ),
    vit=dict(
        type='mmmokd.VisionTransformer', img_size=32, patch_size=8,
        arch=dict(embed_dims=WIDTH, num_layers=2, num_heads=2, feedforward_channels=48),
    ),
    next=dict(
        type='ConvNeXt', arch=dict(depths=[1, 1], channels=[8, 20]), out_indices=(1,),
        gap_before_final_norm=False,
    ),
)  # fmt: skip
CHANNELS = dict(cnn=16, vit=WIDTH, next=20)
GRIDS = dict(cnn=8, vit=4, next=4)  # of a view of 32 pixels


def branch_cfg(kind, **kwargs):
    """Config of a branch of a kind that ``BACKBONES`` has; ``backbone`` updates its backbone's."""
    return dict(
        backbone=dict(BACKBONES[kind], **kwargs.pop('backbone', {})),
        projector=dict(
            type='mmmokd.DINOProjector',
            in_channels=CHANNELS[kind],
            out_channels=PROTOTYPES,
            hid_channels=32,
            bottleneck_channels=12,
            train_gain=kind != 'cnn',
        ),
        search_head=dict(
            type='mmmokd.TransformerSearchHead',
            in_channels=CHANNELS[kind],
            embed_dims=WIDTH,
            out_channels=PROTOTYPES,
            grid_size=GRIDS[kind],
            projection=kind != 'vit',
        ),
        **kwargs,
    )


def ring_cfg(folder):
    """Configs of a ring of three branches: one also learns from a frozen one, one by a predictor.

    The weights of the frozen branch are written to the folder, and to be loaded from it.
    """
    predictor = dict(
        type='mmpretrain.NonLinearNeck', in_channels=PROTOTYPES, hid_channels=12,
        out_channels=PROTOTYPES, with_avg_pool=False, with_last_bn=False, norm_cfg=dict(type='LN'),
    )  # fmt: skip
    latent = dict(
        type='mmmokd.ViewPairHead',
        reads='projector',
        head=dict(
            type='mmpretrain.LatentPredictHead',
            loss=dict(type='mmpretrain.CosineSimilarityLoss'),
            predictor=predictor,
        ),
    )
    weights = Path(folder) / 'frozen.pth'
    prefix = 'branches.big.teacher.'
    if not weights.exists():
        network = build_mokd(dict(big=branch_cfg('vit')), seed=7).branches['big'].teacher
        weights.parent.mkdir(parents=True, exist_ok=True)
        state = {f'{prefix}{key}': value for key, value in network.state_dict().items()}
        torch.save(dict(state_dict=state), weights)
    init_cfg = dict(type='Pretrained', checkpoint=str(weights), prefix=prefix)
    return dict(
        cnn=branch_cfg('cnn', cross_weight=dict(vit=1.0)),
        vit=branch_cfg('vit', cross_weight=dict(next=0.5), heads=dict(latent=latent)),
        next=branch_cfg('next', cross_weight=dict(cnn=0.1, big=1.0)),
        big=branch_cfg('vit', frozen=True, init_cfg=init_cfg),
    )


def partners_cfg(folder):
    """Configs of a CNN and two partners: a frozen backbone, whose necks learn, and one with LoRA."""
    init_cfg = ring_cfg(folder)['big']['init_cfg']
    init_cfg = dict(init_cfg, prefix=f'{init_cfg["prefix"]}backbone.')
    return dict(
        cnn=branch_cfg('cnn'),
        big=branch_cfg('vit', backbone=dict(init_cfg=init_cfg), frozen='backbone', cross_weight={}),
        low=branch_cfg('vit', backbone=dict(init_cfg=init_cfg), lora=dict(rank=2)),
    )


def with_batch_norm(**kwargs):
    """Config of the CNN's branch, with batch norms."""
    return branch_cfg('cnn', backbone=dict(norm_cfg=dict(type='BN')), **kwargs)


def model_cfg(branches=('cnn', 'vit'), **kwargs):
    """Config of a MOKD, or another ``type``: branches by kind, or a dict of their configs."""
    if not isinstance(branches, dict):
        branches = {kind: branch_cfg(kind) for kind in branches}
    cfg = dict(
        type='mmmokd.MOKD',
        branches=branches,
        data_preprocessor=dict(type='mmengine.BaseDataPreprocessor'),
    )
    return dict(cfg, **kwargs)


def build_mokd(branches=('cnn', 'vit'), seed=0, **kwargs):
    """A MOKD with its initial weights."""
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(model_cfg(branches, **kwargs))
        model.init_weights()
    return model


def random_views(batch=2, sizes=(32, 32, 24, 24), seed=1):
    """Views, global ones first, in the default precision."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, 3, size, size, generator=generator, dtype=torch.float64).to(
            torch.get_default_dtype()
        )
        for size in sizes
    ]


@DATASETS.register_module()
class RandomViews(Dataset):
    """Views of noise: a sample depends on its index alone."""

    def __init__(self, length, sizes=(32, 32, 24, 24)):
        self.length = length
        self.sizes = sizes

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        views = random_views(1, self.sizes, seed=1000 + index)
        return dict(inputs=[view[0] for view in views])


def optim_wrapper_cfg(branches, **kwargs):
    """SGD for the kind 'cnn', its search head apart; AdamW for the others."""
    optimizers = {
        name: dict(
            optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4),
            parts=dict(search_head=dict(lr=3e-3, weight_decay=0.04, decay_all=True)),
        )
        if name.startswith('cnn')
        else dict(optimizer=dict(type='AdamW', lr=3e-3, weight_decay=0.04))
        for name in branches
    }
    return dict(
        constructor='mmmokd.BranchOptimWrapperConstructor',
        clip_grad=dict(max_norm=3.0, per_parameter=True),
        branches=optimizers,
        **kwargs,
    )


def scheduler_cfg(branches, warmup=1):
    """Schedules of lr and weight decay, as the recipe of MOKD has them."""

    def schedule(param_name, final, **kwargs):
        return dict(
            type='mmmokd.WarmupCosineParamScheduler',
            param_name=param_name,
            final=final,
            by_epoch=True,
            convert_to_iter_based=True,
            **kwargs,
        )

    main = [schedule('lr', 1e-5, warmup=warmup), schedule('weight_decay', 0.4)]
    cnn = [
        schedule('lr', 0.0048, warmup=warmup),
        schedule('lr', 1e-5, warmup=warmup, part='search_head'),
        schedule('weight_decay', 0.4, part='search_head'),
    ]
    return {name: cnn if name.startswith('cnn') else main for name in branches}


def runner_cfg(
    work_dir, length=8, batch_size=4, max_epochs=2, branches=('cnn', 'vit'), optim=None, **kwargs
):
    """Config of a run over random views with the hooks of MOKD; ``kwargs`` replace its entries."""
    model = model_cfg(branches)
    cfg = dict(
        default_scope='mmpretrain',
        experiment_name=f'run{next(_RUNS)}',
        work_dir=str(work_dir),
        model=model,
        train_dataloader=dict(
            batch_size=batch_size,
            num_workers=0,
            dataset=dict(type='mmmokd.RandomViews', length=length),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        optim_wrapper=optim_wrapper_cfg(model['branches'], **(optim or {})),
        param_scheduler=scheduler_cfg(model['branches']),
        default_hooks=dict(
            checkpoint=None,
            ema_teacher=dict(type='mmmokd.EMATeacherHook', base_momentum=0.9),
            head_schedule=dict(type='mmmokd.HeadScheduleHook'),
            prototype_freeze=dict(type='mmmokd.PrototypeFreezeHook'),
        ),
        randomness=dict(seed=0),
        log_level='WARNING',
    )
    return Config(dict(cfg, **kwargs))


@contextmanager
def short_log():
    """Spare a Runner the seconds it takes to list compilers and to format its config for the log."""

    def text(config):
        return ''.join(f'{key} = {value!r}\n' for key, value in config.to_dict().items())

    with (
        patch('mmengine.runner.runner.collect_env', dict),
        patch.object(Config, 'pretty_text', property(text)),
    ):
        yield


def build_runner(cfg, *hooks):
    """A Runner of a config, with further hooks."""
    with short_log():
        runner = Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    return runner


def train(cfg, *hooks):
    """Run a config, with further hooks; returns the runner."""
    runner = build_runner(cfg, *hooks)
    with short_log():
        runner.train()
    return runner


class AfterStep(Hook):
    """Calls a function with the runner after every iteration, before MOKD's own hooks act."""

    priority = 'HIGH'

    def __init__(self, function):
        self.function = function

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.function(runner)


def worst_difference(found, expected):
    """Largest difference between two state dicts over the largest value of the tensor."""
    assert found.keys() == expected.keys()
    return max(
        float((found[key] - value).abs().max() / value.abs().max().clamp(min=1e-12))
        for key, value in expected.items()
        if value.is_floating_point() and value.numel()
    )


def copy_of(state_dict):
    return {key: value.detach().clone() for key, value in state_dict.items()}


# The formulas of the paper, over lists of numbers.


def slow_softmax(values):
    largest = max(values)
    exponentials = [math.exp(value - largest) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def slow_cross_entropy(target, student, student_temp):
    """- sum_k target_k log softmax(student / T_s)_k of one sample."""
    scaled = [value / student_temp for value in student]
    largest = max(scaled)
    log_sum = largest + math.log(sum(math.exp(value - largest) for value in scaled))
    return -sum(p * (value - log_sum) for p, value in zip(target, scaled, strict=True))


def slow_view_loss(student, teacher, center, student_temp, teacher_temp):
    """CE(s, t): student (V, B, K), teacher (G, B, K), center (K,), as nested lists."""
    terms = []
    for g, teacher_view in enumerate(teacher):
        for v, student_view in enumerate(student):
            if v == g:
                continue
            for s, t in zip(student_view, teacher_view, strict=True):
                target = slow_softmax(
                    [(x - c) / teacher_temp for x, c in zip(t, center, strict=True)]
                )
                terms.append(slow_cross_entropy(target, s, student_temp))
    return sum(terms) / len(terms)


def slow_search_loss(student, searched, student_temp, teacher_temp):
    """L_ct: student (L, B, K), searched (L, B, K), as nested lists."""
    terms = [
        slow_cross_entropy(slow_softmax([x / teacher_temp for x in t]), s, student_temp)
        for student_view, searched_view in zip(student, searched, strict=True)
        for s, t in zip(student_view, searched_view, strict=True)
    ]
    return sum(terms) / len(terms)


def slow_center(center, teacher, momentum=0.9):
    """The center after the loss: teacher (G, B, K), center (K,), as nested lists."""
    samples = [sample for view in teacher for sample in view]
    return [
        momentum * c + (1 - momentum) * sum(sample[k] for sample in samples) / len(samples)
        for k, c in enumerate(center)
    ]
