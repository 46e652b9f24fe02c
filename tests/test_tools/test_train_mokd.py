# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""MOKD and its parts through the commands that a user gives: ours and mmpretrain's own."""

import json
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import mmpretrain
import pytest
import torch
from mmengine.registry import VISUALIZERS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmmokd.weights import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / 'tools' / 'train.py'
MMPRETRAIN_TRAIN = Path(mmpretrain.__file__).parent / '.mim' / 'tools' / 'train.py'
EPOCHS = 12  # enough for a killed run to be caught between its first and its last
ITERATIONS = 2 * EPOCHS  # 8 images, 4 a step


def train(run, config, work_dir, *options, tool=TRAIN, arguments=()) -> str:
    """Run a training command to its end, in its work_dir; all of its output."""
    work_dir.mkdir(exist_ok=True)
    command = (sys.executable, tool, config, '--work-dir', work_dir, *arguments)
    done = run(*command, '--cfg-options', f'train_cfg.max_epochs={EPOCHS}', *options, cwd=work_dir)
    assert done.returncode == 0, done.stdout
    return done.stdout


def assert_same_weights(found: Path, expected: Path):
    found, expected = (
        read_checkpoint(folder / f'epoch_{EPOCHS}.pth') for folder in (found, expected)
    )
    assert found['meta']['iter'] == expected['meta']['iter'] == ITERATIONS
    assert found['state_dict'].keys() == expected['state_dict'].keys()
    for key, value in expected['state_dict'].items():
        assert torch.equal(found['state_dict'][key], value), key


@pytest.fixture(scope='module')
def whole_run(run, mokd_config, tmp_path_factory) -> tuple[Path, str]:
    """The work_dir and the output of a run of our command that nothing interrupted."""
    work_dir = tmp_path_factory.mktemp('whole')
    tensorboard = 'visualizer.vis_backends.0.type=TensorboardVisBackend'
    return work_dir, train(run, mokd_config, work_dir, tensorboard)


def tensorboard_scalars(work_dir: Path) -> dict[str, list[float]]:
    (events,) = work_dir.rglob('events.out.tfevents.*')
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    return {
        tag: [event.value for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()['scalars']
    }


def test_console_begins_with_what_a_user_wants(whole_run):
    """The rest is in the log file."""
    work_dir, output = whole_run
    lines = output.splitlines()
    first = next(number for number, line in enumerate(lines) if 'Epoch(train)' in line)
    for branch, line in zip(('cnn', 'vit'), lines, strict=False):
        assert f'Branch {branch}: learns sm, st; cm, ct from ' in line
    assert 'mokd_tiny.py: on ' in lines[2] and lines[2].endswith(f'writes to {work_dir}')
    length = f'trains on 8 images in batches of 4: 2 iterations an epoch, {EPOCHS} epochs'
    assert any(line.endswith(length) for line in lines[:7])
    assert first < 12 and not any('Warning' in line for line in lines), output
    log = next(work_dir.glob('*/*.log')).read_text()
    for text in ('System environment:', 'Hooks will be executed', 'Initialization information'):
        assert text in log and text not in output


def test_tensorboard_has_what_the_log_has(whole_run):
    work_dir, output = whole_run
    scalars = tensorboard_scalars(work_dir)
    terms = [
        f'{branch}.loss_{term}'
        for branch, peer in (('cnn', 'vit'), ('vit', 'cnn'))
        for term in ('sm', 'st', f'cm.{peer}', f'ct.{peer}')
    ]
    watched = [
        f'{branch}.{name}'
        for branch in ('cnn', 'vit')
        for name in ('lr', 'sm.teacher_temp', 'ct.teacher_temp', 'entropy', 'effective_rank')
    ]
    lines = [line for line in output.splitlines() if 'Epoch(train)' in line]
    assert len(lines) == ITERATIONS and all('eta: 0:' in line for line in lines)
    for name in (*terms, *watched, 'loss', 'ema_momentum'):
        assert len(scalars[name]) == ITERATIONS, name
        assert all(f' {name}: ' in line for line in lines), name

    # The recipe's numbers: lr 0.1 and 3e-4 for 256 images, here 4, below the last ones of the
    # recipe; linear warm-up from 0 over ten epochs of a hundred, here 2.4 iterations; temperatures
    # over 50 and 30 of them; momentum 0.996 -> 1 by a cosine. A loss in the log is the mean of ten, so
    # the first one is itself.
    warmed_up = [0.0] + [1.0] * (ITERATIONS - 1)
    assert scalars['cnn.lr'] == pytest.approx([0.1 * 4 / 256 * x for x in warmed_up], rel=1e-6)
    assert scalars['vit.lr'] == pytest.approx([3e-4 * 4 / 256 * x for x in warmed_up], rel=1e-6)
    for name, epochs in (('cnn.sm.teacher_temp', 50), ('vit.sm.teacher_temp', 30)):
        warmup = [min(step // 2 * 100 / EPOCHS / (epochs - 1), 1) for step in range(ITERATIONS)]
        assert scalars[name] == pytest.approx([0.04 + 0.03 * x for x in warmup], rel=1e-6)
    momenta = [1 - 0.004 * (1 + math.cos(math.pi * i / ITERATIONS)) / 2 for i in range(ITERATIONS)]
    assert scalars['ema_momentum'] == pytest.approx(momenta, rel=1e-6)
    assert scalars['loss'][0] == pytest.approx(sum(scalars[term][0] for term in terms), rel=1e-5)


def test_mmpretrains_own_command_trains_the_same(run, whole_run, mokd_config, tmp_path):
    output = train(run, mokd_config, tmp_path, tool=MMPRETRAIN_TRAIN)
    assert 'Epoch(train) [12][2/2]' in output
    assert_same_weights(tmp_path, whole_run[0])


def test_killed_run_resumes_to_the_same_weights(run, cpu_env, whole_run, mokd_config, tmp_path):
    options = ('--cfg-options', f'train_cfg.max_epochs={EPOCHS}')
    command = (sys.executable, TRAIN, mokd_config, '--work-dir', tmp_path, *options)
    with open(tmp_path / 'first.log', 'w') as log:
        process = subprocess.Popen(
            [*map(str, command)], env=cpu_env, stdout=log, stderr=subprocess.STDOUT
        )
    deadline = time.monotonic() + 120
    while not (tmp_path / 'epoch_3.pth').exists() and time.monotonic() < deadline:
        assert process.poll() is None, (tmp_path / 'first.log').read_text()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / f'epoch_{EPOCHS}.pth').exists(), 'killed too late'

    output = train(run, mokd_config, tmp_path, arguments=['--resume'])
    assert f'resuming from {tmp_path / "epoch_"}' in output
    assert_same_weights(tmp_path, whole_run[0])


BACKBONES = """
_base_ = {base!r}

branches = _base_.model.branches
convnext = dict(
    type='ConvNeXt',
    arch=dict(depths=[1, 1, 1, 1], channels=[4, 8, 12, 20]),
    gap_before_final_norm=False)
swin = dict(
    type='SwinTransformer',
    arch=dict(embed_dims=8, depths=[1, 1], num_heads=[1, 2]),
    img_size=64,
    pad_small_map=True,
    out_indices=(1,))
mobile = dict(
    type='TIMMBackbone',
    model_name='mobilenetv3_small_050',
    features_only=True,
    out_indices=(4,))
model = dict(
    branches=dict(
        _delete_=True,
        convnext=dict(branches.vit, backbone=convnext),
        swin=dict(branches.vit, backbone=swin),
        mobile=dict(branches.cnn, backbone=mobile)))
optim = _base_.optim_wrapper.branches
optim_wrapper = dict(
    branches=dict(_delete_=True, convnext=optim.vit, swin=optim.vit, mobile=optim.cnn))
schedule = _base_.param_scheduler
param_scheduler = dict(
    _delete_=True, convnext=schedule.vit, swin=schedule.vit, mobile=schedule.cnn)
"""


def test_backbones_that_no_code_of_ours_names(run, mokd_config, tmp_path):
    config = tmp_path / 'backbones.py'
    config.write_text(BACKBONES.format(base=str(mokd_config)))
    train(run, config, tmp_path, 'default_hooks.checkpoint.interval=12')
    names = ('convnext', 'swin', 'mobile')
    weights = read_checkpoint(tmp_path / f'epoch_{EPOCHS}.pth')['state_dict']
    first = {name: f'branches.{name}.student.backbone.' for name in names}
    assert f'{first["mobile"]}timm_model.conv_stem.weight' in weights
    assert f'{first["swin"]}stages.1.blocks.0.norm1.weight' in weights
    for name in names:
        for part in ('backbone', 'projector', 'search_head'):
            moved = [
                not torch.equal(value, weights[key.replace('.student.', '.teacher.')])
                for key, value in weights.items()
                if key.startswith(f'branches.{name}.student.{part}.')
            ]
            assert any(moved), (name, part)
    scalars = [
        json.loads(line)
        for file in tmp_path.rglob('scalars.json')
        for line in file.read_text().splitlines()
    ]
    for name in names:
        for peer in set(names) - {name}:
            assert all(math.isfinite(line[f'{name}.loss_ct.{peer}']) for line in scalars)


BYOL = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmmokd'])
neck = dict(
    type='NonLinearNeck', in_channels=64, hid_channels=32, out_channels=16, num_layers=2,
    with_bias=True, with_last_bn=False, with_avg_pool=True)
model = dict(
    type='BYOL',
    base_momentum=0.01,
    backbone=dict(type='ResNet', depth=18, stem_channels=8, base_channels=8),
    neck=neck,
    head=dict(
        type='LatentPredictHead',
        loss=dict(type='CosineSimilarityLoss'),
        predictor=dict(neck, in_channels=16, with_avg_pool=False)),
    data_preprocessor=dict(type='SelfSupDataPreprocessor', to_rgb=True))
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset',
        data_root={data_root!r},
        with_label=False,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='mmmokd.MultiCrop', groups=[dict(num=2, size=32, scale=(0.25, 1.0))]),
            dict(type='PackInputs'),
        ]))
train_cfg = dict(by_epoch=True)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
randomness = dict(seed=0)
"""


def test_stock_algorithm_trains_on_our_views(run, mokd_config, tmp_path):
    config = tmp_path / 'byol.py'
    config.write_text(BYOL.format(data_root=str(mokd_config.parent / 'images')))
    output = train(run, config, tmp_path, tool=MMPRETRAIN_TRAIN)
    losses = [float(x) for x in re.findall(r' loss: (\S+)', output)]
    assert len(losses) == ITERATIONS and all(-4 <= loss <= 4 for loss in losses)
    assert losses[-1] < losses[0]
    weights = read_checkpoint(tmp_path / f'epoch_{EPOCHS}.pth')['state_dict']
    online = {key for key in weights if key.startswith('backbone.')}
    moved = [
        key
        for key in online
        if not torch.equal(weights[key], weights[f'target_net.module.0.{key[9:]}'])
    ]
    assert 'backbone.conv1.weight' in moved


@pytest.mark.parametrize(
    'name', ['TensorboardVisBackend', 'mmmokd.WandbVisBackend', 'mmmokd.MLflowVisBackend']
)
def test_lines_for_loggers_build(name, tmp_path):
    text = (ROOT / 'configs' / '_base_' / 'default_runtime.py').read_text()
    (line,) = re.findall(rf"^ *# (dict\(type='{name}'[^#]*\)),", text, re.MULTILINE)
    visualizer = dict(
        type='mmpretrain.UniversalVisualizer',
        vis_backends=[eval(line)],
        save_dir=str(tmp_path),
        name=name,
    )
    (backend,) = VISUALIZERS.build(visualizer)._vis_backends.values()
    assert type(backend).__name__ == name.removeprefix('mmmokd.')


def test_run_arrives_in_wandb(run, cpu_env, mokd_config, tmp_path, monkeypatch):
    pytest.importorskip('wandb')
    for name in ('DATA', 'CACHE', 'CONFIG'):
        monkeypatch.setitem(cpu_env, f'WANDB_{name}_DIR', str(tmp_path / name))
    monkeypatch.setitem(cpu_env, 'WANDB_MODE', 'offline')
    (tmp_path / 'code_beside_it.py').write_text('')
    train(run, mokd_config, tmp_path, 'visualizer.vis_backends.0.type=mmmokd.WandbVisBackend')
    (file,) = tmp_path.rglob('*.wandb')
    record = file.read_bytes()
    for key in ('vit.loss_cm.cnn', 'cnn.lr', 'ema_momentum', 'accumulative_counts'):
        assert key.encode() in record, key
    assert b'code_beside_it.py' not in record


def test_run_arrives_in_mlflow(run, cpu_env, mokd_config, tmp_path, monkeypatch):
    mlflow = pytest.importorskip('mlflow')
    monkeypatch.delitem(cpu_env, 'MLFLOW_TRACKING_URI', raising=False)
    train(run, mokd_config, tmp_path, 'visualizer.vis_backends.0.type=mmmokd.MLflowVisBackend')
    client = mlflow.MlflowClient(f'sqlite:///{tmp_path}/mlflow.db')
    (experiment,) = client.search_experiments()
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == 'FINISHED'
    assert found.data.params['model.neck_defaults.embed_dims'] == '24'
    steps = [m.step for m in client.get_metric_history(found.info.run_id, 'vit.loss_cm.cnn')]
    assert steps == list(range(1, ITERATIONS + 1))
    assert 'config.py' in {file.path for file in client.list_artifacts(found.info.run_id)}
