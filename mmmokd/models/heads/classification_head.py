# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn

from mmmokd.registry import MODELS
from mmmokd.structures import NetworkOutput, Views
from mmmokd.utils.errors import ConfigError

from ..losses import at_least_float32
from ..utils import check_counts
from .base import BranchHead

UNLABELED = -1


@MODELS.register_module()
class ClassificationHead(BranchHead):
    """Cross-entropy with the images' labels, or with those of a part of the images.

    A linear classifier on what the head reads. The loss is the mean over the labeled images of all
    processes and their views: also where the processes have different numbers of them, two
    processes are one. (Under gradient accumulation each micro-batch is a mean of its own.) An image
    is unlabeled if its data sample has no ``gt_label``, or -1; a batch without a label gives 0, with
    zero gradients. ``PackInputs`` brings the labels of mmpretrain's datasets, of
    ``mmmokd.ImageFolder`` with ``with_label=True`` and of ``mmmokd.LabeledShare`` with
    ``unlabeled=True``. The share of the labeled views that are classified right is logged as
    ``'{branch}.{term}.accuracy'``, in percent.

    Args:
        num_classes (int): Number of classes.
        in_channels (int): Width of what the head reads. Inferred in a branch.
        reads (str): ``'pooled'`` (the backbone's features) or a neck. Defaults to ``'pooled'``.
        all_views (bool): Whether local views are classified as well as the global ones. Defaults
            to False.
        loss (dict, optional): Config of a loss of mmpretrain for class numbers, such as
            ``LabelSmoothLoss``, with its mean as reduction. Defaults to None, ``CrossEntropyLoss``.
        loss_weight (float): Weight of the term. Defaults to 1.0.
        init_cfg (dict, optional): Initialization config. Defaults to None: normal with standard
            deviation 0.01, as mmpretrain's ``LinearClsHead``.

    Raises:
        ConfigError: If a number is below 1.

    Example:
        >>> heads = dict(sm=dict(_delete_=True, type='mmmokd.ClassificationHead', num_classes=10))
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        reads: str = 'pooled',
        all_views: bool = False,
        loss: dict | None = None,
        loss_weight: float = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        init_cfg = init_cfg or dict(type='Normal', layer='Linear', std=0.01)
        super().__init__(reads, 'none', loss_weight, init_cfg)
        check_counts('ClassificationHead', num_classes=num_classes, in_channels=in_channels)
        self.num_classes = num_classes
        self.all_views = all_views
        self.fc = nn.Linear(in_channels, num_classes)
        self.loss_module = MODELS.build(loss or dict(type='mmpretrain.CrossEntropyLoss'))

    def loss(self, student: NetworkOutput, teacher: NetworkOutput | None, views: Views) -> Tensor:
        """The weighted loss.

        Args:
            student (NetworkOutput): Of all views, the G global ones first.
            teacher (NetworkOutput, optional): Not used.
            views (Views): The views; ``data_samples`` have the labels.

        Returns:
            Tensor: Scalar.

        Raises:
            ConfigError: If the batch has no data samples, an image has several labels, or a label
                is not a class.
        """
        features = student[self.reads]
        if not self.all_views:
            features = features[: len(views.globals)]
        return self(features, self.read_labels(views.data_samples).to(features.device))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The weighted loss of features.

        Args:
            features (Tensor): Shape (V, B, C).
            labels (Tensor): Class of each image, -1 where it is not known, shape (B, ), int64.

        Returns:
            Tensor: Scalar.
        """
        logits = self.fc(features).flatten(0, 1)  # (V * B, num_classes)
        labels = labels.repeat(len(features))
        labeled = (labels != UNLABELED).float()
        right = (logits.detach().argmax(dim=1) == labels).sum()
        total = labeled.sum()
        self.metrics = {'accuracy': 100 * right / total} if total else {}
        all_reduce(total)
        # Gradients are averaged over the processes: each divides by its share of the total.
        share = total.clamp(min=1) / get_world_size()
        with torch.autocast(logits.device.type, enabled=False):
            loss = self.loss_module(
                at_least_float32(logits), labels.clamp(min=0), weight=labeled, avg_factor=share
            )
        return loss * self.loss_weight

    def read_labels(self, data_samples: list | None) -> Tensor:
        """Labels of a batch.

        Args:
            data_samples (list[DataSample], optional): One per image.

        Returns:
            Tensor: Class of each image, -1 where it is not known, shape (B, ), int64.

        Raises:
            ConfigError: If there are no data samples, an image has several labels, or a label is
                not a class.
        """
        if data_samples is None:
            raise ConfigError(
                'ClassificationHead needs labels, but the batches have no data_samples: does the '
                'pipeline end with PackInputs?'
            )
        found = [sample.get('gt_label') for sample in data_samples]
        several = [label.tolist() for label in found if label is not None and label.numel() != 1]
        if several:
            raise ConfigError(f'ClassificationHead needs one label per image, but got {several[0]}')
        device = next((label.device for label in found if label is not None), None)
        none = torch.tensor([UNLABELED], device=device)
        labels = torch.cat([none if label is None else label.view(1) for label in found])
        wrong = labels[(labels < UNLABELED) | (labels >= self.num_classes)]
        if len(wrong):
            raise ConfigError(
                f'ClassificationHead has num_classes={self.num_classes}, for labels from 0 to '
                f'{self.num_classes - 1} (or {UNLABELED}, unlabeled), but got {wrong.tolist()}'
            )
        return labels
