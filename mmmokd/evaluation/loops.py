# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import logging
from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.runner import TestLoop, ValLoop
from torch.utils.data import DataLoader

from mmmokd.datasets import LabeledShare
from mmmokd.registry import DATASETS, LOOPS
from mmmokd.utils import get_ori_model
from mmmokd.utils.errors import ConfigError, DataError
from mmmokd.utils.state_dict import name_some

from .batches import read_inputs, read_labels
from .features import extract_features
from .gather import sample_order
from .metrics import FeatureMetric, FeatureSet
from .networks import check_gives_maps
from .overlap import find_overlap, read_info

BANK_LOG_INTERVAL = 500
BANK_SHARE = 0.8


def split_labeled(dataloader: DataLoader | dict, bank_share: float) -> tuple[dict, dict]:
    """Split the images of one labeled set, class by class, always in the same way.

    Args:
        dataloader (dict): Config of the dataloader of all of them.
        bank_share (float): Share of each class for the bank, between 0 and 1.

    Returns:
        tuple[dict, dict]: Configs of the dataloaders of the bank and of the queries.

    Raises:
        ValueError: If the share is out of range, or leaves no queries, or ``dataloader`` is no
            config.
    """
    if not 0 < bank_share < 1:
        raise ConfigError(f'bank_share must be between 0 and 1, but got {bank_share}')
    if not isinstance(dataloader, dict):
        raise ConfigError(
            'evaluating features needs a bank_dataloader, or the dataloader as a config, of whose '
            f'images bank_share can be the bank; but got a {type(dataloader).__name__}'
        )
    dataset = dataloader['dataset']
    if isinstance(dataset, dict):
        dataset = DATASETS.build(dataset)
    bank, queries = (LabeledShare(dataset, bank_share, rest=rest) for rest in (False, True))
    if not len(queries):
        raise DataError(
            f'bank_share={bank_share:g} of each class leaves none of the {len(dataset)} labeled '
            'images to be recognized: give more of each class, another bank_share, or a '
            'bank_dataloader of its own'
        )
    print_log(
        f'Labeled images: {len(bank)} of {len(dataset)} ({bank_share:g} of each class) are the '
        f'bank, the other {len(queries)} are queries',
        logger='current',
    )
    return dict(dataloader, dataset=bank), dict(dataloader, dataset=queries)


def complete_bank(bank: DataLoader | dict, dataloader: DataLoader | dict) -> DataLoader | dict:
    """Take from the queries' dataloader what the bank's does not say.

    Args:
        bank (DataLoader | dict): See :class:`FeatureValLoop`.
        dataloader (DataLoader | dict): The queries.

    Returns:
        DataLoader | dict: A complete config, if both are configs; else the bank.

    Raises:
        ValueError: If ``bank`` is a config without a dataset.
    """
    if not isinstance(bank, dict) or not isinstance(dataloader, dict):
        return bank
    dataset = bank.get('dataset')
    if not dataset:
        raise ConfigError(
            'bank_dataloader needs a dataset, the labeled images to learn from; without '
            "bank_dataloader, a share of the queries' images is the bank"
        )
    if isinstance(dataset, dict) and isinstance(dataloader['dataset'], dict):
        if 'type' not in dataset:
            dataset = dict(dataloader['dataset'], **dataset)
    # The bank's workers have nothing to stay for: it is read once an evaluation.
    rest = {key: value for key, value in dataloader.items() if key != 'persistent_workers'}
    return {**rest, **bank, 'dataset': dataset}


def check_several_classes(bank: Any) -> None:
    """Check that there is something to tell apart.

    Args:
        bank (Dataset): The labeled images to learn from.

    Raises:
        ValueError: If all of them are of one class, so that every answer is right.
    """
    first = None
    for index in range(len(bank)):  # ends at the first image of a second class
        label = (read_info(bank, index) or {}).get('gt_label')
        if label is None:
            return
        first = label if first is None else first
        if label != first:
            return
    names = (getattr(bank, 'metainfo', None) or {}).get('classes') or ()
    named = f', {names[int(first)]!r}' if first is not None and 0 <= first < len(names) else ''
    raise DataError(
        f'all {len(bank)} images of the bank are of one class{named}: whatever is predicted is '
        'right, and the accuracy means nothing. A labeled set has a folder for each class, and '
        'at least two of them'
    )


class FeatureLoopMixin:
    """Common part of :class:`FeatureValLoop` and :class:`FeatureTestLoop`."""

    mode: str

    def __init__(
        self,
        runner,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
        bank_dataloader: DataLoader | dict | None = None,
        networks: Sequence[str] = ('teacher',),
        fp16: bool = False,
        bank_share: float = BANK_SHARE,
        maps: bool = False,
    ) -> None:
        if bank_dataloader is None:
            bank_dataloader, dataloader = split_labeled(dataloader, bank_share)
        else:
            bank_dataloader = complete_bank(bank_dataloader, dataloader)
        super().__init__(runner, dataloader, evaluator, fp16=fp16)
        if isinstance(bank_dataloader, dict):
            bank_dataloader = runner.build_dataloader(bank_dataloader, seed=runner.seed)
        self.bank_dataloader = bank_dataloader
        self.networks = (networks,) if isinstance(networks, str) else tuple(networks)
        if not self.networks:
            raise ConfigError(f'{type(self).__name__} needs at least one network to evaluate')
        self.maps = maps
        self._check()

    def _check(self) -> None:
        """Fail now, not after the first epoch.

        Reads the first image of each dataset in this process, before workers are forked.
        """
        model = get_ori_model(self.runner.model)
        if self.maps:
            check_gives_maps(model)
        for dataloader in (self.dataloader, self.bank_dataloader):
            sample_order(dataloader)
            batch = dataloader.collate_fn([dataloader.dataset[0]])
            read_labels(batch, dataloader)
            read_inputs(model, batch)
        self._check_classes()
        check_several_classes(self.bank_dataloader.dataset)
        for metric in self.evaluator.metrics:
            if not isinstance(metric, FeatureMetric):
                raise ConfigError(
                    f'{type(self).__name__} evaluates features: its evaluator takes metrics such '
                    f'as mmmokd.KNNMetric, but got {type(metric).__name__}'
                )
            metric.check_sizes(len(self.bank_dataloader.dataset), len(self.dataloader.dataset))
        self._find_overlap()

    def _find_overlap(self) -> None:
        """Find and log queries that are images of the bank, and let the metrics check them."""
        bank, queries = self.bank_dataloader.dataset, self.dataloader.dataset
        self.overlap = find_overlap(bank, queries)
        if not self.overlap.num_queries:
            return
        print_log(
            f'{self.overlap.num_queries} of {len(queries)} queries are also images of the bank '
            '(the same files): none is its own neighbor, and no probe is trained on it',
            logger='current',
            level=logging.WARNING,
        )
        for metric in self.evaluator.metrics:
            metric.check_overlap(self.overlap)

    def _check_classes(self) -> None:
        """Numbers of classes mean nothing where each dataset has classes of its own."""
        bank, queries = (
            (getattr(loader.dataset, 'metainfo', None) or {}).get('classes')
            for loader in (self.bank_dataloader, self.dataloader)
        )
        if bank and queries and tuple(bank) != tuple(queries):
            alone = [
                f'{len(names)} in {where} only ({name_some(names)})'
                for where, names in (
                    ('the bank', [name for name in bank if name not in queries]),
                    ('the queries', [name for name in queries if name not in bank]),
                )
                if names
            ]
            raise DataError(
                f'bank and queries need the same classes, but have {len(bank)} and {len(queries)}: '
                + (', '.join(alone) or 'the same names in another order')
            )

    def run(self) -> dict[str, float]:
        """Evaluate the model as it is.

        Returns:
            dict[str, float]: Metrics by name, the same on all ranks.
        """
        self._call(f'before_{self.mode}')
        self._call(f'before_{self.mode}_epoch')
        # The queries first: the runner's timer starts at the epoch and counts their batches only.
        queries = self._extract(
            self.dataloader, before_iter=self._before_iter, after_iter=self._after_iter
        )
        bank = self._extract(self.bank_dataloader, before_iter=self._log_bank)
        if queries is not None:
            (query_features, query_labels), (bank_features, bank_labels) = queries, bank
            self.evaluator.process(
                data_samples=[
                    FeatureSet(
                        name,
                        bank_features[name],
                        bank_labels,
                        features,
                        query_labels,
                        self.overlap if self.overlap.num_queries else None,
                    )
                    for name, features in query_features.items()
                ]
            )
        metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
        self._call(f'after_{self.mode}_epoch', metrics=metrics)
        self._call(f'after_{self.mode}')
        return metrics

    def _extract(self, dataloader: DataLoader, **callbacks):
        return extract_features(
            self.runner.model,
            dataloader,
            self.networks,
            fp16=self.fp16,
            on_all_ranks=False,
            # One pass over the images serves all metrics.
            last_blocks=max(metric.last_blocks for metric in self.evaluator.metrics),
            maps=self.maps,
            **callbacks,
        )

    def _call(self, name: str, **kwargs) -> None:
        self.runner.call_hook(name, **kwargs)

    def _log_bank(self, index: int, batch: dict) -> None:
        if index % BANK_LOG_INTERVAL == 0:
            self.runner.logger.info(
                f'Features of the bank ({len(self.bank_dataloader.dataset)} images): '
                f'batch {index + 1} of {len(self.bank_dataloader)}'
            )

    def _before_iter(self, index: int, batch: dict) -> None:
        self._call(f'before_{self.mode}_iter', batch_idx=index, data_batch=batch)

    def _after_iter(self, index: int, batch: dict) -> None:
        outputs = batch['data_samples']
        self._call(f'after_{self.mode}_iter', batch_idx=index, data_batch=batch, outputs=outputs)


@LOOPS.register_module()
class FeatureValLoop(FeatureLoopMixin, ValLoop):
    """Validation of frozen features by k-NN, probes and the like.

    The loop's ``dataloader`` holds the queries. Features of queries and bank are extracted in
    evaluation mode, gathered on rank 0, and passed to the evaluator's metrics. The runner's hooks
    are called for the queries' batches.

    A query that is also an image of the bank is not its own neighbor, and no probe is trained on
    it; how many there are is logged. See :func:`~mmmokd.evaluation.overlap.find_overlap`.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): The labeled queries (a test set), without augmentation, in
            order.
        evaluator (Evaluator | dict | list): Metrics, each a :class:`FeatureMetric`.
        bank_dataloader (DataLoader | dict, optional): The labeled images to learn from (a
            training set), in the same pipeline as the queries, in order. What its config leaves out
            is as in that of ``dataloader``; so is what its dataset leaves out, if that has no
            ``type``: ``dict(dataset=dict(data_root='/my/train'))`` is enough. Defaults to None:
            ``bank_share`` of each class of the images of ``dataloader``; the rest are the queries.
        networks (Sequence[str]): ``'teacher'``, ``'student'`` or both. Without effect on models
            that have but one network. Defaults to ('teacher', ).
        fp16 (bool): Whether to run the model under autocast. Defaults to False.
        bank_share (float): Where there is no ``bank_dataloader``, see there. Always the same
            images, drawn with seed 0. Defaults to 0.8.
        maps (bool): Whether to evaluate the last feature maps of the branches as well, each as one
            vector of h * w * C numbers, by ``'{branch}.{network}.map'``. Unlike a pooled feature, a
            map keeps the spatial layout, which matters where images are aligned. It is kept for
            every image of the bank: use small maps only. Defaults to False.

    Raises:
        ValueError: If there is no network, a dataset is empty or not labeled or gives no batch of
            single views, the two have different classes or the bank has only one, the bank is too small
            for a metric, also without the queries, ``maps`` are asked for of a model without
            branches, or a metric is not a :class:`FeatureMetric`.

    Example:
        >>> val_dataloader = dict(dataset=test_set, sampler=in_order, ...)
        >>> val_cfg = dict(
        ...     type='mmmokd.FeatureValLoop',
        ...     bank_dataloader=dict(dataset=train_set, sampler=in_order, ...),
        ... )
        >>> val_evaluator = dict(type='mmmokd.KNNMetric', k=20)
        >>> default_hooks = dict(checkpoint=dict(save_best='cnn.teacher/knn_top1'))
    """

    mode = 'val'


@LOOPS.register_module()
class FeatureTestLoop(FeatureLoopMixin, TestLoop):
    """Test of frozen features; takes what :class:`FeatureValLoop` takes."""

    mode = 'test'
