# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import sys
from collections import OrderedDict

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger

from mmmokd.registry import VISBACKENDS

IMAGE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


@pytest.mark.parametrize('name', ['WandbVisBackend', 'MLflowVisBackend'])
def test_missing_package_is_named_with_the_way_to_it(name, tmp_path, monkeypatch):
    package = name.removesuffix('VisBackend').lower()
    monkeypatch.setitem(sys.modules, package, None)
    backend = VISBACKENDS.build(dict(type=f'mmmokd.{name}', save_dir=str(tmp_path)))
    with pytest.raises(ValueError, match=f'logs to {package}, .*setup_env.sh loggers'):
        backend.add_config(Config(dict(lr=0.1)))


def test_wandb_keeps_config_scalars_and_images(tmp_path, monkeypatch):
    wandb = pytest.importorskip('wandb')
    for name in ('DATA', 'CACHE', 'CONFIG'):
        monkeypatch.setenv(f'WANDB_{name}_DIR', str(tmp_path / name))
    monkeypatch.setenv('WANDB_MODE', 'offline')
    backend = VISBACKENDS.build(dict(type='mmmokd.WandbVisBackend', save_dir=str(tmp_path)))
    backend.add_config(Config(dict(model=dict(branches=dict(cnn=dict(width=8))))))
    backend.add_scalars({'cnn.loss_sm': 1.5, 'iter': 50})
    backend.add_scalar('cnn.teacher/knn_top1', 70.5)
    backend.add_image('crops', IMAGE)
    run = wandb.run
    assert run.config['model'] == {'branches': {'cnn': {'width': 8}}}
    assert run.summary['cnn.loss_sm'] == 1.5 and run.summary['cnn.teacher/knn_top1'] == 70.5
    backend.close()
    assert wandb.run is None
    assert len(list(tmp_path.rglob('crops*.png'))) == 1
    assert len(list(tmp_path.rglob('*.wandb'))) == 1


def test_wandb_that_does_not_start_is_one_message(tmp_path, monkeypatch):
    wandb = pytest.importorskip('wandb')

    def refuse(**kwargs):
        raise wandb.errors.UsageError('No API key configured')

    monkeypatch.setattr(wandb, 'init', refuse)
    backend = VISBACKENDS.build(dict(type='mmmokd.WandbVisBackend', save_dir=str(tmp_path)))
    with pytest.raises(ValueError, match='No API key configured.*WANDB_MODE=offline'):
        backend.add_scalar('loss', 1.0)


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """mlflow, set to nothing, in a working folder of its own."""
    mlflow = pytest.importorskip('mlflow')
    monkeypatch.setenv('MLFLOW_TRACKING_URI', '')
    monkeypatch.chdir(tmp_path)
    # mmengine's backend reopens closed streams, and fails for those of a console that a test captured.
    monkeypatch.setattr(MMLogger, '_instance_dict', OrderedDict())
    yield mlflow
    mlflow.set_tracking_uri(None)


def test_mlflow_keeps_config_scalars_and_images(mlflow, tmp_path):
    backend = VISBACKENDS.build(
        dict(type='mmmokd.MLflowVisBackend', save_dir=str(tmp_path / 'run'))
    )
    work_dir = tmp_path / 'work_dir'
    work_dir.mkdir()
    (work_dir / 'run.log').write_text('Epoch(train)')
    backend.add_config(
        Config(dict(work_dir=str(work_dir), crops=[[2, 64], [8, 32]], note='x' * 9000))
    )
    backend.add_scalars({'cnn.loss_cm.vit': 1.5, 'cnn.teacher/knn_top1': 70.5}, step=50)
    backend.add_image('crops', IMAGE, step=50)
    backend.close()

    client = mlflow.MlflowClient(f'sqlite:///{tmp_path}/mlflow.db')
    (found,) = client.search_runs(['0'])
    assert found.info.status == 'FINISHED'
    assert found.data.params['crops'] == '[[2, 64], [8, 32]]'
    assert found.data.metrics == {'cnn.loss_cm.vit': 1.5, 'cnn.teacher/knn_top1': 70.5}
    (value,) = client.get_metric_history(found.info.run_id, 'cnn.loss_cm.vit')
    assert value.step == 50
    files = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert {'config.py', 'run.log'} <= files
    images = [file.path for file in client.list_artifacts(found.info.run_id, 'images')]
    assert any(path.endswith('.png') for path in images), images


def test_mlflow_writes_where_its_environment_says(mlflow, tmp_path, monkeypatch):
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/other.db')
    backend = VISBACKENDS.build(
        dict(type='mmmokd.MLflowVisBackend', save_dir=str(tmp_path / 'run'))
    )
    backend.add_scalar('loss', 1.0)
    backend.experiment.end_run()
    assert (tmp_path / 'other.db').is_file() and not (tmp_path / 'mlflow.db').exists()


def test_mlflow_that_does_not_reach_its_store_is_one_message(mlflow, tmp_path):
    store = 'nosuchscheme://store'
    backend = VISBACKENDS.build(
        dict(type='mmmokd.MLflowVisBackend', save_dir=str(tmp_path), tracking_uri=store)
    )
    with pytest.raises(ValueError, match=f'MLflow does not work with tracking_uri {store}'):
        backend.add_scalar('loss', 1.0)
