# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Every command line of the pages runs, at a tiny size.

A block of a page runs as it stands, by bash, in a room that has the tools, small configs under the
names of the shipped ones, and a few drawn images. Only what a page cannot know is replaced
(``REPLACED``): the reader's own files, and numbers of GPUs.
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transfer_testing
from config_testing import dicts, draw_image
from mmengine.config import Config
from mmpretrain.models import VisionTransformer as ViT
from mokd_testing import short_log
from PIL import Image
from weights_testing import save_mokd, write_classifier

from mmmokd.cli.config import set_dataloader_defaults
from mmmokd.engine.runners.build_runner import build_runner
from mmmokd.weights import read_checkpoint, to_official

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
MOKD = Path('configs/mokd')
PAPER = MOKD / 'mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k.py'
PRETRAINING = (
    PAPER,
    MOKD / 'mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder.py',
    MOKD / 'mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder-knn.py',
)
LINEAR = MOKD / 'benchmarks/classification/resnet50_8xb128-linear-coslr-100e_in1k.py'
DENSE = (
    MOKD / 'benchmarks/detection/mask-rcnn_r50_fpn_1x_coco.py',
    MOKD / 'benchmarks/segmentation/upernet_vit-small-p16_8xb2-160k_ade20k-512x512.py',
)
# Commands that are run by other tests, that install, or that need lists which are not ours to ship.
ELSEWHERE = (
    'bash tools/quickstart.sh',  # test_quickstart.py
    'python tools/quickstart/summarize.py',  # test_quickstart_summarize.py
    'bash tools/run_tests.sh',  # what runs this test
    'bash tools/setup_env.sh',  # what made its environment
    'pip install',  # likewise
    'sphinx-build',  # test_docs.py
    'bash tools/transfer.sh CHECKPOINT BRANCH CONFIG [GPUS]',  # a synopsis
    'for part in 1percent 10percent',
    'for branch in cnn vit',  # test_benchmark_transfer.py
    'for config in mask-rcnn_cnn_fpn',  # test_coco_mini.py
    'python tools/analysis_tools/analyze_locality.py',  # test_analyze_locality.py
    'python tools/train.py configs/mokd/variants/',  # test_variants.py
    'python tools/benchmarks/rivals.py',  # test_rivals.py
    'python tools/benchmarks/imagenet.py',  # test_imagenet.py
    *(
        f'{command} configs/{name}/'  # test_configs_rivals.py
        for command in ('python tools/train.py', 'bash tools/dist_train.sh')
        for name in ('dino', 'dogo', 'mcl', 'seed', 'bingo', 'compress', 'disco')
    ),
    'python tools/train.py $CONFIG --cfg-options train_dataloader.batch_size=256',  # dist_train.sh
    'python tools/dataset_converters/find_neighbors.py',  # test_find_neighbors.py
    'python tools/train.py $CIFAR',  # test_configs.py, test_device_views_hook.py
    'python tools/cache_features.py CONFIG',  # test_cache_features.py
    'python tools/train.py CONFIG --cfg-options model.branches.vit.cache',  # likewise
)
REPLACED = (
    (r'mmmokd::(?=mokd/)', 'configs/'),  # those of the package are large: test_config_paths.py
    (r'/my/images\b', 'ROOM/images'),
    (r'/more\b', 'ROOM/test'),
    (r's3://bucket/images', 'file://ROOM/images'),
    (r'/my/(labell?ed|train)\b', 'ROOM/labeled'),
    (r'/my/test\b', 'ROOM/test'),
    (
        r'check_transfer\.py CHECKPOINT cnn CONFIG',
        'check_transfer.py ROOM/full.pth cnn ROOM/r18.py',
    ),
    (r'export_branch\.py CHECKPOINT', 'export_branch.py ROOM/full.pth'),
    (r'speed\.py$', 'speed.py --rows loss'),  # all of them take a minute
    (r'speed\.py', 'speed.py --quick --rounds 1'),
    (r'benchmark_transfer\.py CONFIG', 'benchmark_transfer.py ROOM/r18.py'),
    (r'work_dirs/\w+/epoch_100\.pth:cnn', 'ROOM/full.pth:cnn'),
    (r'batch_size=\d+', 'batch_size=8'),
    (r'--seeds 0 1 2', '--seeds 0'),
    (r'ours\.pth theirs\.pth', 'ours.pth back.pth'),
    (r'work_dirs/(\.\.\.|my_run)/epoch_100\.pth', 'ROOM/pretrained.pth'),
    (r'(?<=epoch_)\d+(?=\.pth)', '1'),
    (r'(?<![$\w])CONFIG\b(?!=)', str(PAPER)),
    (r'(?<![$\w])CHECKPOINT\b', 'ROOM/pretrained.pth'),
    (r'(?<= )WORK_DIR\b', 'work_dirs/slurm'),
    (r'MAPS CLASSES\.json OUT', 'ROOM/maps ROOM/classes.json contiguous'),
    (r'(dist_\w+\.sh \S+(?: \S+\.pth)?) 8\b', r'\1 2'),
    (r'(transfer\.sh .*(?:\\\n)?.*\.py) 8\b', r'\1 1'),
    (  # both machines, a process on each
        r'NNODES=2 NODE_RANK=0 MASTER_ADDR=[\d.]+ (.*) [28]\b',
        # Each by its number: `wait -n` finds none if both have ended.
        r'ids=; for rank in 0 1; do PORT=FREE NNODES=2 NODE_RANK=$rank \1 1 & ids="$ids $!"; done; '
        r'for id in $ids; do wait $id; done',
    ),
)
PYTHON_REPLACED = (
    ('data/images', 'ROOM/images'),
    ('work_dirs/my_run/epoch_100.pth', 'ROOM/pretrained.pth'),
)
PROGRAMS = {
    'python': f'exec "{sys.executable}" "$@"',
    # One process; without the GPU that Slurm would give, so without the launcher that needs one.
    'srun': 'while [ "${1#--}" != "$1" ]; do shift; done; exec "${@:1:$#-2}"',
}
ASSIGNMENT = re.compile(r'[A-Z]+=("[^"]*"|\$\(.*\)|\S+)')


def read_commands(block: str) -> list[str]:
    """A block's commands: lines, with those that continue them, and loops."""
    commands, current = [], ''
    for line in block.splitlines():
        current += re.sub(r'\s+# .*', '', line) + '\n'
        in_loop = current.startswith('for ') and line.strip() != 'done'
        if not (line.endswith('\\') or current.count('"') % 2 or in_loop):
            commands += [current.strip()] * bool(current.strip())
            current = ''
    assert not current, block
    return commands


def fill_in(command: str) -> str:
    """The command with what its reader fills in."""
    for pattern, text in REPLACED:
        command = re.sub(pattern, text, command)
    return command


PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs' / 'en').rglob('*.md'))]
PAGES += sorted((ROOT / 'configs').rglob('README.md'))


def read_blocks() -> list:
    """Of every block of the pages: variables set so far, and the commands that are new."""
    seen, blocks = set(), []
    for page in PAGES:
        variables = {}
        for block in re.findall(
            r'```(?:shell|bash|console)\n(.*?)```', page.read_text(), re.DOTALL
        ):
            new = {}
            for command in read_commands(block):
                if ASSIGNMENT.fullmatch(command):
                    name, value = fill_in(command).split('=', 1)
                    variables[name] = value
                elif not command.startswith(ELSEWHERE):
                    command = fill_in(command)
                    lines = [f'{k}={v}' for k, v in variables.items()] * ('$' in command)
                    new[spell_out(command, variables)] = '\n'.join([*lines, command])
            scripts = [script for command, script in new.items() if command not in seen]
            if scripts:
                tool = re.search(r'tools/(?:\w+/)*(\w+)\.', scripts[0])[1]
                blocks.append(pytest.param(scripts, id=f'{page.relative_to(ROOT)}:{tool}'))
            seen.update(new)
    return blocks


def spell_out(command: str, variables: dict[str, str]) -> str:
    """A command in one line, without variables: pages may write the same one in several ways."""
    for name, value in reversed(variables.items()):
        value = value.strip('"').replace('\\', r'\\')
        command = re.sub(rf'"?\${name}\b"?', value, command)
    return ' '.join(command.replace('\\\n', ' ').split())


def read_scripts() -> list:
    """The Python blocks that import something; test_docs.py has those that are pieces of configs."""
    return [
        pytest.param(block, id=page.relative_to(ROOT).as_posix())
        for page in PAGES
        for block in re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL)
        if re.search(r'^(from|import) ', block, re.MULTILINE)
    ]


def shrink(path: Path) -> Config:
    """A shipped config, made to train on a few small images in a second."""
    cfg = Config.fromfile(ROOT / path)
    embed_dims = ViT.arch_zoo[cfg.model.branches.vit.backbone.arch]['embed_dims'] // 8
    cfg.model.update(
        global_size=64,
        neck_defaults=dict(
            out_channels=16, embed_dims=embed_dims, hid_channels=32, bottleneck_channels=16
        ),
    )
    for branch in cfg.model.branches.values():
        backbone = branch.backbone
        if backbone.type == 'ResNet':
            backbone.update(base_channels=8, stem_channels=8)
        else:
            arch = ViT.arch_zoo[backbone.arch]
            backbone.arch = dict(
                arch, embed_dims=embed_dims, feedforward_channels=arch['feedforward_channels'] // 8
            )
            backbone.img_size = 64
    for node in dicts(cfg._cfg_dict):
        if node.get('type') == 'mmmokd.MultiCrop':
            for number, group in enumerate(node['groups']):
                group.update(size=64 if number < 2 else 32, num=1)
    return make_short(cfg)


def make_short(cfg: Config) -> Config:
    """One epoch of a few steps, no workers."""
    for node in dicts(cfg._cfg_dict):
        if node.get('warmup'):
            node.setdefault('base_length', 100)
        elif 'dataset' in node and 'sampler' in node:
            node.update(num_workers=0, persistent_workers=False, pin_memory=False, batch_size=8)
    length = (
        {'max_iters': 2, 'val_interval': 2} if 'max_iters' in cfg.train_cfg else {'max_epochs': 1}
    )
    cfg.train_cfg.update(length)
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.checkpoint.update(interval=length.get('max_iters', 1), save_last=True)
    return cfg


def write_data(room: Path) -> None:
    rng = np.random.default_rng(0)
    classes = ('n01440764', 'n01443537')
    for number in range(40):  # as many as the neighbors that are asked for, and more
        draw_image(room / 'labeled' / classes[number % 2] / f'{number}.png', rng, size=40)
    for number in range(8):
        draw_image(room / 'images' / f'{number}.png', rng)
        draw_image(room / 'test' / classes[number % 2] / f'{number}.png', rng)
    meta = room / 'data' / 'imagenet' / 'meta'
    meta.mkdir(parents=True)
    for split, folder in (('train', room / 'labeled'), ('val', room / 'test')):
        (meta.parent / split).symlink_to(folder)
        files = [file.relative_to(folder) for file in folder.rglob('*.png')]
        lines = [f'{file} {classes.index(str(file.parent))}' for file in files]
        (meta / f'{split}.txt').write_text('\n'.join(lines))
    transfer_testing.make_data(room / 'scenes')
    (room / 'maps').mkdir()
    Image.fromarray(np.array([[1, 7], [0, 7]], np.uint8)).save(room / 'maps' / '0.png')
    classes = [dict(id=1, name='person'), dict(id=7, name='train')]
    (room / 'classes.json').write_text(json.dumps(classes))


def write_configs(room: Path) -> None:
    configs = {path: shrink(path) for path in PRETRAINING}
    cfg = Config.fromfile(ROOT / LINEAR)
    cfg.model.backbone.update(base_channels=8, stem_channels=8)
    cfg.model.head.in_channels = 256
    configs[LINEAR] = make_short(cfg)
    for path in DENSE:
        cfg = transfer_testing.small_config(ROOT / path, room / 'scenes', room)
        for key in ('work_dir', 'experiment_name'):
            cfg.pop(key)
        configs[path] = make_short(cfg)
    for path, cfg in configs.items():
        (room / path).parent.mkdir(parents=True, exist_ok=True)
        cfg.dump(room / path)


def pretrain(room: Path) -> None:
    """A checkpoint of the paper's pair, ours and in the format of the authors."""
    cfg = Config.fromfile(room / PAPER)
    cfg.work_dir, cfg.launcher, cfg.experiment_name = str(room / 'pretraining'), 'none', room.name
    cfg.train_dataloader.dataset.data_root = str(room / 'data' / 'imagenet')
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    set_dataloader_defaults(cfg)
    with short_log():
        build_runner(cfg).train()
    shutil.copy(room / 'pretraining' / 'epoch_1.pth', room / 'pretrained.pth')
    theirs = to_official(read_checkpoint(room / 'pretrained.pth')['state_dict'])
    torch.save(dict(theirs, args=argparse.Namespace(arch_cnn='resnet50')), room / 'theirs.pth')


@pytest.fixture(scope='module')
def room(tmp_path_factory, tiny_config) -> Path:
    """A folder to run the commands in."""
    room = tmp_path_factory.mktemp('room')
    write_data(room)
    write_configs(room)
    pretrain(room)
    save_mokd(room / 'full.pth')
    write_classifier(room, tiny_config)
    (room / 'tools').symlink_to(ROOT / 'tools')
    for name, text in PROGRAMS.items():
        for folder in ('bin', '.venv/bin'):
            program = room / folder / name
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(f'#!/usr/bin/env bash\n{text}\n')
            program.chmod(0o755)
    return room


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize('scripts', read_blocks())
def test_block(scripts, room, cpu_env):
    environment = {
        **cpu_env,
        'PATH': f'{room / "bin"}:{os.environ["PATH"]}',
        'WANDB_SILENT': 'true',
    }
    for script in scripts:
        if re.search(r'tools/(dist_)?train\.', script):
            shutil.rmtree(room / 'work_dirs', ignore_errors=True)
        script = script.replace('ROOM', str(room)).replace('FREE', str(free_port()))
        done = subprocess.run(
            ['bash', '-euo', 'pipefail', '-c', script],
            cwd=room,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f'{script}\n{done.stdout}'
        # torchrun logs an error where the other machine's agent leaves its exit barrier first.
        lines = [x for x in done.stdout.splitlines() if '/elastic/agent/server/api.py:' not in x]
        assert not any('Traceback' in line for line in lines), f'{script}\n{done.stdout}'


@pytest.mark.parametrize('script', read_scripts())
def test_python_block(script, room, monkeypatch):
    monkeypatch.chdir(room)
    for text, replacement in PYTHON_REPLACED:
        script = script.replace(text, replacement.replace('ROOM', str(room)))
    exec(compile(script, 'page', 'exec'), {})
