# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import logging

import pytest
import torch
from mmengine.config import Config
from weights_testing import PREPROCESSOR

from mmmokd.apis import init_model, list_models
from mmmokd.config_paths import configs_dir
from mmmokd.utils.errors import CheckpointError, ConfigError, MissingFileError

FOLDER = 'mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder'


@pytest.fixture
def cfg(tiny_cfg):
    return Config(tiny_cfg.to_dict())


def assert_same(model, source):
    expected = source.state_dict()
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


# ------------------------------------------------------------------------------ names
def test_models_are_listed_by_name():
    names = list_models()
    assert names == sorted(names) and len(names) > 15 and FOLDER in names
    files = {file.stem: file for file in configs_dir().rglob('*.py')}
    apart = [name for name in files if {'_base_', 'benchmarks'} & set(files[name].parts)]
    assert apart and not set(apart) & set(names)
    assert list_models('mokd_resnet18*', ['*in1k']) == [n for n in list_models('mokd_resnet18')
                                                        if 'in1k' not in n]  # fmt: skip
    assert list_models('*folder-knn') == [f'{FOLDER}-knn']


@pytest.mark.parametrize('name', [FOLDER, f'mmmokd::mokd/{FOLDER}.py', 'path'])
def test_config_by_name(name, caplog):
    path = configs_dir() / 'mokd' / f'{FOLDER}.py'
    model = init_model(path if name == 'path' else name, branch='cnn')
    assert type(model).__name__ == 'ResNet' and not model.training
    assert model._config.filename == str(path)


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (FOLDER[:-2], f'neither the path of a config nor a name of list_models.* mean {FOLDER}'),
        (f'mmmokd::mokd/{FOLDER}s.py', f'does not exist. Did you mean mmmokd::mokd/{FOLDER}'),
        ('gone/config.py', 'config gone/config.py does not exist'),
        ('gone.pth', 'neither the path'),
    ],
)
def test_config_that_does_not_exist(config, message):
    with pytest.raises((MissingFileError, FileNotFoundError), match=message):
        init_model(config)


# ------------------------------------------------------------------------------ weights
def test_algorithm_with_all_weights(tiny_mokd, cfg):
    path, source = tiny_mokd
    model = init_model(cfg, path)
    assert_same(model, source)
    assert not any(module.training for module in model.modules())
    assert model._config.model.type == 'mmmokd.MOKD' and 'data_preprocessor' not in cfg.model
    by_checkpoint = init_model(checkpoint=str(path))
    assert_same(by_checkpoint, source)
    assert by_checkpoint.data_preprocessor.mean.flatten().tolist() == PREPROCESSOR['mean']


@pytest.mark.parametrize('network', ['teacher', 'student'])
@pytest.mark.parametrize('branch', ['cnn', 'vit'])
def test_backbone_with_all_weights(tiny_mokd, cfg, branch, network):
    path, source = tiny_mokd
    model = init_model(cfg, path, branch=branch, network=network)
    expected = source.branches[branch].network(network).backbone
    assert_same(model, expected)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images)[-1], expected(images)[-1])


def test_stages_are_chosen_in_the_config(tiny_mokd, cfg):
    cfg.model.branches.cnn.backbone.out_indices = (0, 1)
    model = init_model(cfg, tiny_mokd[0], branch='cnn')
    with torch.no_grad():
        shapes = [tuple(each.shape) for each in model(torch.zeros(1, 3, 32, 32))]
    assert shapes == [(1, 8, 16, 16), (1, 16, 8, 8)]


def test_model_without_a_checkpoint_says_so(tiny_mokd, cfg, read_log):
    path, source = tiny_mokd
    prefix = 'branches.cnn.teacher.backbone.'
    init = dict(type='Pretrained', checkpoint=str(path), prefix=prefix)
    cfg.model.branches.cnn.backbone.init_cfg = init
    model = init_model(cfg, branch='cnn')
    assert_same(model, source.branches['cnn'].teacher.backbone)  # as its training would start
    (line,) = [line for line in read_log() if 'no checkpoint was given' in line]
    assert (
        logging.getLevelName(logging.WARNING) in line and 'backbone of cnn is not trained' in line
    )


# ------------------------------------------------------------------------------ mistakes
@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(branch='resnet'), "no branch 'resnet': its branches are cnn, vit"),
        (dict(branch='cnn', network='ema'), "network must be teacher or student, but is 'ema'"),
        (dict(config=None, checkpoint=None), 'needs a config, or a checkpoint that keeps one'),
        (dict(config=Config(dict(a=1))), 'the config has no model'),
        (
            dict(config=Config(dict(model=dict(type='ImageClassifier'))), branch='cnn'),
            "no branch 'cnn': it has no branches",
        ),
    ],
)
def test_one_clear_error(tiny_mokd, cfg, arguments, message):
    with pytest.raises(ConfigError, match=message):
        init_model(**{'config': cfg, 'checkpoint': tiny_mokd[0], **arguments})


def test_checkpoint_that_lacks_weights(tmp_path, tiny_mokd, cfg):
    content = torch.load(tiny_mokd[0], weights_only=False)
    weights = content['state_dict']
    for key in [key for key in weights if 'teacher.backbone.layer2.1' in key]:
        del weights[key]
    torch.save(content, tmp_path / 'less.pth')
    for branch in (None, 'cnn'):
        with pytest.raises(CheckpointError, match=r'lacks .*layer2\.1'):
            init_model(cfg, tmp_path / 'less.pth', branch=branch)
    init_model(cfg, tmp_path / 'less.pth', branch='cnn', network='student')
    with pytest.raises(MissingFileError, match='gone.pth does not exist'):
        init_model(cfg, 'gone.pth')
    torch.save(dict(state_dict=weights), tmp_path / 'bare.pth')
    with pytest.raises(CheckpointError, match='keeps no config'):
        init_model(checkpoint=tmp_path / 'bare.pth')


def test_checkpoint_of_one_network(tmp_path, tiny_mokd, cfg, read_log):
    """As that of a branch without EMA teacher."""
    path, source = tiny_mokd
    content = torch.load(path, weights_only=False)
    weights = content['state_dict']
    content['state_dict'] = {k: v for k, v in weights.items() if 'cnn.teacher' not in k}
    torch.save(content, tmp_path / 'student.pth')
    model = init_model(cfg, tmp_path / 'student.pth', branch='cnn')
    assert_same(model, source.branches['cnn'].student.backbone)
    assert any('has the student of cnn only' in line for line in read_log())
    content['state_dict'] = {k: v for k, v in weights.items() if 'branches.cnn' not in k}
    torch.save(content, tmp_path / 'vit.pth')
    with pytest.raises(CheckpointError, match="no branch 'cnn' in .*vit.pth holds vit"):
        init_model(cfg, tmp_path / 'vit.pth', branch='cnn')
