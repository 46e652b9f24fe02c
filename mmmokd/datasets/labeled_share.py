# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import numpy as np
from mmengine.dataset import BaseDataset
from mmpretrain.datasets import KFoldDataset

from mmmokd.registry import DATASETS
from mmmokd.utils.errors import DataError
from mmmokd.utils.stratify import stratified_share

UNLABELED = -1


# A KFoldDataset for what the two have in common: each shows a part of a dataset as a dataset.
@DATASETS.register_module()
class LabeledShare(KFoldDataset):
    """A seeded share of a labeled dataset, the same share of every class.

    For semi-supervised fine-tuning with 1 % or 10 % of the labels, of any set that mmpretrain
    reads. Which images are in it depends on labels, share and seed alone: it is the same in every
    process, on every machine, in every run. A smaller share of one seed lies within a larger one,
    if the order of the dataset is the same.

    For SimCLR's fixed 1 % and 10 % of ImageNet give their list to the dataset's ``ann_file``
    instead, one ``n01440764/n01440764_10026.JPEG 0`` a line (mmpretrain carries no such lists; in
    MMSelfSup they were ``meta/train_1percent.txt`` and ``meta/train_10percent.txt``).

    Args:
        dataset (BaseDataset | dict): The dataset or its config, with one label for each image. Of
            several in a ``ConcatDataset``, wrap each.
        share (float): Share of each class, above 0, at most 1; rounded half up to whole images.
            Defaults to 0.01.
        seed (int): Of the draw. Defaults to 0.
        min_per_class (int): The fewest images of a class. Defaults to 1.
        rest (bool): Whether to show the images that are not drawn in place of those that are.
            Defaults to False.
        unlabeled (bool): Whether to show every image, those that are not drawn with the label -1:
            unlabeled, as :class:`~mmmokd.models.heads.ClassificationHead` reads it, for training
            with labels for a part of the images. Defaults to False.
        lazy_init (bool): Whether to read the dataset only when it is first used. Defaults to
            False.

    Raises:
        DataError: If ``share`` is out of range, both ``rest`` and ``unlabeled`` are set,
            ``dataset`` is not a dataset that can be cut, an image has no label, or a class has
            fewer than ``min_per_class`` images.

    Example:
        >>> train_dataloader = dict(
        ...     dataset=dict(
        ...         type='mmmokd.LabeledShare',
        ...         share=0.1,
        ...         dataset=dict(type='ImageNet', data_root='data/imagenet', split='train'),
        ...     )
        ... )
    """

    def __init__(
        self,
        dataset: BaseDataset | dict,
        share: float = 0.01,
        seed: int = 0,
        min_per_class: int = 1,
        rest: bool = False,
        unlabeled: bool = False,
        lazy_init: bool = False,
    ) -> None:
        if not 0 < share <= 1:
            raise DataError(
                f'the share of LabeledShare must be above 0 and at most 1 (0.01 for 1 %), but got '
                f'{share}'
            )
        if rest and unlabeled:
            raise DataError(
                'LabeledShare shows the rest of the images alone (rest=True) or beside the share '
                '(unlabeled=True), but both are set'
            )
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if not isinstance(self.dataset, BaseDataset):
            raise DataError(
                'LabeledShare takes a dataset of mmengine or its config (of a wrapper such as '
                f'ConcatDataset, wrap each of its datasets), but got a '
                f'{type(self.dataset).__name__}'
            )
        self.share = share
        self.seed = seed
        self.min_per_class = min_per_class
        self.rest = rest
        self.unlabeled = unlabeled
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict:
        """dict: Meta information of the dataset, a copy."""
        return self.dataset.metainfo

    @property
    def CLASSES(self):
        """Sequence[str] | None: Names of the classes, of all of the dataset."""
        return self.metainfo.get('classes')

    def full_init(self) -> None:
        """Read the dataset and draw the share."""
        if self._fully_initialized:
            return
        self.dataset.full_init()
        labels = self._read_labels()
        indices = stratified_share(labels, self.share, self.seed, self.min_per_class)
        others = np.setdiff1d(np.arange(len(labels)), indices)
        if self.unlabeled:
            self._hide_labels(others.tolist())
            indices = np.arange(len(labels))
        elif self.rest:
            indices = others
        self._ori_indices = indices.tolist()
        # Not by index at each access: in the place of an unreadable image the dataset takes
        # another one of its own, which must not be one outside of the share.
        self.dataset = self.dataset.get_subset(self._ori_indices)
        self._fully_initialized = True

    def _hide_labels(self, indices: list[int]) -> None:
        """Take the labels out of the annotations: whatever reads them later meets -1.

        Not at each access, where another image may stand in for an unreadable one.
        """
        self.dataset = self.dataset.get_subset(range(len(self.dataset)))
        infos = [self.dataset.get_data_info(i) for i in range(len(self.dataset))]
        for i in indices:
            infos[i]['gt_label'] = UNLABELED
        self.dataset.data_list = infos
        if self.dataset.serialize_data:
            self.dataset.data_bytes, self.dataset.data_address = self.dataset._serialize_data()

    def _read_labels(self) -> np.ndarray:
        name, size = type(self.dataset).__name__, len(self.dataset)
        if not size:
            raise DataError(f'LabeledShare needs images, but {name} has none')
        labels = [self.dataset.get_data_info(i).get('gt_label') for i in range(size)]
        unlabeled = sum(label is None or np.size(label) != 1 for label in labels)
        if unlabeled:
            raise DataError(
                f'LabeledShare needs one class label for each image, but {unlabeled} of {size} '
                f'images of {name} have none or several'
            )
        labels = np.array(labels).reshape(size)
        classes, counts = np.unique(labels, return_counts=True)
        if counts.min() < self.min_per_class:
            smallest = counts.argmin()
            raise DataError(
                f'LabeledShare with min_per_class={self.min_per_class} needs as many images of '
                f'each class, but class {classes[smallest]} of {name} has {counts[smallest]}'
            )
        return labels

    def __repr__(self) -> str:
        """The basic facts, for the log."""
        size = f'{len(self)} images' if self._fully_initialized else 'not read yet'
        return (
            f'{type(self).__name__}: {"all but " * self.rest}{self.share:g} of each class of '
            f'{type(self.dataset).__name__}, seed {self.seed}, {size}'
            f'{", the others unlabeled" * self.unlabeled}'
        )
