# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Configs of the other algorithms: each reads, builds at full size and, made small, trains a step."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from config_testing import BATCH_SIZE, OneStep, dicts, no_memory, small_config
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.models import MoCo
from mokd_testing import short_log

from mmmokd.cli.config import load_config
from mmmokd.engine.runners.build_runner import build_runner
from mmmokd.registry import MODELS

ROOT = Path(__file__).parents[2] / 'configs'
BASE = ROOT / 'mokd' / 'mokd_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'
TERMS = dict(  # of a branch that learns: its own, and those from each other branch
    dino=(['sm'], []),
    dogo=(['ssl'], ['kl']),
    mcl=(['vcl'], ['soft_vcl', 'icl', 'soft_icl']),
    seed=([], ['seed']),
    compress=([], ['kl']),
    disco=(['co'], ['dis']),
    bingo=([], ['bag']),
)
CONFIGS = sorted(path for name in TERMS for path in (ROOT / name).glob('*.py'))
CIFAR = [path for path in CONFIGS if 'cifar10' in path.name]
# The images of ImageNet are the larger ones; the others differ from one of these in little.
OFTEN = [p for p in CIFAR if p.stem.split('_')[0] in ('dino', 'dogo', 'mcl', 'seed', 'bingo')]


def each(paths, often=CONFIGS):
    params = [
        pytest.param(path, id=path.stem, marks=[] if path in often else pytest.mark.long)
        for path in paths
    ]
    return pytest.mark.parametrize('path', params)


def by_method(*names):
    return [path for path in CONFIGS if path.parent.name in names]


def make_small(path, tmp_path, data_roots):
    """With short queues, small CNNs, a file of neighbors and one of the teacher's weights; both come
    with the config."""
    defaults = Config.fromfile(path).model.get('neck_defaults', {})
    cfg = small_config(path, tmp_path, data_roots)
    if path.parent.name not in ('dino', 'dogo'):
        cfg.model.neck_defaults = defaults  # as wide as the weights of teachers
    for node in dicts(cfg.model):
        if 'queue_length' in node:
            node['queue_length'] = 8
        if node.get('type') == 'ResNet':
            node['depth'] = 18
        elif node.get('type') == 'ResNet_CIFAR':
            node.update(stem_channels=8, base_channels=8)
    cfg.train_cfg.val_interval = 1
    cfg.update(log_level='WARNING', visualizer=None, launcher='none')
    bags = cfg.train_dataloader.dataset
    if bags.type == 'mmmokd.NeighborBags':
        bags.dataset.indices = bags.pop('indices')
        neighbors = np.arange(BATCH_SIZE)[::-1, None].repeat(bags.num_neighbors, axis=1)
        np.savez(tmp_path / 'neighbors.npz', neighbors=neighbors)
        bags.neighbors = str(tmp_path / 'neighbors.npz')
    branches = filter(None, cfg.model.branches.values())
    teachers = [branch for branch in branches if branch.get('frozen')]
    return cfg, *[save_weights(teacher, tmp_path / 'teacher.pth') for teacher in teachers]


def save_weights(teacher, path):
    """As each library has them: this one's checkpoints, or MoCo of mmpretrain. By their names in the
    branch."""
    backbone = dict(teacher.backbone)
    prefix = backbone.pop('init_cfg').prefix
    if prefix == 'backbone.':
        neck = dict(type='MoCoV2Neck', in_channels=512, hid_channels=2048, out_channels=128)
        head = dict(type='ContrastiveHead', loss=dict(type='CrossEntropyLoss'))
        state = MoCo(backbone, neck, head, queue_len=8).state_dict()
    else:
        state = {f'{prefix}{key}': x for key, x in MODELS.build(backbone).state_dict().items()}
    torch.save(dict(state_dict=state), path)
    found = {}
    for part in ('backbone', 'projector'):
        start = teacher.get(part, {}).get('init_cfg')
        if start:
            start.checkpoint = str(path)
            found |= {
                key.replace(start.prefix, f'{part}.', 1): x
                for key, x in state.items()
                if key.startswith(start.prefix)
            }
    return found


@each(CONFIGS, OFTEN)
def test_config_trains_and_validates(path, tmp_path, data_roots):
    init_default_scope('mmpretrain')
    cfg, *weights = make_small(path, tmp_path, data_roots)
    hook, method = OneStep(), path.parent.name
    with short_log():
        runner = build_runner(cfg)
        runner.register_hook(hook)
        runner.train()
    branches = runner.model.branches
    learning = [name for name, branch in branches.items() if not branch.frozen]
    own, cross = TERMS[method]
    assert [*hook.losses] == [
        key
        for i in learning
        for key in (
            *(f'{i}.loss_{term}' for term in own),
            *(f'{i}.loss_{term}.{j}' for j in branches if j != i for term in cross),
        )
    ]
    assert all(map(math.isfinite, hook.losses.values()))
    trainable = {name for name, param in runner.model.named_parameters() if param.requires_grad}
    assert hook.trained == trainable  # or a run on several GPUs would stop
    assert [*runner.optim_wrapper.keys()] == learning
    for name in learning:
        groups = runner.optim_wrapper[name].param_groups
        optimized = {id(param) for group in groups for param in group['params']}
        assert optimized == {id(p) for p in branches[name].parameters() if p.requires_grad}
        # The first step of a warm-up moves nothing.
        moves = any(key.startswith(f'branches.{name}.student.') for key in hook.moved)
        assert moves == any(group['lr'] > 0 for group in hook.groups[name])
        for network in cfg.val_cfg.networks:
            logged = runner.message_hub.get_scalar(f'val/{name}.{network}/knn_top1')
            assert 0 <= logged.current() <= 100
    images = len(next(iter(runner.train_dataloader))['inputs'][0])
    assert images == BATCH_SIZE * (2 if method == 'bingo' else 1)  # and a member of each one's bag
    model = runner.model
    pointers = [int(x) for key, x in model.state_dict().items() if key.endswith('pointer')]
    views = dict(dino=None, dogo=None, disco=1, bingo=1, compress=model.num_global_views).get(
        method, 2 if getattr(model, 'student_views', None) == 'all' else 1
    )  # of an image, whose embeddings a queue takes
    assert pointers == (
        [] if views is None else [views * BATCH_SIZE] * (2 * (method == 'mcl') or 1)
    )
    if weights:
        found = next(branch for branch in branches.values() if branch.frozen).teacher.state_dict()
        assert all(torch.equal(found[key], value) for key, value in weights[0].items())


@each(CIFAR)
def test_cifar_config_is_mokds(path):
    """But for the method and its views: models, optimizers, schedules, data and evaluation."""
    cfg, base = Config.fromfile(path), Config.fromfile(BASE)
    for name, branch in base.model.branches.items():
        own = cfg.model.branches[name]
        assert dict(own.backbone, init_cfg=None) == dict(branch.backbone, init_cfg=None)
        if own.get('frozen'):
            continue
        settings = cfg.optim_wrapper.branches[name]
        assert settings.optimizer == base.optim_wrapper.branches[name].optimizer
        main = [x for x in base.param_scheduler[name] if x.get('part') != 'search_head']
        assert cfg.param_scheduler[name] == main
    for key in ('train_cfg', 'val_cfg', 'val_evaluator', 'data_preprocessor', 'auto_scale_lr'):
        assert cfg[key] == base[key]
    groups, own = (crop_groups(each) for each in (base, cfg))
    views = dict(dino=groups, mcl=groups, seed=groups, dogo=groups[:2] * 2)
    assert own == views.get(path.parent.name, groups[:2])


def crop_groups(cfg):
    """Groups of views that the pipeline makes of an image."""
    nodes = dicts(cfg.train_dataloader)
    return next(node['groups'] for node in nodes if node.get('type') == 'mmmokd.MultiCrop')


def build(path):
    cfg = load_config(path)  # an error if nothing reads a name
    assert len(path.read_text().splitlines()) <= 60 and cfg.default_scope == 'mmpretrain'
    init_default_scope('mmpretrain')
    with no_memory():
        return cfg, MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).eval()


@each(by_method('dino', 'dogo'))
def test_config_without_a_queue_builds_at_full_size(path):
    cfg, model = build(path)
    groups = crop_groups(cfg)
    size = groups[0]['size']
    sizes = [group['size'] for group in groups for _ in range(group.get('num', 1))]
    assert {*sizes[: model.num_global_views]} == {size} == {max(sizes)}
    images = [torch.empty(1, 3, size, size, device='meta')]
    widths = dict(dino=model.neck_defaults.get('out_channels'), dogo=128)
    for branch in model.branches.values():
        found = branch.student([images], 1)['projector'].shape
        wanted = 2048 if 'simsiam' in path.name else widths[path.parent.name]
        assert found == (1, 1, wanted)


@each(by_method('mcl', 'seed'))
def test_config_of_student_views_builds_at_full_size(path):
    cfg, model = build(path)
    queues = {key: tuple(x.shape) for key, x in model.state_dict().items() if 'queue' in key}
    assert {shape[0] for shape in queues.values() if shape} == {4096 if path in CIFAR else 65536}
    num = sum(group.get('num', 1) for group in crop_groups(cfg))
    assert (num == model.num_global_views) == (model.student_views != 'all')


@each(by_method('compress', 'disco', 'bingo'))
def test_offline_config_builds_at_full_size(path):
    _, model = build(path)
    (student,) = (branch for branch in model.branches.values() if not branch.frozen)
    (head, *_) = (head for _, _, head in student.terms() if hasattr(head, 'queue'))
    (frozen,) = (branch for branch in model.branches.values() if branch.frozen)
    reads = next(head.target_reads for _, peer, head in student.terms() if peer)
    width = frozen.teacher.width(reads)
    assert width == (128 if reads == 'projector' else frozen.teacher.spec.pooled_channels)
    assert head.queue['teacher'].shape[1] == width
    assert (
        ('student' in head.queue.embeddings)
        == (path.parent.name == 'compress')
        == bool(student.ema and path.parent.name != 'disco')
    )
