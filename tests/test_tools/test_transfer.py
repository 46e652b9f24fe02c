# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""tools/transfer.sh and tools/model_converters/: from a MOKD checkpoint to trained models."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from classification_testing import write_imagenet
from mmengine.config import Config
from transfer_testing import (
    BENCHMARKS,
    CLASSES,
    assert_started_from,
    make_data,
    need,
    remember_start,
    run_here,
)
from weights_testing import write_classifier

from mmmokd.cli.config import load_config
from mmmokd.transfer.downstream import plan_transfer
from mmmokd.transfer.export import export_branch
from mmmokd.weights import read_checkpoint


@pytest.fixture
def config(tmp_path, tiny_config) -> Path:
    return write_classifier(tmp_path, tiny_config)


NARROW = {'model.backbone.base_channels': 8, 'model.backbone.stem_channels': 8}


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('scenes')
    make_data(root, num_train=2, num_val=1)
    return root


def for_loaders(**options):
    """The same for each dataloader; ``__`` stands for a dot."""
    return {
        f'{loader}_dataloader.{key.replace("__", ".")}': value
        for loader in ('train', 'val', 'test')
        for key, value in options.items()
    }


def classifier_options(root):
    return {
        **for_loaders(dataset__data_root=root, num_workers=0, batch_size=4),
        'model.head.in_channels': 64,
        'train_cfg.max_epochs': 1,
    }


def detector_options(scenes):
    coco = scenes / 'coco'
    annotations = coco / 'annotations' / 'instances_val2017.json'
    classes = ','.join(f'"{name}"' for name in CLASSES)
    return {
        **for_loaders(dataset__data_root=f'{coco}/', num_workers=0, persistent_workers=False),
        **for_loaders(dataset__metainfo__classes=f'({classes})'),
        'model.roi_head.bbox_head.num_classes': len(CLASSES),
        'model.roi_head.mask_head.num_classes': len(CLASSES),
        'train_dataloader.dataset.pipeline.2.scale': '(96,96)',
        'val_dataloader.dataset.pipeline.1.scale': '(96,96)',
        'test_dataloader.dataset.pipeline.1.scale': '(96,96)',
        'val_evaluator.ann_file': annotations,
        'test_evaluator.ann_file': annotations,
        'model.neck.in_channels': '[8,16,32,64]',
        'train_cfg.max_epochs': 1,
    }


def segmentor_options(scenes):
    root = scenes / 'VOCdevkit' / 'VOC2012'
    options = for_loaders(dataset__data_root=root, num_workers=0, persistent_workers=False)
    del options['train_dataloader.dataset.data_root']
    for loader in ('val', 'test'):
        options[f'{loader}_dataloader.dataset.pipeline.1.scale'] = '(96,96)'
    for number in (0, 1):
        options[f'train_dataloader.dataset.datasets.{number}.data_root'] = root
    for head, width in (('decode_head', 64), ('auxiliary_head', 32)):
        options[f'model.{head}.in_channels'] = width
        options[f'model.{head}.channels'] = 8
    return {
        **options,
        'model.backbone.depth': 18,
        'train_dataloader.batch_size': 2,
        'train_cfg.max_iters': 1,
        'train_cfg.val_interval': 1,
        'default_hooks.logger.interval': 1,
    }


CLASSIFIER = 'classification/resnet18_8xb128-linear-coslr-100e_in1k.py'
# The others take 25 seconds of a core: three commands, each of which imports a library.
KINDS = {
    'detection/mask-rcnn_r18_fpn_1x_coco.py': detector_options,
    'segmentation/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py': segmentor_options,
}


def transfer(run, checkpoint, config, options):
    """``tools/transfer.sh`` as a user types it, with a shipped config made small."""
    texts = [f'{key}={value}' for key, value in {**NARROW, **options}.items()]
    arguments = (checkpoint, 'cnn', BENCHMARKS / config, 1, '--cfg-options', *texts)
    done = run('bash', 'tools/transfer.sh', *arguments)
    assert done.returncode == 0, done.stdout
    report = done.stdout.index('matched    120 of 120 weights (100 %)')
    assert f'ResNet: all 120 weights loaded from {checkpoint}' in done.stdout
    assert report < done.stdout.index('(train)') < done.stdout.index('== testing')
    return done


def test_trains_and_tests_from_a_branch(run, cpu_env, mokd_checkpoint, tmp_path, monkeypatch):
    work_dir = tmp_path / 'work'
    monkeypatch.setitem(cpu_env, 'WORK_DIR', str(work_dir))
    (tmp_path / 'imagenet').mkdir()
    write_imagenet(tmp_path / 'imagenet', np.random.default_rng(0))
    transfer(run, mokd_checkpoint, CLASSIFIER, classifier_options(tmp_path / 'imagenet'))
    trained = read_checkpoint(work_dir / 'epoch_1.pth')['state_dict']
    expected = read_checkpoint(mokd_checkpoint)['state_dict']
    found = {key: value for key, value in trained.items() if key.startswith('backbone.')}
    assert len(found) == 120
    assert all(  # linear evaluation: the backbone is frozen, statistics and all
        torch.equal(value, expected[f'branches.cnn.teacher.{key}']) for key, value in found.items()
    )
    metrics = json.loads((work_dir / 'metrics.json').read_text())
    assert metrics.keys() == {'accuracy/top1', 'accuracy/top5'}


@pytest.mark.long
@pytest.mark.parametrize('config', list(KINDS), ids=['detector', 'segmentor'])
def test_other_kinds_from_a_branch(
    run, cpu_env, mokd_checkpoint, scenes, tmp_path, monkeypatch, config
):
    need('mmdet', 'mmseg', 'mmcv.ops')
    monkeypatch.setitem(cpu_env, 'WORK_DIR', str(tmp_path / 'work'))
    transfer(run, mokd_checkpoint, config, KINDS[config](scenes))
    assert isinstance(json.loads((tmp_path / 'work' / 'metrics.json').read_text()), dict)


@pytest.mark.parametrize('config', list(KINDS), ids=['detector', 'segmentor'])
def test_other_kinds_in_one_process(mokd_checkpoint, scenes, tmp_path, monkeypatch, capsys, config):
    """The tools that ``transfer.sh`` calls, one after the other."""
    need('mmdet', 'mmseg', 'mmcv.ops')
    texts = [f'{key}={value}' for key, value in {**NARROW, **KINDS[config](scenes)}.items()]
    path, work_dir = BENCHMARKS / config, ('--work-dir', tmp_path / 'work')
    tool = 'model_converters/check_transfer.py'
    arguments = (mokd_checkpoint, 'cnn', path, '--cfg-options', *texts)
    assert run_here(monkeypatch, tool, *arguments) == 0
    planned = [line for line in capsys.readouterr().out.splitlines() if line.startswith('model.')]
    assert 'model.backbone.init_cfg._delete_=True' in planned
    started = remember_start(monkeypatch)
    options = ('--no-validate', '--cfg-options', *texts, *planned)
    assert run_here(monkeypatch, 'train.py', path, *work_dir, *options) == 0
    assert_started_from(started, mokd_checkpoint, 'cnn', least=120)


def test_options_of_the_run_are_planned_with(mokd_checkpoint):
    """A backbone that is swapped on the command line."""
    config = BENCHMARKS / CLASSIFIER
    with pytest.raises(ValueError, match='basic blocks, 8 wide, .* basic blocks, 64 wide'):
        plan_transfer(mokd_checkpoint, 'cnn', load_config(config))
    changes = {
        'model.backbone._delete_': True,
        'model.backbone.type': 'ResNet',
        'model.backbone.depth': 18,
        **NARROW,
    }
    report, options = plan_transfer(mokd_checkpoint, 'cnn', load_config(config, changes))
    assert 'matched    120 of 120 weights (100 %)' in report
    assert 'model.backbone.init_cfg._delete_' not in options


def test_stops_before_training(run, config, mokd):
    tool = ('bash', 'tools/transfer.sh')
    done = run(*tool, mokd[0], 'resnet', config)
    assert done.returncode == 2, done.stdout
    assert f"no branch 'resnet' in {mokd[0]} holds cnn, vit" in done.stdout
    assert 'Epoch(train)' not in done.stdout
    for arguments, message in (
        (('x.pth', 'cnn'), 'usage: bash tools/transfer.sh CHECKPOINT BRANCH CONFIG [GPUS]'),
        (('x.pth', 'cnn', config, '2x'), "GPUS should be a number from 1 on, not '2x'"),
        (('x.pth', 'cnn', config, '--work-dir', 'x'), 'in the variable WORK_DIR'),
    ):
        done = run(*tool, *arguments)
        assert done.returncode == 2
        assert message in done.stdout


def test_plans_only_what_fits(config, mokd, tmp_path):
    path = mokd[0]
    with pytest.raises(ValueError, match='of a ViT of 3 layers.* is a ResNet of 2-2-2-2 basic'):
        plan_transfer(path, 'vit', load_config(config))
    with pytest.raises(FileNotFoundError, match=r'none\.pth does not exist'):
        plan_transfer(tmp_path / 'none.pth', 'cnn', load_config(config))
    config.write_text('train_cfg = dict(by_epoch=True, max_epochs=1)')
    with pytest.raises(ValueError, match='has no model.backbone to start from a branch'):
        plan_transfer(path, 'cnn', load_config(config))


def test_every_pretrained_part_is_planned(mokd, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(
        "default_scope = 'mmpretrain'\n"
        "model = dict(backbone=dict(type='ResNet', depth=18),\n"
        "    neck=dict(type='ResNet', depth=18, init_cfg=[dict(type='Pretrained', checkpoint='x')]),\n"
        "    head=dict(type='ClsHead', init_cfg=dict(type='Normal')))"
    )
    report, options = plan_transfer(mokd[0], 'cnn', Config.fromfile(path), network='student')
    assert sum(line.startswith('matched    120 of 120') for line in report) == 2
    assert {key.rpartition('.')[0] for key in options} == {
        'model.backbone.init_cfg',
        'model.neck.init_cfg',
    }
    assert options['model.neck.init_cfg.prefix'] == 'branches.cnn.student.backbone.'


def test_mmsegs_own_vit_takes_a_branch(mokd, tmp_path):
    """It reads `init_cfg` itself, and no prefix in it, but where mmmokd is imported."""
    path = tmp_path / 'config.py'
    backbone = dict(
        type='VisionTransformer', img_size=64, embed_dims=192, num_layers=3, num_heads=3
    )
    path.write_text(f"default_scope = 'mmseg'\nmodel = dict(backbone={backbone})")
    with pytest.raises(ValueError, match='a bias of patches: give the backbone patch_bias=True'):
        plan_transfer(mokd[0], 'vit', Config.fromfile(path))
    path.write_text(
        f"default_scope = 'mmseg'\nmodel = dict(backbone={dict(backbone, patch_bias=True)})"
    )
    report, _ = plan_transfer(mokd[0], 'vit', Config.fromfile(path))
    assert 'matched    40 of 40 weights (100 %)' in report


def test_export_from_the_command_line(run, mokd, tmp_path):
    tool = (sys.executable, 'tools/model_converters/export_branch.py', mokd[0])
    out = tmp_path / 'out.safetensors'
    done = run(*tool, out, '--to', 'timm', '--branch', 'vit', '--img-size', '96')
    assert done.returncode == 0, done.stdout
    assert 'matched    42 of 42 weights (100 %)' in done.stdout
    assert out.is_file()


def test_pickled_code_runs_only_where_it_was_asked_for(run, tmp_path, mokd):
    model = mokd[1]
    path = tmp_path / 'a.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=dict(folder=Path('x'))), path)
    tool = (sys.executable, 'tools/model_converters/export_branch.py', path, tmp_path / 'out.pth')
    options = ('--to', 'mmpretrain', '--branch', 'cnn')
    with pytest.raises(ValueError, match='loading it may run any code.*--allow-code-from'):
        export_branch(path, tmp_path / 'out.pth', 'mmpretrain', 'cnn')
    assert not (tmp_path / 'out.pth').exists()
    done = run(*tool, *options, '--allow-code-from-checkpoint')
    assert done.returncode == 0, done.stdout
    assert (tmp_path / 'out.pth').is_file()
