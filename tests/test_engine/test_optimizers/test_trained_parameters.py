# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mokd_testing import short_log
from torch import nn

from mmmokd.engine.optimizers import check_trained_parameters
from mmmokd.engine.runners.build_runner import build_runner
from mmmokd.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(2, 3)
        self.neck = nn.Linear(3, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.tied = self.neck

    def forward(self, inputs, data_samples=None, mode='loss'):
        return dict(loss=self.neck(self.backbone(torch.stack(inputs))).mean())


def wrapper_of(*groups):
    return OptimWrapper(torch.optim.SGD([dict(params=list(group)) for group in groups], lr=0.1))


def test_all_that_learns_is_in_an_optimizer():
    """Frozen parameters may be in one or not, and a module of two names is one."""
    model = Model()
    check_trained_parameters(
        model, wrapper_of(model.backbone.parameters(), model.neck.parameters())
    )
    check_trained_parameters(model, wrapper_of(model.parameters()))
    parts = dict(a=wrapper_of(model.backbone.parameters()), b=wrapper_of(model.neck.parameters()))
    check_trained_parameters(model, OptimWrapperDict(**parts))


def test_what_is_in_no_optimizer_is_named():
    model = Model()
    message = '2 parameters require a gradient .* in no optimizer: neck.weight, neck.bias. Let'
    with pytest.raises(ValueError, match=message):
        check_trained_parameters(model, wrapper_of(model.backbone.parameters()))
    with pytest.raises(ValueError, match='1 parameter requires .*: backbone.bias'):
        check_trained_parameters(
            model, wrapper_of([model.backbone.weight], model.neck.parameters())
        )


def test_what_is_in_two_optimizers_is_named():
    model = Model()
    parts = dict(a=wrapper_of(model.parameters()), b=wrapper_of([model.backbone.weight]))
    message = 'more than once a step, being in several parameter groups: backbone.weight$'
    with pytest.raises(ValueError, match=message):
        check_trained_parameters(model, OptimWrapperDict(**parts))


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class NeckOnlyConstructor:
    """Somebody's constructor that forgets a part of the model."""

    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        pass

    def __call__(self, model):
        return wrapper_of(model.neck.parameters())


def test_any_model_and_any_constructor_in_a_run(tmp_path, monkeypatch):
    """The Runner of this package's tools checks what it was given, before the first step."""
    monkeypatch.setitem(MODELS._module_dict, 'ForgottenPart', Model)
    data = dict(
        dataset=[dict(inputs=torch.ones(2))] * 2,
        sampler=dict(type='DefaultSampler', shuffle=False),
        batch_size=1,
        num_workers=0,
    )
    cfg = dict(
        model=dict(type='mmmokd.ForgottenPart'),
        work_dir=str(tmp_path),
        experiment_name=tmp_path.name,
        train_dataloader=data,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=None),
        log_level='WARNING',
    )
    with short_log():
        build_runner(Config(copy.deepcopy(cfg))).train()
        cfg['optim_wrapper']['constructor'] = 'mmmokd.NeckOnlyConstructor'
        cfg['experiment_name'] += '2'
        with pytest.raises(ValueError, match='in no optimizer: backbone.weight, backbone.bias'):
            build_runner(Config(cfg)).train()
