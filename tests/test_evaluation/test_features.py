# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from loops_testing import FakeBranch
from mmengine.dataset import DefaultSampler, InfiniteSampler, default_collate
from mmengine.model import BaseModel
from mmpretrain.models import ImageClassifier, SelfSupDataPreprocessor
from mmpretrain.structures import DataSample
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, RandomSampler, SequentialSampler

from mmmokd.evaluation import extract_features


class NumberedImages(Dataset):
    """Image i is filled with the number i and is of class i % 3."""

    def __init__(self, size, labeled=True):
        self.size = size
        self.labeled = labeled

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        sample = DataSample(metainfo=dict(sample_idx=index, img_path=f'{index}.jpg'))
        if self.labeled:
            sample.set_gt_label(index % 3)
        return dict(inputs=torch.full((3, 4, 4), index, dtype=torch.uint8), data_samples=sample)


class TwoBranches(BaseModel):
    """Features that tell the image: (i, -i) of branch a, (10 i, ) of b; 1000 more for a student."""

    def __init__(self):
        super().__init__(data_preprocessor=SelfSupDataPreprocessor())
        self.frozen = nn.BatchNorm1d(3)
        self.active = nn.BatchNorm1d(3)
        self.branches = nn.ModuleDict(dict(a=FakeBranch(self.two), b=FakeBranch(self.ten)))
        self.train()
        self.frozen.eval()
        self.seen_modes = set()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return {}

    def value(self, inputs, network):
        assert not torch.is_grad_enabled()
        self.seen_modes.add(any(module.training for module in self.modules()))
        return inputs.mean(dim=(1, 2, 3))[:, None] + (1000 if network == 'student' else 0)

    def two(self, inputs, network):
        value = self.value(inputs, network)
        return torch.cat((value, -value), dim=1)

    def ten(self, inputs, network):
        return 10 * self.value(inputs, network)


def make_loader(dataset, sampler=None, batch_size=2, **kwargs):
    if sampler is None:
        sampler = DefaultSampler(dataset, shuffle=False)
    return DataLoader(
        dataset, batch_size=batch_size, sampler=sampler, collate_fn=default_collate, **kwargs
    )


def check_result(result, size):
    features, labels = result
    numbers = torch.arange(size).float()
    assert torch.equal(features['a.teacher'], torch.stack((numbers, -numbers), dim=1))
    assert torch.equal(features['b.student'], 10 * (numbers[:, None] + 1000))
    assert set(features) == {'a.teacher', 'a.student', 'b.teacher', 'b.student'}
    assert torch.equal(labels, torch.arange(size) % 3)


def test_all_images_in_order_and_modes_restored():
    model = TwoBranches()
    calls = []
    result = extract_features(
        model,
        make_loader(NumberedImages(7)),
        ('teacher', 'student'),
        before_iter=lambda index, batch: calls.append(('before', index)),
        after_iter=lambda index, batch: calls.append(('after', index, len(batch['inputs']))),
    )
    check_result(result, 7)
    assert model.seen_modes == {False}
    assert model.training and model.active.training and not model.frozen.training
    assert calls[:2] == [('before', 0), ('after', 0, 2)] and calls[-1] == ('after', 3, 1)


def test_modes_are_restored_after_an_error():
    model = TwoBranches()
    del model.branches
    model.extract_feat = lambda inputs: torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match=r'features must be .* B=2 images, but are \(1, 2, 3\)'):
        extract_features(model, make_loader(NumberedImages(4)))
    assert model.active.training and not model.frozen.training


def test_shuffled_order_is_undone():
    images = NumberedImages(9)
    loader = make_loader(images, DefaultSampler(images, shuffle=True, seed=3))
    check_result(extract_features(TwoBranches(), loader, ('teacher', 'student')), 9)


def test_joined_datasets_repeat_sample_idx():
    images = ConcatDataset([NumberedImages(3), NumberedImages(2)])
    features, labels = extract_features(TwoBranches(), make_loader(images))
    assert features['b.teacher'].flatten().tolist() == [0, 10, 20, 0, 10]
    assert labels.tolist() == [0, 1, 2, 0, 1]


def test_mmpretrain_classifier_with_and_without_pooling():
    backbone = dict(type='ResNet', depth=18, stem_channels=8, base_channels=8)
    preprocessor = dict(type='ClsDataPreprocessor')
    model = ImageClassifier(backbone, data_preprocessor=preprocessor).eval()
    loader = make_loader(NumberedImages(3), batch_size=3)
    features, labels = extract_features(model, loader)
    with torch.no_grad():
        images = torch.stack([NumberedImages(3)[i]['inputs'] for i in range(3)]).float()
        expected = model.extract_feat(images)[-1].mean(dim=(2, 3))
    torch.testing.assert_close(features['backbone'], expected)
    neck = dict(type='GlobalAveragePooling')
    pooled = ImageClassifier(backbone, neck, data_preprocessor=preprocessor)
    pooled.load_state_dict(model.state_dict())
    torch.testing.assert_close(extract_features(pooled, loader)[0]['backbone'], expected)


@pytest.mark.parametrize(
    ('loader', 'message'),
    [
        (lambda: make_loader(NumberedImages(3, labeled=False)), '0.jpg of NumberedImages has no'),
        (lambda: make_loader(NumberedImages(0), SequentialSampler([])), 'has no images'),
        (lambda: make_loader(NumberedImages(3), RandomSampler(range(3))), 'got RandomSampler'),
        (
            lambda: make_loader(NumberedImages(3), InfiniteSampler(NumberedImages(3))),
            'got InfiniteSampler',
        ),
        (lambda: make_loader(NumberedImages(3), drop_last=True), 'would lose 1 of 3'),
        (lambda: make_loader(NumberedImages(3), SequentialSampler(range(2))), '1 of 3 images'),
    ],
)
def test_bad_loader(loader, message):
    with pytest.raises(ValueError, match=message):
        extract_features(TwoBranches(), loader())


def test_several_views_are_refused():
    class Views(NumberedImages):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return dict(sample, inputs=[sample['inputs']] * 2)

    with pytest.raises(ValueError, match='one view .* gave a list'):
        extract_features(TwoBranches(), make_loader(Views(3)))
