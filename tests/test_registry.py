# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import importlib
import sys

import pytest
import torch
from mmengine import registry as mmengine_registries
from mmengine.model import BaseModule
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry
from torch import nn

import mmmokd.models
from mmmokd.registry import HOOKS, MODELS


def _registries():
    """mmengine's, some of which the package adds to, and all below them."""
    todo = [each for each in vars(mmengine_registries).values() if isinstance(each, Registry)]
    while todo:
        registry = todo.pop()
        todo.extend(registry.children.values())
        yield registry


@pytest.fixture
def modules():
    """Puts the package's modules and classes back as they were."""
    loaded = {name: m for name, m in sys.modules.items() if name.partition('.')[0] == 'mmmokd'}
    known = {registry: dict(registry._module_dict) for registry in _registries()}
    contents = {name: dict(vars(module)) for name, module in loaded.items()}
    yield loaded
    for name in [name for name in sys.modules if name.partition('.')[0] == 'mmmokd']:
        del sys.modules[name]
    sys.modules.update(loaded)
    for name, content in contents.items():
        vars(loaded[name]).clear()
        vars(loaded[name]).update(content)
    for one, classes in known.items():
        one._module_dict.clear()
        one._module_dict.update(classes)


def test_every_module_can_be_loaded_again(modules):
    """As notebooks do, one by one: a new class takes the old one's place, in the same registry."""
    old = MODELS.get('MOKD')
    for name in sorted(modules):
        importlib.reload(modules[name])
    new = sys.modules['mmmokd.models.selfsup.mokd'].MOKD
    assert MODELS.get('MOKD') is new is not old
    assert MMENGINE_MODELS.children['mmmokd'] is MODELS is sys.modules['mmmokd.registry'].MODELS


def test_the_package_can_be_imported_again(modules):
    for name in modules:
        del sys.modules[name]
    again = importlib.import_module('mmmokd.models')
    assert again is not mmmokd.models and MODELS.get('MOKD') is again.MOKD


class Redrawn(BaseModule):
    """Draws its weight after it was loaded, as many classes do."""

    def __init__(self, init_cfg):
        super().__init__(init_cfg)
        self.weight = nn.Parameter(torch.zeros(3))

    def init_weights(self):
        super().init_weights()
        nn.init.normal_(self.weight)


def test_loaded_weights_stay_after_the_package_is_imported_again(modules, tmp_path):
    """mmengine's BaseModule is patched once, by the first; the new initializer works with that."""
    torch.save(dict(weight=torch.arange(3.0)), tmp_path / 'weights.pth')
    for name in modules:
        del sys.modules[name]
    importlib.import_module('mmmokd')
    model = Redrawn(dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth')))
    model.init_weights()
    assert model.weight.tolist() == [0, 1, 2]


def test_another_class_of_the_same_name_is_refused(modules):
    assert HOOKS.get('EMATeacherHook') is not None  # which imports it, if nothing has
    with pytest.raises(KeyError, match='EMATeacherHook is already registered in hook'):
        HOOKS.register_module(module=type('EMATeacherHook', (), {}))
