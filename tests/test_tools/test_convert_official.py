# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The two converters, as commands."""

import argparse
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mokd_testing import branch_cfg, build_mokd, model_cfg

from mmmokd.weights import read_checkpoint, read_file, to_official

FOLDER = Path(__file__).resolve().parents[2] / 'tools' / 'model_converters'
TO_OURS, TO_OFFICIAL = FOLDER / 'official_to_mmmokd.py', FOLDER / 'mmmokd_to_official.py'
RESNET = dict(
    type='ResNet', depth=18, stem_channels=8, base_channels=2, zero_init_residual=False,
)  # fmt: skip


def branches(**names) -> dict:
    """Branches as the official code has them, narrow."""
    cnn = branch_cfg('cnn')
    cnn['backbone'] = RESNET
    return {names.get('cnn', 'cnn'): cnn, names.get('vit', 'vit'): branch_cfg('vit')}


def trained_mokd(**names):
    """A model in which no two tensors are alike: teachers, centers and BN statistics moved."""
    model = build_mokd(branches(**names))
    generator = torch.Generator().manual_seed(3)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(torch.rand(value.shape, generator=generator))
        else:
            value.add_(torch.randint(1, 99, (), generator=generator))
    return model


@pytest.fixture(scope='module')
def mokd():
    return trained_mokd()


@pytest.fixture
def official(mokd) -> dict:
    """Save what the authors' training saves."""
    optimizer = torch.optim.AdamW(mokd.branches.vit.student.backbone.parameters())
    return dict(
        to_official(mokd.state_dict()),
        epoch=7,
        arch_cnn='resnet18',
        arch_vit='vit_tiny',
        args=argparse.Namespace(lr=0.1, crops=[0.25, 1.0], nested=argparse.Namespace(out='a')),
        optimizer_cnn=optimizer.state_dict(),
        fp16_scaler_cnn=dict(scale=1.0),
    )


@pytest.fixture
def convert(monkeypatch, capsys):
    """Run a converter in this process: its exit status, and what it printed."""

    def convert(tool, *arguments) -> tuple[int, str]:
        monkeypatch.setattr('sys.argv', [tool.name, *map(str, arguments)])
        monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')  # to be put back: the tool sets it
        status = 0
        try:
            runpy.run_path(str(tool), run_name='__main__')
        except SystemExit as end:
            status = end.code
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return convert


def save(path, content):
    torch.save(content, path)
    return path


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value), key


def test_round_trip_bit_for_bit(run, convert, mokd, official, tmp_path):
    theirs = save(tmp_path / 'theirs.pth', official)
    config = tmp_path / 'config.py'
    Config(dict(model=model_cfg(branches()), default_scope='mmpretrain')).dump(config)
    ours = tmp_path / 'new' / 'ours.pth'
    done = run(sys.executable, TO_OURS, theirs, ours, '--config', config, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert f'every weight fits {config}, and none is missing' in done.stdout
    assert 'left out: args, fp16_scaler_cnn, optimizer_cnn' in done.stdout

    checkpoint = read_checkpoint(ours)
    assert checkpoint['meta'] == dict(epoch=7, arch_cnn='resnet18', arch_vit='vit_tiny')
    assert_same(checkpoint['state_dict'], mokd.state_dict())
    model = build_mokd(branches(), seed=5)
    model.load_state_dict(checkpoint['state_dict'], strict=True)
    assert_same(model.state_dict(), mokd.state_dict())

    status, printed = convert(TO_OFFICIAL, ours, tmp_path / 'back.pth')
    assert status == 0, printed
    back = read_file(tmp_path / 'back.pth')
    kept = {key: value for key, value in official.items() if key not in ('args', 'optimizer_cnn')}
    del kept['fp16_scaler_cnn']
    assert back.keys() == kept.keys()
    for key, value in kept.items():
        if isinstance(value, dict):
            assert_same(back[key], value)
        else:
            assert back[key] == value
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'back.pth', 'config.py', 'new', 'theirs.pth',
    ]  # fmt: skip


def test_other_names_and_further_branches(convert, tmp_path):
    model = build_mokd(dict(branches(cnn='r18', vit='tiny'), third=branch_cfg('next')))
    state_dict = model.state_dict()
    ours = save(tmp_path / 'ours.pth', dict(state_dict=state_dict, meta=dict(epoch=3, iter=9)))
    theirs = tmp_path / 'theirs.pth'
    status, printed = convert(TO_OFFICIAL, ours, theirs, '--branches', 'r18', 'tiny')
    assert status == 0, printed
    back = tmp_path / 'back.pth'
    assert convert(TO_OURS, theirs, back, '--branches', 'r18', 'tiny')[0] == 0
    pair = {key: value for key, value in state_dict.items() if 'third' not in key}
    assert f'{len(state_dict) - len(pair)} tensors of other branches' in printed
    checkpoint = read_checkpoint(back)
    assert checkpoint['meta'] == dict(epoch=3)
    assert_same(checkpoint['state_dict'], pair)

    for names, message in (
        (
            ('tiny', 'r18'),
            "branches 'tiny' and 'r18' are not a ResNet and a ViT as the official code",
        ),
        (('third', 'tiny'), 'there is no place for backbone.'),
        (('r18', 'third'), 'third lacks backbone.cls_token'),
        (('cnn', 'tiny'), "no branch 'cnn' in the checkpoint; it has ['r18', 'third', 'tiny']"),
    ):
        status, printed = convert(TO_OFFICIAL, ours, tmp_path / 'no.pth', '--branches', *names)
        assert status == 2 and message in printed
    assert not (tmp_path / 'no.pth').exists()


def test_weights_without_centers_convert(convert, official, tmp_path):
    networks = {key: value for key, value in official.items() if key[:7] in ('student', 'teacher')}
    source = save(tmp_path / 'theirs.pth', networks)
    status, printed = convert(TO_OURS, source, tmp_path / 'ours.pth')
    assert status == 0 and 'no centers: the source has none' in printed
    assert not any('center' in key for key in read_checkpoint(tmp_path / 'ours.pth')['state_dict'])


def damaged(official, how) -> dict | list:
    """The authors' checkpoint with something wrong."""
    weights = dict(official['student_cnn'])
    if how == 'network':
        return {key: value for key, value in official.items() if key != 'teacher_vit'}
    if how == 'tensor':
        del weights['module.backbone.bn1.weight']
    elif how == 'head':
        weights = {key: value for key, value in weights.items() if 'transhead' not in key}
    elif how == 'kind':
        return {'state_dict': weights}
    elif how == 'list':
        return [weights]
    else:
        weights = how
    return {**official, 'student_cnn': weights}


@pytest.mark.parametrize(
    'how, message',
    [
        (
            'network',
            "not an official MOKD checkpoint: ['teacher_vit'] are missing, there are arch_cnn",
        ),
        ('kind', "'student_vit', 'teacher_vit'] are missing, there are state_dict"),
        ('tensor', 'should have the same weights, but only one has backbone.bn1.weight'),
        ('head', 'student_cnn of the official checkpoint lacks transhead.patch_embed.*'),
        ('list', 'holds a list, not an official MOKD checkpoint'),
        (3, 'student_cnn of the official checkpoint is not a dict of weights'),
    ],
)
def test_another_kind_of_checkpoint(convert, official, tmp_path, how, message):
    source = save(tmp_path / 'theirs.pth', damaged(official, how))
    status, printed = convert(TO_OURS, source, tmp_path / 'ours.pth')
    assert status == 2 and message in printed and 'Traceback' not in printed
    assert not (tmp_path / 'ours.pth').exists()


def test_another_model_than_the_configs(convert, official, tmp_path):
    source = save(tmp_path / 'theirs.pth', official)
    config = tmp_path / 'config.py'
    for names, message in (({'vit': 'other'}, 'lacks'), ({}, 'size mismatch')):
        model = model_cfg(branches(**names))
        model['branches']['cnn']['backbone'] = dict(RESNET, stem_channels=16)
        Config(dict(model=model)).dump(config)
        status, printed = convert(TO_OURS, source, tmp_path / 'ours.pth', '--config', config)
        assert status == 2 and f'error: {source} ' in printed
        assert message in printed or 'size mismatch' in printed
    assert not (tmp_path / 'ours.pth').exists()


@pytest.mark.parametrize('tool', [TO_OURS, TO_OFFICIAL])
def test_files_that_cannot_be_read(convert, official, tmp_path, tool):
    target, sprung = tmp_path / 'target.pth', tmp_path / 'sprung'
    good = save(tmp_path / 'good.pth', official)
    cut, text, empty = (tmp_path / name for name in ('cut.pth', 'text.pth', 'empty.pth'))
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    text.write_text('no checkpoint')
    empty.touch()

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(sprung),)

    trap = save(tmp_path / 'trap.pth', {**official, 'args': Trap()})
    for source, message in (
        (tmp_path / 'goood.pth', f'does not exist. Did you mean {good}'),
        (tmp_path, 'is a folder, not a file'),
        (cut, 'is damaged or not a checkpoint'),
        (text, 'found no PyTorch format'),
        (empty, 'is damaged or not a checkpoint'),
        (trap, '(found GLOBAL posix.mkdir)'),
    ):
        status, printed = convert(tool, source, target)
        assert status == 2 and f'error: checkpoint {source} ' in printed and message in printed
        assert 'Traceback' not in printed
    assert not sprung.exists() and not target.exists()


def test_targets_that_cannot_be_written(convert, mokd, tmp_path, monkeypatch):
    source = save(tmp_path / 'ours.pth', mokd.state_dict())
    taken = save(tmp_path / 'taken.pth', 'of somebody')
    for target, message in (
        (taken, f'{taken} already exists: choose another file, or pass --force'),
        (tmp_path, f'{tmp_path} is a folder: name the file to write'),
        (taken / 'a.pth', f'cannot write to the folder {taken}'),
    ):
        status, printed = convert(TO_OFFICIAL, source, target)
        assert status == 2 and f'error: {message}' in printed

    def full(content, path):
        Path(path).write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as context:
        context.setattr('torch.save', full)
        status, printed = convert(TO_OFFICIAL, source, taken, '--force')
    assert status == 2 and 'No space left on device' in printed
    assert torch.load(taken) == 'of somebody'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['ours.pth', 'taken.pth']

    assert convert(TO_OFFICIAL, source, taken, '--force')[0] == 0
    assert read_file(taken).keys() >= {'student_cnn', 'teacher_vit', 'loss_vit_thead_fn'}
