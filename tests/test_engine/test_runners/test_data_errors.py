# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
from mmengine.registry import DATASETS, DefaultScope

from mmmokd.engine.runners.data_errors import data_errors
from mmmokd.utils.errors import DataError


@pytest.mark.parametrize(
    ('dataset', 'message'),
    [
        (dict(type='mmpretrain.CustomDataset'), "No such file or directory: '{root}/gone/'"),
        (
            dict(type='mmpretrain.ImageNet', data_prefix='empty'),
            "The number of subfolders (0) doesn't match the number of specified classes (1000)",
        ),
        (
            dict(type='mmpretrain.CustomDataset', ann_file='gone.txt'),
            "No such file or directory: '{root}/gone/gone.txt'",
        ),
        (dict(type='mmpretrain.CIFAR10', download=False), 'Cannot find CIFAR10 dataset in '),
    ],
)
def test_data_that_a_library_does_not_find(tmp_path, dataset, message):
    (tmp_path / 'empty').mkdir()
    gone = tmp_path if 'data_prefix' in dataset else tmp_path / 'gone'
    dataset = dict(dataset, data_root=str(gone))

    with pytest.raises(DataError) as error_info, data_errors(dataset, 'loader.dataset'):
        DATASETS.build(dataset)
    text = str(error_info.value)
    kind = dataset['type'].removeprefix('mmpretrain.')
    message = message.format(root=tmp_path)
    start = f'loader.dataset ({kind}) of the config cannot use its data: {message}'
    assert text.startswith(start) and f"data_root='{gone}'" in text


def test_name_without_a_scope():
    dataset = dict(type='CIFAR10', data_root='')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        with pytest.raises(DataError, match='cannot use its data: Please set ``data_root``'):
            with data_errors(dataset, 'loader.dataset'):
                DATASETS.build(dataset)


def test_fault_below_a_dataset_keeps_its_traceback():
    class Faulty:
        def __init__(self, data_root: str) -> None:
            raise RuntimeError('Connection closed by peer')

    dataset = dict(type=Faulty, data_root='/images')
    with pytest.raises(RuntimeError, match='closed by peer') as error_info:
        with data_errors(dataset, 'loader.dataset'):
            DATASETS.build(dataset)
    assert not isinstance(error_info.value, DataError)
