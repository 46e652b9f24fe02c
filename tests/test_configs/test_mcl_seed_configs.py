# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Configs of MCL and SEED: each reads, builds at full size, and trains, made small, one step."""

import functools
import math
from pathlib import Path

import pytest
import torch
from config_testing import BATCH_SIZE, dicts, make_data_roots, small_config
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmpretrain.models import MoCo
from mokd_testing import short_log

from mmmokd.cli.config import load_config
from mmmokd.engine.runners.build_runner import build_runner
from mmmokd.models import MCL
from mmmokd.registry import MODELS

ROOT = Path(__file__).parents[2] / 'configs'
CONFIGS = sorted([*(ROOT / 'mcl').glob('*.py'), *(ROOT / 'seed').glob('*.py')])
each_config = pytest.mark.parametrize('path', CONFIGS, ids=[path.stem for path in CONFIGS])
LONG = [pytest.mark.long]  # the images of ImageNet are the larger ones
each_step = pytest.mark.parametrize(
    'path',
    [
        pytest.param(path, id=path.stem, marks=LONG if 'in1k' in path.stem else [])
        for path in CONFIGS
    ],
)


@pytest.fixture(scope='module')
def data_roots(tmp_path_factory):
    return make_data_roots(tmp_path_factory)


class OneStep(Hook):
    """Ends the run after a step; keeps its losses and which parameters it moved."""

    priority = 'VERY_LOW'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before = {n: p.detach().clone() for n, p in runner.model.named_parameters()}
        self.lr = {n: w.param_groups[0]['lr'] for n, w in runner.optim_wrapper.items()}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses = {key: float(x) for key, x in outputs.items() if '.loss_' in key}
        after = dict(runner.model.named_parameters())
        self.moved = {n for n, p in self.before.items() if not torch.equal(p, after[n])}
        runner.train_loop.stop_training = True


def make_small(path, tmp_path, data_roots):
    """A config with a short queue, small models, and a teacher's weights where it has one."""
    defaults = Config.fromfile(path).model.get('neck_defaults', {})
    cfg = small_config(path, tmp_path, data_roots)
    cfg.model.neck_defaults = defaults  # of the projectors of this algorithm
    for node in dicts(cfg.model):
        if 'queue_length' in node:
            node['queue_length'] = 8
        if node.get('type') == 'ResNet':
            node['depth'] = 18
    cfg.update(log_level='WARNING', visualizer=None)
    return cfg


def save_teacher(cfg, path):
    """Weights as each library has them: this one's checkpoints, or MoCo of mmpretrain."""
    teacher = next(branch for branch in cfg.model.branches.values() if branch.get('frozen'))
    backbone = dict(teacher.backbone)
    start = backbone.pop('init_cfg')
    prefix = start['prefix']
    if prefix == 'backbone.':
        neck = dict(type='MoCoV2Neck', in_channels=512, hid_channels=2048, out_channels=128)
        head = dict(type='ContrastiveHead', loss=dict(type='CrossEntropyLoss'))
        state = MoCo(backbone, neck, head, queue_len=8).state_dict()
        teacher.projector.init_cfg.checkpoint = str(path)
    else:
        state = {f'{prefix}{key}': x for key, x in MODELS.build(backbone).state_dict().items()}
    torch.save(dict(state_dict=state), path)
    teacher.backbone.init_cfg.checkpoint = str(path)
    return {key: x for key, x in state.items() if key.startswith((prefix, 'neck.'))}


@each_step
def test_config_trains_one_step(path, tmp_path, data_roots, monkeypatch):
    monkeypatch.setattr('mmpretrain.datasets.cifar.check_md5', lambda path, md5: True)
    init_default_scope('mmpretrain')
    cfg = make_small(path, tmp_path, data_roots)
    weights = save_teacher(cfg, tmp_path / 'teacher.pth') if 'seed' in path.stem else {}
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    hook = OneStep()
    cfg.launcher = 'none'
    with short_log():
        runner = build_runner(cfg)
        runner.register_hook(hook)
        runner.train()
    model = runner.model
    learning = [name for name, branch in model.branches.items() if not branch.frozen]
    terms = {'loss_vcl', 'loss_soft_vcl', 'loss_icl', 'loss_soft_icl'}
    terms = terms if isinstance(model, MCL) else {'loss_seed'}
    assert {key.split('.')[1] for key in hook.losses} == terms
    assert all(map(math.isfinite, hook.losses.values()))
    for name in learning:
        assert any(key.startswith(f'branches.{name}.student.') for key in hook.moved) or (
            hook.lr[name] == 0  # the first step of a warm-up
        )
    pointers = [int(x) for key, x in model.state_dict().items() if key.endswith('pointer')]
    num_keys = BATCH_SIZE * (2 if cfg.model.student_views == 'all' else 1)
    assert pointers == [num_keys] * len(pointers) and pointers
    for key, value in weights.items():
        part, _, rest = key.removeprefix('branches.vit.teacher.').partition('.')
        found = getattr(
            next(b for b in model.branches.values() if b.frozen).teacher,
            part.replace('neck', 'projector'),
        ).state_dict()[rest]
        assert torch.equal(found, value), key


@each_config
def test_config_builds_at_full_size(path, monkeypatch):
    """Without memory for the weights, and short, with nothing that nobody reads."""
    monkeypatch.setattr(torch, 'linspace', functools.partial(torch.linspace, device='cpu'))
    cfg = load_config(path)
    assert len(path.read_text().splitlines()) <= 60 and cfg.default_scope == 'mmpretrain'
    init_default_scope('mmpretrain')
    with torch.device('meta'):
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    queues = {key: tuple(x.shape) for key, x in model.state_dict().items() if 'queue' in key}
    length = 4096 if 'cifar' in path.stem else 65536
    assert {shape[0] for shape in queues.values() if shape} == {length}
    crop = next(
        node for node in dicts(cfg.train_dataloader) if node.get('type') == 'mmmokd.MultiCrop'
    )
    num = sum(g.get('num', 1) for g in crop['groups'])
    assert (num == model.num_global_views) == (model.student_views != 'all')
