# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import functools
import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from mmengine.config import Config

from mmmokd.engine.runners.run_folder import claim_run_folder
from mmmokd.weights import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
TRAIN = (sys.executable, 'tools/train.py')
TEST = (sys.executable, 'tools/test.py')
EPOCHS = 40


@pytest.fixture(scope='module')
def whole_run(run, tiny_config, tmp_path_factory) -> Path:
    """The work_dir of a run of 40 epochs that nothing interrupted."""
    work_dir = tmp_path_factory.mktemp('whole')
    done = run(*train_command(tiny_config, work_dir))
    assert done.returncode == 0, done.stdout
    return work_dir


def train_command(config: Path, work_dir: Path, *more: str) -> list[str]:
    options = ('--no-validate', '--cfg-options', f'train_cfg.max_epochs={EPOCHS}')
    return [*map(str, (*TRAIN, config, '--work-dir', work_dir, *more, *options))]


@pytest.fixture
def train_here(monkeypatch, capsys):
    """Run tools/train.py in this process: its exit status, and what it printed."""

    def train(*arguments) -> tuple[int, str]:
        monkeypatch.setattr('sys.argv', ['train.py', *map(str, arguments)])
        monkeypatch.setattr('mmmokd.cli.config.get_device', lambda: 'cpu')
        for name in ('LOCAL_RANK', 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'):
            monkeypatch.setenv(name, '0')  # to be put back: the tool sets them
        with pytest.raises(SystemExit) as exit_info:
            runpy.run_path(str(ROOT / 'tools' / 'train.py'), run_name='__main__')
        printed = capsys.readouterr()
        return exit_info.value.code, printed.out + printed.err

    return train


def test_help_names_every_argument(train_here):
    status, printed = train_here('--help')
    assert status == 0
    for name in ('--work-dir', '--amp', '--resume', '--no-validate', '--auto-scale-lr'):
        assert name in printed


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--amp'], '--amp needs a GPU or a CPU with AVX512-BF16 or AMX, but neither is'),
        (['--resume', 'nowhere/epoch_3.pth'], 'checkpoint nowhere/epoch_3.pth does not exist'),
        (['--launcher', 'slurm'], '--launcher slurm needs GPUs'),
        (['--cfg-options', 'max_epochs=3'], 'Did you mean train_cfg.max_epochs?'),
        (['--cfg-options', 'train_cfg.max_epoch=3'], 'Did you mean max_epochs?'),
        (['--cfg-options', 'max_epochs'], "'max_epochs' is not of the form KEY=VALUE"),
        (['--cfg-options', 'train_dataloader=None'], 'it has no train_dataloader'),
        (['--auto-scale-lr', '--cfg-options', 'auto_scale_lr=None'], 'it has no auto_scale_lr'),
    ],
)
def test_mistake_is_one_message(train_here, tiny_config, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr('mmmokd.engine.runners.build_runner.get_device', lambda: 'cpu')
    monkeypatch.setattr('mmmokd.engine.optimizers.precision._has_bfloat16', lambda device: False)
    status, printed = train_here(tiny_config, '--work-dir', tmp_path, *arguments)
    assert status == 2
    assert message in printed


@pytest.mark.parametrize(
    'part, message',
    [
        ('train_cfg=dict(max_epoch=1)', 'train_cfg of the config takes no max_epoch. Did you'),
        (
            'train_dataloader=dict(bach_size=1)',
            'train_dataloader of the config takes no bach_size. Did you mean batch_size?',
        ),
        (
            'train_dataloader=dict(dataset=dict(data_rot=1))',
            'train_dataloader.dataset (CustomDataset) of the config takes no data_rot. Did you',
        ),
        (
            'default_hooks=dict(logger=dict(intervall=1))',
            'default_hooks.logger (LoggerHook) of the config takes no intervall. Did you',
        ),
        (
            "model=dict(backbone=dict(type='LeNett5'))",
            "no model is registered as 'LeNett5'. Did you",
        ),
    ],
)
def test_mistake_in_the_config_is_one_message(train_here, tiny_config, tmp_path, part, message):
    config = tmp_path / f'{tmp_path.name}.py'  # runs of one second would share their logger
    config.write_text(f'_base_ = {str(tiny_config)!r}\n{part}\n')
    status, printed = train_here(config, '--work-dir', tmp_path)
    assert status == 2
    assert message in printed and 'Traceback' not in printed
    assert [*tmp_path.iterdir()] == [config]  # said before anything is written


def test_wrong_config_path_is_one_message(run, tiny_config):
    wrong = tiny_config.with_name('lenet5-tiny.py')
    done = run(*TRAIN, wrong)
    assert done.returncode == 2
    assert f'error: config {wrong} does not exist. Did you mean {tiny_config}' in done.stdout
    assert 'Traceback' not in done.stdout


def test_default_work_dir_validation_and_test(run, tiny_config, tmp_path):
    tools = ROOT / 'tools'
    done = run(sys.executable, tools / 'train.py', tiny_config, '--auto-scale-lr', cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert 'Scaling the original LR by 1.0' in done.stdout
    checkpoint = tmp_path / 'work_dirs' / 'lenet5_tiny' / 'epoch_1.pth'
    validated = [line for line in done.stdout.splitlines() if 'accuracy/top1' in line][-1]

    out = tmp_path / 'results' / 'metrics.json'
    done = run(
        sys.executable, tools / 'test.py', tiny_config, checkpoint, '--out', out, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout
    top1 = json.loads(out.read_text())['accuracy/top1']
    assert f'accuracy/top1: {top1:.4f}' in validated


def test_killed_run_resumes_to_the_same_weights(run, cpu_env, whole_run, tiny_config, tmp_path):
    command = train_command(tiny_config, tmp_path, '--resume')
    with open(tmp_path / 'first.log', 'w') as log:
        process = subprocess.Popen(command, cwd=ROOT, env=cpu_env, stdout=log)
    deadline = time.monotonic() + 120
    while not (tmp_path / 'epoch_3.pth').exists() and time.monotonic() < deadline:
        assert process.poll() is None, 'ended too early'
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / f'epoch_{EPOCHS}.pth').exists(), 'killed too late'
    first_log = (tmp_path / 'first.log').read_text()
    assert f'nothing to resume in {tmp_path}: starting' in first_log
    # As if the kill had come in the middle of writing the newest checkpoint.
    named = (tmp_path / 'last_checkpoint').read_text()  # empty, if the kill came as it was written
    newest = Path(named or max(tmp_path.glob('epoch_*.pth'), key=lambda file: file.stat().st_mtime))
    newest.write_bytes(newest.read_bytes()[:-100])

    done = run(*command)
    assert done.returncode == 0, done.stdout
    assert f'{newest} is cut short and left out' in done.stdout
    assert f'resuming from {tmp_path / "epoch_"}' in done.stdout
    resumed, whole = (
        read_checkpoint(folder / f'epoch_{EPOCHS}.pth') for folder in (tmp_path, whole_run)
    )
    assert resumed['meta']['iter'] == whole['meta']['iter'] == 4 * EPOCHS
    for key, value in whole['state_dict'].items():
        assert torch.equal(resumed['state_dict'][key], value), key


def members_alive(group):
    """Processes of a group but those that have ended, and wait for their parent to notice."""
    alive = []
    for process in psutil.process_iter(['cmdline', 'status']):
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info['status'] != psutil.STATUS_ZOMBIE:
                alive.append(process.info)
    return alive


def test_interrupted_run_says_how_to_resume(run, cpu_env, tiny_config, tmp_path):
    command = train_command(tiny_config, tmp_path, '--overwrite')
    command += ['train_dataloader.num_workers=2', 'train_cfg.max_epochs=60']
    how = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    # The tests themselves may have been told to ignore it.
    how['preexec_fn'] = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=ROOT, env=cpu_env, **how)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if '[2][1/4]' in line:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            break
    lines += process.communicate(timeout=60)[0].splitlines(keepends=True)
    text = ''.join(lines)
    assert process.returncode == 130, text
    assert 'Traceback' not in text
    until = time.monotonic() + 20
    while left := members_alive(process.pid):
        assert time.monotonic() < until, left
        time.sleep(0.1)
    said = re.search(
        r'^interrupted after epoch \d+(?:, iteration [1-4] of 4)?, newest checkpoint '
        rf'{tmp_path}/epoch_\d+.pth; resume with: (.*)\n\Z', text, re.MULTILINE,
    )  # fmt: skip
    assert said, text
    assert not list(tmp_path.glob('.*.part'))

    done = run(*shlex.split(said[1]))
    assert done.returncode == 0, done.stdout
    assert f'resuming from {tmp_path / "epoch_"}' in done.stdout
    assert (tmp_path / 'epoch_60.pth').exists()


def test_run_is_not_written_over(train_here, whole_run, tiny_config):
    before = sorted(whole_run.iterdir())
    status, printed = train_here(tiny_config, '--work-dir', whole_run)
    assert status == 2 and printed.count('\n') <= 3
    assert f'{whole_run} holds checkpoints of an earlier run (epoch_' in printed
    assert '--resume' in printed and '--work-dir' in printed and '--overwrite' in printed
    assert sorted(whole_run.iterdir()) == before
    status, printed = train_here(tiny_config, '--resume', '--overwrite')
    assert status == 2 and '--resume continues the run that --overwrite would rem' in printed


def test_folder_in_use_is_refused(train_here, tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr('mmmokd.engine.runners.run_folder.LOCK_TIMEOUT', 0.0)
    with claim_run_folder(Config(dict(work_dir=str(tmp_path)))):
        status, printed = train_here(tiny_config, '--work-dir', tmp_path)
    assert status == 2 and f'another run writes to {tmp_path} (process {os.getpid()} ' in printed


def test_checkpoint_of_another_model_is_refused(run, whole_run, tiny_config, tmp_path):
    weights = read_checkpoint(whole_run / f'epoch_{EPOCHS}.pth')['state_dict']
    lacking = {key: value for key, value in weights.items() if 'classifier' not in key}
    checkpoint = tmp_path / 'lacking.pth'
    torch.save(lacking, checkpoint)
    done = run(*TEST, tiny_config, checkpoint, '--work-dir', tmp_path)
    assert done.returncode == 2
    assert 'the checkpoint lacks 4 of the 10 weights of ImageClassifier' in done.stdout
    log = next(tmp_path.glob('*/*.log'))
    assert f'traceback: {log}' in done.stdout and 'Traceback' in log.read_text()


def test_resume_with_another_batch_size(run, whole_run, tiny_config, tmp_path):
    """The tool adds the hook; mmengine's schedule is that of a run with four images from the start."""
    command = (*TRAIN, tiny_config, '--work-dir', tmp_path, '--resume', whole_run / 'epoch_2.pth')
    options = ('train_cfg.max_epochs=3', 'train_dataloader.batch_size=4')
    done = run(*command, '--no-validate', '--cfg-options', *options)
    assert done.returncode == 0, done.stdout
    assert 'batch size 2 -> 4, iterations per epoch 4 -> 2, epochs 40 -> 3.' in done.stdout
    assert 'continues after epoch 2, at iteration 4 of 6 (8 in the checkpoint)' in done.stdout
    assert 'auto_scale_lr is off: learning rates stay those of the config' in done.stdout
    rates = [float(rate) for rate in re.findall(r'Epoch\(train\) \[3\].* lr: (\S+)', done.stdout)]
    assert rates == pytest.approx([0.01 * (1 - step / 199) for step in (4, 5)], rel=1e-4)
    assert read_checkpoint(tmp_path / 'epoch_3.pth')['meta']['iter'] == 6
