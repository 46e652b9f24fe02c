# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
from mmengine.config import Config
from torch import nn

from mmmokd.utils.config_tree import get_node, iter_dicts, type_name


def test_every_dict_is_found_again_at_its_place():
    cfg = Config(dict(model=dict(necks=[dict(type='A'), (dict(type='B'), 1)]), lr=0.1))
    places = dict(iter_dicts(cfg._cfg_dict))
    assert [*places] == [
        (),
        ('model',),
        ('model', 'necks', '0'),
        ('model', 'necks', '1', '0'),
    ]
    assert all(get_node(cfg, path) is node for path, node in places.items())
    for gone in (['model', 'neck'], ['model', 'necks', '2'], ['lr', 'type']):
        with pytest.raises(LookupError):
            get_node(cfg, gone)


def test_type_name():
    kinds = ('SyncBN', 'mmcv.SyncBN', nn.SyncBatchNorm, None)
    assert [*map(type_name, kinds)] == ['SyncBN', 'SyncBN', 'SyncBatchNorm', '']
