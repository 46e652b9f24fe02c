# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""tools/transfer.sh and tools/model_converters/: from a MOKD checkpoint to a trained classifier."""

import json
import sys
from pathlib import Path

import pytest
import torch
from weights_testing import write_classifier

from mmmokd.apis.export_branch import export_branch
from mmmokd.apis.transfer import plan_transfer


@pytest.fixture
def config(tmp_path, tiny_config) -> Path:
    return write_classifier(tmp_path, tiny_config)


def test_trains_and_tests_from_a_branch(run, cpu_env, config, mokd, tmp_path, monkeypatch):
    work_dir = tmp_path / 'work'
    monkeypatch.setitem(cpu_env, 'WORK_DIR', str(work_dir))
    done = run(
        *('bash', 'tools/transfer.sh', mokd[0], 'cnn', config, 1),
        *('--cfg-options', 'train_dataloader.batch_size=4'),
    )
    assert done.returncode == 0, done.stdout
    report = done.stdout.index('matched    120 of 120 weights (100 %)')
    assert report < done.stdout.index('Epoch(train)') < done.stdout.index('== testing')
    trained = torch.load(work_dir / 'epoch_1.pth', weights_only=False)['state_dict']
    expected = mokd[1].branches['cnn'].teacher.backbone.state_dict()
    assert all(  # the learning rate is 0: only the statistics of batch norm move
        torch.equal(value, expected[key.removeprefix('backbone.')])
        for key, value in trained.items()
        if key.startswith('backbone.') and 'running' not in key and 'num_batches' not in key
    )
    assert json.loads((work_dir / 'metrics.json').read_text()).keys() == {'accuracy/top1'}


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
        plan_transfer(path, 'vit', config)
    with pytest.raises(FileNotFoundError, match=r'none\.pth is not there'):
        plan_transfer(tmp_path / 'none.pth', 'cnn', config)
    with pytest.raises(FileNotFoundError, match=r'config .*r19\.py is not there. .*r18\.py'):
        plan_transfer(path, 'cnn', config.with_name('r19.py'))
    config.write_text('model = dict()')
    with pytest.raises(ValueError, match='has no model.backbone to start from a branch'):
        plan_transfer(path, 'cnn', config)


def test_every_pretrained_part_is_planned(mokd, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(
        "default_scope = 'mmpretrain'\n"
        "model = dict(backbone=dict(type='ResNet', depth=18),\n"
        "    neck=dict(type='ResNet', depth=18, init_cfg=[dict(type='Pretrained', checkpoint='x')]),\n"
        "    head=dict(type='ClsHead', init_cfg=dict(type='Normal')))"
    )
    report, options = plan_transfer(mokd[0], 'cnn', path, network='student')
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
        plan_transfer(mokd[0], 'vit', path)
    path.write_text(
        f"default_scope = 'mmseg'\nmodel = dict(backbone={dict(backbone, patch_bias=True)})"
    )
    report, _ = plan_transfer(mokd[0], 'vit', path)
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
    with pytest.raises(ValueError, match='reading those can run any code.*--allow-code-from'):
        export_branch(path, tmp_path / 'out.pth', 'mmpretrain', 'cnn')
    assert not (tmp_path / 'out.pth').exists()
    done = run(*tool, *options, '--allow-code-from-checkpoint')
    assert done.returncode == 0, done.stdout
    assert (tmp_path / 'out.pth').is_file()
