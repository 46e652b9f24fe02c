# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmengine.config import Config
from mokd_testing import build_mokd, model_cfg
from weights_testing import PREPROCESSOR, randomize


@pytest.fixture(scope='session')
def tiny_cfg():
    """The config of a tiny MOKD for images of 32 pixels, without data."""
    model = model_cfg()
    del model['data_preprocessor']
    return Config(dict(model=model, data_preprocessor=PREPROCESSOR, default_scope='mmpretrain'))


@pytest.fixture(scope='session')
def tiny_mokd(tmp_path_factory, tiny_cfg):
    """The path of a checkpoint of it, and the model that it is of, in evaluation mode."""
    path = tmp_path_factory.mktemp('tiny_mokd') / 'epoch_1.pth'
    model = build_mokd()
    randomize(model)
    meta = dict(cfg=tiny_cfg.pretty_text)
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path, model.eval()
