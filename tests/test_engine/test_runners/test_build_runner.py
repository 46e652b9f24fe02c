# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mokd_testing import short_log

import mmmokd.engine.runners.build_runner as runtime
from mmmokd.cli.config import (
    enable_amp,
    load_config,
    require_keys,
    set_dataloader_defaults,
    set_work_dir,
)
from mmmokd.cli.errors import explain_error
from mmmokd.cli.run_tool import run_tool
from mmmokd.engine.optimizers import precision
from mmmokd.engine.runners.build_runner import (
    build_runner,
    init_cpu_process_group,
    prepare_cfg_for_device,
)


def config(**more) -> Config:
    return Config(
        dict(
            model=dict(
                branches=dict(
                    cnn=dict(backbone=dict(type='ResNet', norm_cfg=dict(type='SyncBN', eps=1e-3)))
                ),
                necks=[dict(type='Neck', norm_cfg=dict(type='mmcv.SyncBN'))],
            ),
            train_dataloader=dict(batch_size=2, num_workers=2, pin_memory=True),
            optim_wrapper=dict(
                type='AmpOptimWrapper',
                constructor='mmmokd.BranchOptimWrapperConstructor',
                accumulative_counts=2,
                loss_scale='dynamic',
                dtype='float16',
                branches=dict(cnn=dict(optimizer=dict(type='SGD', lr=0.1))),
            ),
            launcher='none',
            **more,
        )
    )


def test_with_a_gpu_the_data_type_alone_is_chosen(monkeypatch):
    cfg = config(sync_bn='torch')
    before = cfg.to_dict()
    assert prepare_cfg_for_device(cfg, 'cuda') == []
    assert cfg.to_dict() == before
    monkeypatch.setattr(precision, '_has_bfloat16', lambda device: True)
    cfg.optim_wrapper.dtype = 'auto'
    assert prepare_cfg_for_device(cfg, 'cuda') == []
    before['optim_wrapper']['dtype'] = 'bfloat16'
    assert cfg.to_dict() == before


def test_one_process_without_gpu_drops_amp_and_pinned_memory():
    cfg = config(sync_bn='torch')
    notices = prepare_cfg_for_device(cfg, 'cpu')
    assert len(notices) == 1 and 'float32' in notices[0]
    wrapper = cfg.optim_wrapper
    assert wrapper.type == 'OptimWrapper' and wrapper.accumulative_counts == 2
    assert 'loss_scale' not in wrapper and 'dtype' not in wrapper
    assert cfg.train_dataloader.pin_memory is False
    # mmengine itself turns SyncBN into BN in a single process.
    assert cfg.model.branches.cnn.backbone.norm_cfg.type == 'SyncBN'
    assert 'model_wrapper_cfg' not in cfg


@pytest.mark.parametrize(
    ('launcher', 'variable', 'size', 'converts'),
    [
        ('pytorch', 'WORLD_SIZE', '1', False),
        ('pytorch', 'WORLD_SIZE', '2', True),
        ('slurm', 'SLURM_NTASKS', '1', False),
        ('mpi', 'UNKNOWN', '1', True),
    ],
)
def test_one_process_of_a_launcher_has_plain_batch_norms(
    monkeypatch, launcher, variable, size, converts
):
    for name in ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, size)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    cfg = config(sync_bn='torch')
    cfg.launcher = launcher
    assert prepare_cfg_for_device(cfg, 'cuda') == []
    assert ('sync_bn' in cfg) == converts


def test_several_processes_without_gpu_drop_sync_bn_and_wrap_for_the_cpu(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    cfg = config(sync_bn='torch', find_unused_parameters=True)
    cfg.launcher = 'pytorch'
    notices = prepare_cfg_for_device(cfg, 'cpu')
    assert any('SyncBN' in notice for notice in notices)
    assert 'sync_bn' not in cfg
    assert cfg.model.branches.cnn.backbone.norm_cfg == dict(type='BN', eps=1e-3)
    assert cfg.model.necks[0].norm_cfg.type == 'mmmokd.BatchNormXd'
    assert cfg.model_wrapper_cfg == dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=True,
    )


def test_amp_in_single_wrappers_is_fitted_as_well(monkeypatch):
    cfg = config()
    cfg.optim_wrapper = dict(
        a=dict(type='AmpOptimWrapper', loss_scale=512.0),
        b=dict(type='AmpOptimWrapper', dtype='auto', loss_scale='dynamic'),
        constructor='C',
    )
    monkeypatch.setattr(precision, '_has_bfloat16', lambda device: True)
    prepare_cfg_for_device(cfg, 'cpu')
    assert cfg.optim_wrapper == dict(
        a=dict(type='OptimWrapper'),
        b=dict(type='mmmokd.BFloat16OptimWrapper'),
        constructor='C',
    )


def test_fsdp_is_replaced_and_said():
    cfg = config(model_wrapper_cfg=dict(type='MMFullyShardedDataParallel', cpu_offload=True))
    cfg.launcher = 'pytorch'
    notices = prepare_cfg_for_device(cfg, 'cpu')
    assert any('MMFullyShardedDataParallel' in notice for notice in notices)
    assert cfg.model_wrapper_cfg.type == 'MMDistributedDataParallel'
    assert 'cpu_offload' not in cfg.model_wrapper_cfg


def test_launchers_that_need_gpus():
    cfg = config()
    cfg.launcher = 'slurm'
    with pytest.raises(ValueError, match='slurm needs GPUs'):
        prepare_cfg_for_device(cfg, 'cpu')


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '2')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    cfg = config()
    cfg.launcher = 'pytorch'
    with pytest.raises(ValueError, match='process 2 .* has no GPU: it has 2'):
        prepare_cfg_for_device(cfg, 'cuda')


def test_process_group_needs_torchrun(monkeypatch):
    for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match='RANK, WORLD_SIZE'):
        init_cpu_process_group(config())


def test_amp_flag(monkeypatch):
    cfg = config()
    cfg.optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
    monkeypatch.setattr('mmmokd.cli.config.get_device', lambda: 'cpu')
    monkeypatch.setattr(precision, '_has_bfloat16', lambda device: False)
    with pytest.raises(ValueError, match='--amp needs a GPU'):
        enable_amp(cfg)
    monkeypatch.setattr('mmmokd.cli.config.get_device', lambda: 'cuda')
    enable_amp(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.loss_scale == 'dynamic' and cfg.optim_wrapper.dtype == 'auto'


def test_dataloader_defaults_leave_what_is_set():
    cfg = config(
        val_dataloader=dict(num_workers=0, persistent_workers=True, prefetch_factor=2),
        test_dataloader=None,
    )
    set_dataloader_defaults(cfg)
    assert cfg.train_dataloader.persistent_workers is True
    assert cfg.train_dataloader.collate_fn == dict(type='default_collate')
    assert cfg.val_dataloader.persistent_workers is False
    assert 'prefetch_factor' not in cfg.val_dataloader
    assert cfg.test_dataloader is None


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_dataloader_defaults_are_for_mmpretrain_alone(scope):
    cfg = config(default_scope=scope, val_dataloader=dict(num_workers=0, persistent_workers=True))
    before = dict(cfg.train_dataloader)
    set_dataloader_defaults(cfg)
    assert cfg.train_dataloader == before
    assert cfg.val_dataloader == dict(num_workers=0, persistent_workers=False)


def test_work_dir(tmp_path):
    (tmp_path / 'name.py').write_text('_a = 1')
    cfg = load_config(tmp_path / 'name.py')
    set_work_dir(cfg, None)
    assert cfg.work_dir == 'work_dirs/name'
    set_work_dir(cfg, 'elsewhere')
    assert cfg.work_dir == 'elsewhere'
    set_work_dir(cfg, None)
    assert cfg.work_dir == 'elsewhere'


def test_load_config(tmp_path):
    file = tmp_path / 'byol_resnet50.py'
    file.write_text('train_cfg = dict(max_epochs=1)\n')
    assert load_config(file, {'train_cfg.max_epochs': 2, 'resume': True}).train_cfg.max_epochs == 2
    with pytest.raises(FileNotFoundError, match=f'Did you mean {file}'):
        load_config(tmp_path / 'byol_resnet-50.py')
    with pytest.raises(FileNotFoundError, match='is a folder'):
        load_config(tmp_path)
    with pytest.raises(ValueError, match='has no train_cgf. Did you mean train_cfg'):
        load_config(file, {'train_cgf.max_epochs': 2})
    with pytest.raises(ValueError, match='--cfg-options do not fit'):
        load_config(file, {'train_cfg.max_epochs.deeper': 2})
    (tmp_path / 'notes.txt').touch()
    with pytest.raises(ValueError, match='should end in'):
        load_config(tmp_path / 'notes.txt')


@pytest.mark.parametrize(
    ('text', 'module'),
    [
        ("_base_ = __import__('mmseg').__path__[0] + '/.mim/configs/x.py'", 'mmseg'),
        ("default_scope = 'mmdet'", 'mmcv.ops'),
        ("_base_ = 'mmrotate::a/x.py'", 'mmrotate'),
    ],
)
def test_config_of_a_library_that_is_not_there(tmp_path, monkeypatch, text, module):
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / 'x.py').write_text(text)
    with pytest.raises(ValueError, match=f'needs a library that is not installed: .*{module}'):
        load_config(tmp_path / 'x.py')


def test_require_keys():
    with pytest.raises(ValueError, match='not a config for testing: it has no b and no c'):
        require_keys(Config(dict(a=1, b=None)), ('a', 'b', 'c'), 'testing')


def raised(function) -> Exception:
    try:
        function()
    except Exception as error:
        return error


def test_only_errors_of_this_package_are_the_users():
    assert explain_error(raised(lambda: load_config('nowhere.py')))
    assert explain_error(raised(lambda: int('no number'))) is None
    assert explain_error(raised(lambda: torch.zeros(2) + torch.zeros(3))) is None


def test_run_tool_ends_with_one_message(monkeypatch, capsys):
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '0')
    monkeypatch.delenv('MMMOKD_TRACEBACK', raising=False)
    with pytest.raises(SystemExit) as exit_info:
        run_tool(lambda: load_config('nowhere.py'))
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.startswith('error: config nowhere.py does not exist.')
    monkeypatch.setenv('MMMOKD_TRACEBACK', '1')
    with pytest.raises(FileNotFoundError):
        run_tool(lambda: load_config('nowhere.py'))
    with pytest.raises(ZeroDivisionError):
        run_tool(lambda: 1 / 0)


def test_none_leaves_any_default_hook_out(tmp_path):
    hook = dict(type='mmmokd.CheckpointCheckHook')
    cfg = Config(
        dict(
            model=torch.nn.Linear(1, 1),
            work_dir=str(tmp_path),
            experiment_name=tmp_path.name,
            default_hooks=dict(timer=None, kept=hook, left_out=None),
        )
    )
    names = [type(each).__name__ for each in build_runner(cfg).hooks]
    assert 'CheckpointCheckHook' in names and 'LoggerHook' in names
    assert 'IterTimerHook' not in names


def test_what_a_run_shows_first(runner_cfg, monkeypatch):
    """Config, device, threads, folder; then images, iterations and epochs."""
    cfg = runner_cfg()
    cfg.train_dataloader.num_workers = 3
    cfg.test_dataloader = dict(num_workers=5)
    before = torch.get_num_threads()
    monkeypatch.setattr(runtime, 'set_threads', lambda workers, on_gpu: None)
    assert runtime.use_cpus(cfg, training=False) == 5
    assert runtime.use_cpus(cfg, training=True) == 3
    said = runtime.describe_run(cfg, 3)
    assert f': on {get_device()}, {before} thread' in said and ' 3 data workers on ' in said
    assert said.endswith(f'writes to {cfg.work_dir}')


@pytest.mark.parametrize('free', [None, 1])
def test_what_training_is_prepared_for(runner_cfg, monkeypatch, free):
    monkeypatch.setattr(runtime, 'free_shared_memory', lambda: free)
    cfg = runner_cfg()
    cfg.train_dataloader.num_workers = 1
    with short_log():
        runner = build_runner(cfg)
    messages = []
    monkeypatch.setattr(runner.logger, 'info', messages.append)
    monkeypatch.setattr(runner.logger, 'warning', messages.append)
    runtime.prepare_training(runner)
    loader = runner.train_dataloader
    length = f'trains on {len(loader.dataset)} images in batches of {loader.batch_size}: '
    assert messages[-1].startswith(length + f'{len(loader)} iteration')
    assert f' an epoch, {runner.max_epochs} epoch' in messages[-1]
    assert loader.num_workers == (1 if free is None else 0)
    assert len(messages) == (1 if free is None else 2)
