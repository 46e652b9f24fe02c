# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import os

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from mmmokd.utils.environment import ALLOW_CODE
from mmmokd.utils.errors import CheckpointError
from mmmokd.weights import read_checkpoint, read_file, save_file


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def save(path, state_dict, **more):
    torch.save({'state_dict': state_dict, **more}, path)
    return path


def test_reads_what_mmengine_writes(tmp_path, model):
    history = HistoryBuffer([1.0, 2.0, 4.0], [1, 1, 1])
    meta = dict(epoch=1, iter=np.int64(3), seed=7)
    path = save(
        tmp_path / 'a.pth', model.state_dict(), meta=meta, message_hub=dict(log_scalars=history)
    )
    checkpoint = read_checkpoint(path)
    assert checkpoint['meta'] == meta
    assert checkpoint['message_hub']['log_scalars'].mean() == pytest.approx(7 / 3)
    assert torch.equal(checkpoint['state_dict']['0.weight'], model[0].weight)


@pytest.mark.parametrize('new_format', [True, False])
def test_reads_bare_weights(tmp_path, model, new_format):
    path = tmp_path / 'a.pth'
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=new_format)
    assert list(read_checkpoint(path)['state_dict']) == list(model.state_dict())


class Trap:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize('new_format', [True, False])
def test_never_runs_code_of_a_file(tmp_path, new_format):
    sprung = tmp_path / 'sprung'
    traps = {
        'GLOBAL .*mkdir': Trap(os.mkdir, str(sprung)),
        'getattr.*__init__': Trap(getattr, HistoryBuffer, '__init__'),
    }
    for named, trap in traps.items():
        content = {'state_dict': {'weight': torch.zeros(1)}, 'trap': trap}
        torch.save(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=new_format)
        with pytest.raises(
            ValueError, match=rf'a\.pth is not a file of weights alone \(found {named}'
        ):
            read_checkpoint(tmp_path / 'a.pth')
    assert not sprung.exists()


def test_says_what_is_wrong_with_a_file(tmp_path, model):
    good = save(tmp_path / 'epoch_10.pth', model.state_dict())
    with pytest.raises(FileNotFoundError, match=f'does not exist. Did you mean {good}'):
        read_checkpoint(tmp_path / 'epoch_11.pth')
    (tmp_path / 'cut.pth').write_bytes(good.read_bytes()[:-100])
    (tmp_path / 'empty.pth').touch()
    (tmp_path / 'text.pth').write_text('no checkpoint')
    for name, problem in (('cut', 'damaged'), ('empty', 'damaged'), ('text', 'no PyTorch format')):
        with pytest.raises(ValueError, match=rf'{name}\.pth is .*{problem}'):
            read_checkpoint(tmp_path / f'{name}.pth')
    for content in ({'state_dict': {}}, {'a': 1}, [torch.zeros(1)]):
        torch.save(content, tmp_path / 'none.pth')
        with pytest.raises(ValueError, match='holds no weights'):
            read_checkpoint(tmp_path / 'none.pth')


def test_runs_code_of_a_file_where_it_was_asked_for(tmp_path, monkeypatch):
    content = {
        'state_dict': {'weight': torch.ones(1)},
        'trap': Trap(os.mkdir, str(tmp_path / 'sprung')),
    }
    torch.save(content, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='trust its source, pass --allow-code-from-checkpoint'):
        read_checkpoint(tmp_path / 'a.pth')
    monkeypatch.setenv(ALLOW_CODE, '1')
    assert read_checkpoint(tmp_path / 'a.pth')['state_dict']['weight'] == 1
    assert (tmp_path / 'sprung').is_dir()
    # A caller in Python decides for each call.
    with pytest.raises(CheckpointError, match=r'in Python, allow_code=True'):
        read_checkpoint(tmp_path / 'a.pth', allow_code=False)
    monkeypatch.delenv(ALLOW_CODE)
    (tmp_path / 'sprung').rmdir()
    assert read_checkpoint(tmp_path / 'a.pth', allow_code=True)['state_dict']['weight'] == 1
    assert (tmp_path / 'sprung').is_dir()


def test_safetensors(tmp_path, model):
    path = tmp_path / 'a.safetensors'
    weights = {
        key: value.t() if value.ndim == 2 else value for key, value in model.state_dict().items()
    }
    save_file(weights, path)
    found = read_checkpoint(path)['state_dict']
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], value) for key, value in weights.items())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r'a\.safetensors is damaged'):
        read_file(path)
    assert [file.name for file in tmp_path.iterdir()] == ['a.safetensors']
