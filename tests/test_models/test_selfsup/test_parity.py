# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Two optimizer steps against the numbers of the authors' official implementation."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmmokd.registry import DATASETS
from mmmokd.weights import from_official, to_official

DATA = Path(__file__).parents[2] / 'data' / 'parity'
CASE = json.loads((DATA / 'r18_vit-tiny.json').read_text())
PEER = dict(cnn='vit', vit='cnn')
CENTERS = dict(cnn='cnn.heads.sm', vit='vit.heads.sm', cnn_ct='cnn.heads.cm.vit',
               vit_ct='vit.heads.cm.cnn', cnn_th='cnn.heads.st', vit_th='vit.heads.st')  # fmt: skip
LOSS_MODULES = dict(cnn='loss_cnn_fn', vit='loss_vit_fn', cnn_ct='loss_cnn_ct_fn',
                    vit_ct='loss_vit_ct_fn', cnn_th='loss_cnn_thead_fn',
                    vit_th='loss_vit_thead_fn')  # fmt: skip


def load_fill():
    spec = importlib.util.spec_from_file_location('parity_fill', DATA / 'fill.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FILL = load_fill()


def released_checkpoint():
    checkpoint = {
        net: {
            'module.' + key: torch.from_numpy(
                np.asarray(FILL.weight(net, key, shape), dtype=np.float32).astype(np.float64)
            )
            for key, shape in shapes.items()
        }
        for net, shapes in CASE['shapes'].items()
    }
    for which, module in LOSS_MODULES.items():
        center = FILL.center(CASE['name'], which, CASE['out_dim'])
        checkpoint[module] = {'center': torch.from_numpy(center)}
    return checkpoint


@DATASETS.register_module()
class ParityCrops(Dataset):
    """One batch of crops, again and again."""

    def __init__(self, dtype):
        crops = FILL.crops(CASE['name'], CASE['batch'], CASE['n_local'])
        self.views = [torch.from_numpy(crop).to(getattr(torch, dtype)) for crop in crops]

    def __len__(self):
        return CASE['batch'] * 2

    def __getitem__(self, index):
        return dict(inputs=[view[index % CASE['batch']] for view in self.views])


def branch(backbone, channels, grid_size, projection, train_gain, warmup, weight):
    heads = dict(warmup_teacher_temp_epochs=warmup)
    return dict(
        backbone=backbone,
        projector=dict(
            type='mmmokd.DINOProjector',
            in_channels=channels,
            out_channels=CASE['out_dim'],
            train_gain=train_gain,
        ),
        search_head=dict(
            type='mmmokd.TransformerSearchHead',
            in_channels=channels,
            embed_dims=192,
            out_channels=CASE['out_dim'],
            grid_size=grid_size,
            projection=projection,
        ),
        cross_weight=weight,
        heads=dict(sm=heads, st=heads),
    )


def config(work_dir, dtype, compile=False):
    temps = CASE['temperatures']
    lr, decay = CASE['lr'], CASE['weight_decay']
    return Config(
        dict(
            default_scope='mmpretrain',
            work_dir=str(work_dir),
            model=dict(
                type='mmmokd.MOKD',
                data_preprocessor=dict(type='mmengine.BaseDataPreprocessor'),
                branches=dict(
                    cnn=branch(
                        dict(type='ResNet', depth=18), 512, 7, True, False,
                        temps['warmup_epochs_cnn_self'], CASE['lamda_c'],
                    ),
                    vit=branch(
                        dict(type='mmmokd.VisionTransformer', arch='deit-tiny'), 192, 14, False,
                        True, temps['warmup_epochs_other'], CASE['lamda_t'],
                    ),
                ),
            ),
            train_dataloader=dict(
                batch_size=CASE['batch'],
                num_workers=0,
                dataset=dict(type='mmmokd.ParityCrops', dtype=str(dtype).removeprefix('torch.')),
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='default_collate'),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=CASE['epoch'] + 1),
            optim_wrapper=dict(
                constructor='mmmokd.BranchOptimWrapperConstructor',
                clip_grad=dict(max_norm=CASE['clip_per_parameter'], per_parameter=True),
                branches=dict(
                    cnn=dict(
                        optimizer=dict(
                            type='SGD', lr=lr['cnn'], momentum=0.9, weight_decay=decay['cnn']
                        ),
                        parts=dict(
                            search_head=dict(
                                lr=lr['vit'], weight_decay=decay['vit'], decay_all=True
                            )
                        ),
                    ),
                    vit=dict(
                        optimizer=dict(type='AdamW', lr=lr['vit'], weight_decay=decay['vit'])
                    ),
                ),
            ),
            default_hooks=dict(
                checkpoint=None,
                acceleration=dict(type='mmmokd.AccelerationHook', compile=compile),
                ema_teacher=dict(
                    type='mmmokd.EMATeacherHook',
                    base_momentum=CASE['ema'],
                    end_momentum=CASE['ema'],
                ),
                head_schedule=dict(type='mmmokd.HeadScheduleHook'),
                prototype_freeze=dict(type='mmmokd.PrototypeFreezeHook'),
            ),
        )
    )  # fmt: skip


class Recorder(Hook):
    """Starts the run in the case's epoch, and keeps what each step did."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        runner.train_loop._epoch = CASE['epoch']
        self.steps = []
        self.grad_norms = {}
        for name, wrapper in runner.optim_wrapper.items():
            wrapper.clip_func = self.watch(name, runner.model.branches[name], wrapper.clip_func)

    def watch(self, name, branch, clip):
        def clip_func(params, **kwargs):
            self.grad_norms[f'student_{name}'] = {
                key: None if param.grad is None else float(param.grad.detach().norm())
                for key, param in branch.student.named_parameters()
            }
            return clip(params, **kwargs)

        return clip_func

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        state = runner.model.state_dict()
        nets = {k: v for k, v in to_official(state).items() if k[:7] in ('student', 'teacher')}
        renamed = to_official(
            {
                f'branches.{name}.{net}.{key}': torch.tensor(norm or float('nan'))
                if key != 'search_head.projection.weight'
                else torch.full((1, 1), norm, dtype=torch.float64)
                for name in PEER
                for net in ('student', 'teacher')
                for key, norm in self.grad_norms[f'student_{name}'].items()
            }
        )
        self.steps.append(
            dict(
                losses={key: float(value) for key, value in outputs.items()},
                grad_norms={
                    net: {key[len('module.') :]: float(v) for key, v in renamed[net].items()}
                    for net in ('student_cnn', 'student_vit')
                },
                center_norm={
                    which: float(state[f'branches.{head}.center'].norm())
                    for which, head in CENTERS.items()
                },
                tensor_norm={
                    net: {
                        key[len('module.') :]: float(value.double().norm())
                        for key, value in tensors.items()
                    }
                    for net, tensors in nets.items()
                },
            )
        )


def run(work_dir, dtype, compile=False):
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        runner = Runner.from_cfg(config(work_dir, dtype, compile))
        incompatible = runner.model.load_state_dict(from_official(released_checkpoint()))
        assert not incompatible.missing_keys and not incompatible.unexpected_keys
        runner.model.init_weights = lambda: None
        recorder = Recorder()
        runner.register_hook(recorder)
        runner.train()
    finally:
        torch.set_default_dtype(default)
    return recorder.steps


def expected_losses(step):
    losses = {}
    for name, peer in PEER.items():
        weight = CASE['lamda_c'] if name == 'cnn' else CASE['lamda_t']
        theirs = step['losses']
        losses[f'{name}.loss_sm'] = theirs[f'{name}_self']
        losses[f'{name}.loss_st'] = theirs[f'{name}_self_search']
        losses[f'{name}.loss_cm.{peer}'] = theirs[f'{name}_cross'] * weight
        losses[f'{name}.loss_ct.{peer}'] = theirs[f'{name}_cross_search'] * weight
    losses['loss'] = step['losses']['cnn_total'] + step['losses']['vit_total']
    return losses


def worst(found, expected):
    """Largest relative difference over two (nested) dicts with the same keys."""
    assert found.keys() == expected.keys()
    errors = [
        worst(found[key], value)
        if isinstance(value, dict)
        else abs(found[key] - value) / max(abs(value), 1e-12)
        for key, value in expected.items()
    ]
    return max(errors)


@pytest.mark.parametrize(
    'compile', [False, pytest.param(dict(backend='aot_eager'), marks=pytest.mark.long)]
)
def test_two_steps_in_float64(tmp_path, compile):
    """With every fast path of the CPU."""
    steps = run(tmp_path, torch.float64, compile)
    assert len(steps) == len(CASE['steps']) == 2
    for step, expected in zip(steps, CASE['steps'], strict=True):
        without_grad = {
            net: [key for key, norm in norms.items() if norm != norm]
            for net, norms in step['grad_norms'].items()
        }
        assert without_grad == expected['students_without_grad']
        grad_norms = {
            net: {key: norm for key, norm in norms.items() if norm == norm}
            for net, norms in step['grad_norms'].items()
        }
        assert worst(step['losses'], expected_losses(expected)) < 1e-9
        assert worst(step['center_norm'], expected['centre_norm']) < 1e-9
        assert worst(grad_norms, expected['grad_norms']) < 1e-9
        assert worst(step['tensor_norm'], expected['tensor_norm_after_step']) < 1e-9


def test_losses_in_float32(tmp_path):
    steps = run(tmp_path, torch.float32)
    for step, expected in zip(steps, CASE['steps'], strict=True):
        assert worst(step['losses'], expected_losses(expected)) < 1e-3


def test_conversion_returns_the_released_checkpoint():
    checkpoint = released_checkpoint()
    back = to_official(from_official(checkpoint))
    assert back.keys() == checkpoint.keys()
    for part, tensors in checkpoint.items():
        assert back[part].keys() == tensors.keys()
        for key, value in tensors.items():
            assert torch.equal(back[part][key], value), (part, key)


def test_conversion_names_what_is_missing():
    checkpoint = released_checkpoint()
    del checkpoint['teacher_vit']
    with pytest.raises(ValueError, match='teacher_vit'):
        from_official(checkpoint)
