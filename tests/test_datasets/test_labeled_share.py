# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pickle
from collections import Counter

import numpy as np
import pytest
from mmengine.dataset import DefaultSampler, default_collate
from mmengine.registry import DefaultScope
from mmpretrain.datasets import CustomDataset
from PIL import Image
from torch.utils.data import DataLoader

from mmmokd.datasets import LabeledShare, iter_datasets
from mmmokd.registry import DATASETS

CLASSES = {'ant': 20, 'bee': 10, 'cat': 3}


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Class folders; an image's color is its number."""
    root = tmp_path_factory.mktemp('images')
    for offset, (name, count) in zip((0, 20, 30), CLASSES.items(), strict=True):
        (root / name).mkdir()
        for i in range(count):
            Image.new('RGB', (4, 4), (offset + i,) * 3).save(root / name / f'{i:02d}.png')
    return root


def build(root, share=0.2, dataset=None, **kwargs):
    dataset = dict(
        type='CustomDataset',
        data_root=str(root),
        pipeline=[dict(type='mmmokd.LoadImage'), dict(type='PackInputs')],
        **(dataset or {}),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return DATASETS.build(
            dict(type='mmmokd.LabeledShare', share=share, dataset=dataset, **kwargs)
        )


def numbers(dataset):
    return [int(dataset[i]['inputs'][0, 0, 0]) for i in range(len(dataset))]


def test_share_of_a_folder(images):
    dataset = build(images)
    assert len(dataset) == 4 + 2 + 1
    assert Counter(dataset.get_gt_labels().tolist()) == {0: 4, 1: 2, 2: 1}
    assert tuple(dataset.CLASSES) == dataset.metainfo['classes'] == tuple(CLASSES)
    assert dataset.class_to_idx == dict(ant=0, bee=1, cat=2)
    for i, number in enumerate(numbers(dataset)):
        label = (number >= 20) + (number >= 30)
        sample = dataset[i]['data_samples']
        assert sample.gt_label.item() == label and dataset.get_cat_ids(i) == [label]
        assert dataset.get_data_info(i)['sample_idx'] == i  # DataHealthHook counts by it
    assert [type(each) for each in iter_datasets(dataset)] == [LabeledShare, CustomDataset]
    assert 'LabeledShare: 0.2 of each class of CustomDataset, seed 0, 7 images' in repr(dataset)


def test_seed_and_not_the_process_decides(images):
    drawn = numbers(build(images))
    assert drawn == numbers(build(images, lazy_init=True))
    assert drawn == numbers(build(images, dataset=dict(serialize_data=False)))
    assert drawn == numbers(pickle.loads(pickle.dumps(build(images))))
    assert set(drawn) < set(numbers(build(images, share=0.5)))
    assert drawn != numbers(build(images, seed=1))
    assert sorted(numbers(build(images, share=1.0))) == list(range(33))


def test_rest_is_what_is_not_drawn(images):
    drawn, rest = build(images), build(images, rest=True)
    assert sorted(numbers(drawn) + numbers(rest)) == list(range(33))
    assert Counter(rest.get_gt_labels().tolist()) == {0: 16, 1: 8, 2: 2}
    assert 'all but 0.2 of each class' in repr(rest)
    assert len(build(images, share=1.0, rest=True)) == 0


def test_unlabeled_images_beside_the_share(images):
    """Every image is kept; the labels are those of the share alone, also in a replacement."""
    drawn = set(numbers(build(images)))
    for serialize in (True, False):
        dataset = build(images, unlabeled=True, dataset=dict(serialize_data=serialize))
        assert sorted(numbers(dataset)) == list(range(33))
        samples = [dataset[i] for i in range(33)]
        labels = {int(s['inputs'][0, 0, 0]): s['data_samples'].gt_label.item() for s in samples}
        for number, label in labels.items():
            true = (number >= 20) + (number >= 30)
            assert label == (true if number in drawn else -1)
        assert Counter(dataset.get_gt_labels().tolist()) == {-1: 26, 0: 4, 1: 2, 2: 1}
    assert repr(dataset).endswith('33 images, the others unlabeled')
    whole = build(images, share=1.0, unlabeled=True)
    assert Counter(whole.get_gt_labels().tolist()) == {0: 20, 1: 10, 2: 3}


def test_under_a_sampler(images):
    dataset = build(images, min_per_class=3)
    loader = DataLoader(
        dataset, 2, sampler=DefaultSampler(dataset, seed=0), collate_fn=default_collate
    )
    labels = [int(s.gt_label) for batch in loader for s in batch['data_samples']]
    assert Counter(labels) == {0: 4, 1: 3, 2: 3}


def test_lazy_init(images):
    dataset = build(images, lazy_init=True, dataset=dict(lazy_init=True))
    assert 'not read yet' in repr(dataset)
    assert len(dataset) == 7 and tuple(dataset.CLASSES) == tuple(CLASSES)


def test_unreadable_image_is_replaced_from_within_the_share(images, tmp_path):
    """Another image of the whole set would be a label more than the share has."""
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        for i in range(50):
            Image.new('RGB', (4, 4), (i,) * 3).save(tmp_path / name / f'{i}.png')
    dataset = build(tmp_path, share=0.04)
    kept = set(numbers(dataset))
    broken = dataset.get_data_info(0)['img_path']
    with open(broken, 'w'):
        pass
    np.random.seed(0)
    found = {int(dataset[0]['inputs'][0, 0, 0]) for _ in range(30)}
    assert found <= kept


def test_list_file(images):
    """SimCLR's subsets come as lists; a list needs no LabeledShare, but may have one."""
    (images / 'list.txt').write_text(''.join(f'ant/{i:02d}.png 0\n' for i in range(10)))
    assert len(build(images, share=0.3, dataset=dict(ann_file='list.txt'))) == 3


@pytest.mark.parametrize(
    ('kwargs', 'error', 'message'),
    [
        (dict(share=0), ValueError, r'above 0 and at most 1 \(0.01 for 1 %\), but got 0'),
        (dict(share=10), ValueError, 'but got 10'),
        (dict(rest=True, unlabeled=True), ValueError, r'\(unlabeled=True\), but both are set'),
        (dict(min_per_class=5), ValueError, 'min_per_class=5 .* class 2 of CustomDataset has 3'),
        (dict(dataset=dict(with_label=False)), ValueError, '33 of 33 images of CustomDataset'),
    ],
)
def test_bad_input(images, kwargs, error, message):
    with pytest.raises(error, match=message):
        build(images, **kwargs)


def test_not_a_dataset(images):
    with pytest.raises(ValueError, match='wrap each of its datasets.* but got a list'):
        LabeledShare([1, 2, 3])
