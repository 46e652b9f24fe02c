# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Images that are both in the feature bank and among the queries."""

import numpy as np
import pytest
import torch
from loops_testing import Angles, ListedAngles, NamedAngles, build_runner
from mmengine.dataset import BaseDataset
from PIL import Image
from torch.utils.data import ConcatDataset, Subset

from mmmokd.datasets import ImageFolder, LabeledShare
from mmmokd.evaluation import KNNMetric, LinearProbeMetric, weighted_knn
from mmmokd.evaluation.metrics import FeatureMetric, FeatureSet
from mmmokd.evaluation.overlap import Overlap, find_overlap


def make(folder, count=6):
    for i in range(count):
        path = folder / 'ab'[i % 2] / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (4, 4), (i, 0, 0)).save(path)
    return folder


def labeled(folder):
    return ImageFolder(str(folder), with_label=True, serialize_data=False)


class Held(BaseDataset):
    """Images in memory, as mmpretrain's CIFAR and MNIST hold them."""

    def __init__(self, images):
        self.images = images
        super().__init__(serialize_data=False)

    def load_data_list(self):
        return [dict(img=img, gt_label=i % 2) for i, img in enumerate(self.images)]


# ----------------------------------------------------------------------------------- which
@pytest.mark.parametrize('name', ['same', 'slash', 'relative', 'folder link', 'file links', 'list'])
def test_one_folder_by_two_names(tmp_path, monkeypatch, name):
    folder, other = make(tmp_path / 'images'), tmp_path / 'other'
    if name == 'relative':
        monkeypatch.chdir(tmp_path)
        other = 'images/a/..'
    elif name == 'folder link':
        other.symlink_to(folder)
    elif name == 'file links':
        for file in folder.glob('*/*'):
            link = other / file.parent.name / f'link to {file.name}'
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    else:
        other = f'{folder}/' if name == 'slash' else folder
    bank, queries = labeled(folder), labeled(other)
    if name == 'list':
        (tmp_path / 'list.txt').write_text('a/4.png 0\nb/5.png 1\n')
        queries = ImageFolder(str(folder), ann_file=f'{tmp_path}/list.txt', with_label=True)
    overlap = find_overlap(bank, queries)
    expected = 2 if name == 'list' else 6
    assert (overlap.num_queries, overlap.num_bank, overlap.most_copies) == (expected, expected, 1)
    files = [bank.get_data_info(i)['img_path'] for i in range(6)]
    for index, number in enumerate(overlap.queries.tolist()):
        (own,) = (overlap.bank == number).nonzero().flatten().tolist()
        query = queries.get_data_info(index)['img_path']
        assert Image.open(files[own]).getpixel((0, 0)) == Image.open(query).getpixel((0, 0))


def test_copies_and_parts(tmp_path):
    folder, copies = make(tmp_path / 'images'), make(tmp_path / 'copies')
    assert find_overlap(labeled(folder), labeled(copies)).num_queries == 0
    parts = [LabeledShare(labeled(folder), 0.5, rest=rest) for rest in (False, True)]
    assert find_overlap(*parts).num_queries == 0
    assert find_overlap(labeled(folder), parts[0]).num_queries == len(parts[0])
    both = ConcatDataset([labeled(copies), Subset(labeled(folder), [5, 0])])
    assert find_overlap(both, labeled(folder)).bank.ge(0).tolist() == [False] * 6 + [True] * 2
    (folder / 'a' / 'again.png').symlink_to(folder / 'a' / '0.png')
    overlap = find_overlap(labeled(folder), labeled(folder))
    assert (overlap.num_bank, overlap.most_copies) == (7, 2)


def test_images_in_memory():
    images = list(np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8))
    assert find_overlap(Held(images), Held(images[7:19])).num_queries == 12
    # A chance pair of equal images, as official sets have: published numbers count it.
    other = [*np.zeros((29, 4, 4, 3), np.uint8), images[3]]
    assert find_overlap(Held(images), Held(other)).num_queries == 0
    assert find_overlap(Angles(9, seed=0), Angles(9, seed=0)).num_queries == 0  # tells nothing


# ----------------------------------------------------------------------------------- measures
@pytest.mark.parametrize('chunk_size', [7, 4096])
def test_knn_without_oneself_is_leave_one_out(chunk_size):
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(30, 5, generator=generator)
    labels = torch.arange(30) % 4
    numbers = torch.arange(30)
    numbers[20:] = -1  # in the bank only
    queries = bank[:20].flip(0)
    settings = dict(num_classes=4, chunk_size=chunk_size, topk=4)
    found = weighted_knn(
        bank, labels, queries, k=(1, 29), identities=(numbers, numbers[:20].flip(0)), **settings
    )
    for row, own in enumerate(range(19, -1, -1)):
        rest = torch.arange(30) != own
        alone = weighted_knn(bank[rest], labels[rest], bank[own : own + 1], k=(1, 29), **settings)
        for k in (1, 29):
            assert found[k][row].tolist() == alone[k][0].tolist()
    with pytest.raises(ValueError, match='k=30 .* at least 31 images.*query itself.* has 30'):
        weighted_knn(bank, labels, bank, k=30, identities=(numbers, numbers))


def test_the_probe_is_not_trained_on_queries(read_log):
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(200, 1, 80, generator=generator)
    labels = torch.randint(2, (200,), generator=generator)  # nothing to be learned
    numbers = torch.where(torch.arange(200) < 50, torch.arange(200), -1)
    overlap = Overlap(numbers, numbers[:50])
    metric = LinearProbeMetric(lrs=10.0, epochs=30)
    metric.check_overlap(overlap)
    features = FeatureSet('a', bank, labels, bank[:50], labels[:50], overlap)
    own = metric.evaluate_set(features._replace(overlap=None))['linear_top1']
    others = metric.evaluate_set(features)['linear_top1']
    assert own > 75 > 65 > others
    assert (
        others
        == metric.evaluate_set(
            features._replace(bank=bank[50:], bank_labels=labels[50:], overlap=None)
        )['linear_top1']
    )
    labels[:50] = 2
    metric.evaluate_set(features)
    assert 'has no image of 1 classes (numbers 2)' in read_log()[-1]
    with pytest.raises(
        ValueError, match='20 of 20 queries .* leaves a linear probe 1 of its 21 .*--no-linear'
    ):
        metric.check_overlap(Overlap(torch.tensor([*range(20), -1]), torch.arange(20)))


def test_a_measure_that_knows_nothing_of_it_is_refused():
    class Plain(FeatureMetric):
        def evaluate_features(self, bank, bank_labels, queries, query_labels):
            return {}

    with pytest.raises(
        ValueError, match='1 of 2 queries are also images .* which Plain does not leave'
    ):
        Plain().check_overlap(Overlap(torch.tensor([0, -1]), torch.tensor([0, -1])))
    KNNMetric(k=1).check_overlap(Overlap(torch.tensor([0, -1]), torch.tensor([0, -1])))


# ----------------------------------------------------------------------------------- loop
def test_one_class_means_nothing(tmp_path):
    class One(ListedAngles):
        def load_data_list(self):
            return [dict(info, gt_label=2) for info in super().load_data_list()]

    runner, recorder = build_runner(tmp_path, bank=One(50, seed=1))
    with pytest.raises(ValueError, match="all 50 images .* one class, 'c': .* means nothing"):
        runner.train()
    assert recorder.calls == []


def test_validation_on_the_training_set(tmp_path):
    bank = NamedAngles(100, seed=1)
    queries = bank.get_subset([*range(90, 100)])
    metric = dict(type='mmmokd.KNNMetric', k=91)
    runner, recorder = build_runner(tmp_path, bank=bank, queries=queries, metric=metric)
    runner.train()
    assert recorder.calls.count('after_val') == 3
    # Of 99 others each is to vote, and none may be itself.
    metric = dict(type='mmmokd.KNNMetric', k=100)
    runner, recorder = build_runner(tmp_path / 'k', bank=bank, queries=queries, metric=metric)
    with pytest.raises(ValueError, match='k=100 .* at least 101'):
        runner.train()
    assert recorder.calls == []
