# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from abc import abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from mmengine.dist import broadcast_object_list, is_distributed, is_main_process
from mmengine.evaluator import BaseMetric
from torch import Tensor

from mmmokd.utils.errors import DataError, RunStoppedError

from ..overlap import Overlap

PATIENCE = timedelta(days=2)


class FeatureSet(NamedTuple):
    """Features by one network of a labeled bank and of the queries to be recognized.

    Attributes:
        name (str): Name of the network, as ``'cnn.teacher'``.
        bank (Tensor): Features of the bank, shape (N, b, C), float32, on the CPU: b blocks, the
            last one last, of a network that has such, else 1.
        bank_labels (Tensor): Shape (N, ), int64.
        queries (Tensor): Features of the queries, shape (Q, b, C).
        query_labels (Tensor): Shape (Q, ), int64.
        overlap (Overlap, optional): Which images are in both; None if none is.
    """

    name: str
    bank: Tensor
    bank_labels: Tensor
    queries: Tensor
    query_labels: Tensor
    overlap: Overlap | None = None


class FeatureMetric(BaseMetric):
    """A metric of frozen features: k-NN, a linear probe and the like.

    A subclass computes its values of one network in :meth:`evaluate_features`, and treats images
    that are both in the bank and queries in :meth:`evaluate_set`.
    :class:`FeatureValLoop` and :class:`FeatureTestLoop` drive it through mmengine's ``Evaluator``:
    ``val_evaluator`` may list several metrics. Their values are logged, and available to
    ``CheckpointHook.save_best`` and ``EarlyStoppingHook.monitor``, as ``'{network}/{metric}'``,
    ``'cnn.teacher/knn_top1'`` for instance.

    A metric that reads the class tokens of several last blocks of a ViT, and not its pooled feature
    alone, sets the class attribute ``last_blocks``.

    Rank 0 has the features and computes; the others get the result, or the error.

    Args:
        prefix (str, optional): What to put before the names, with a slash. Defaults to None.
    """

    default_prefix = ''
    last_blocks = 1

    def __init__(self, prefix: str | None = None) -> None:
        super().__init__(prefix=prefix)
        self._group = None

    @abstractmethod
    def evaluate_features(
        self, bank: Tensor, bank_labels: Tensor, queries: Tensor, query_labels: Tensor
    ) -> dict[str, float]:
        """Measure one network's features.

        Args:
            bank (Tensor): Labeled features to learn from, float32, on the CPU, of shape (N, C);
                (N, b, C) with b of at most ``last_blocks``, if that is more than 1.
            bank_labels (Tensor): Class ids, shape (N, ), int64.
            queries (Tensor): Features to be recognized, shape (Q, C) or (Q, b, C).
            query_labels (Tensor): Class ids, shape (Q, ), int64.

        Returns:
            dict[str, float]: Metrics by name. mmengine takes greater as better if ``'top'`` or
            ``'acc'`` is in the name.
        """

    def check_sizes(self, num_bank: int, num_queries: int) -> None:
        """Check before training what would fail after its first epoch. Nothing by default.

        Args:
            num_bank (int): Number of images in the bank.
            num_queries (int): Number of queries.

        Raises:
            ValueError: If the metric cannot be computed on so many images.
        """

    def check_overlap(self, overlap: Overlap) -> None:
        """Check before training that images which are both in the bank and queries do no harm.

        Args:
            overlap (Overlap): Which ones there are, at least one.

        Raises:
            ValueError: If the metric is meaningless on them; by default if there are any, for a metric
                that does not leave them out.
        """
        if type(self).evaluate_set is FeatureMetric.evaluate_set:
            raise DataError(
                f'{overlap.num_queries} of {len(overlap.queries)} queries are also images of '
                f'the bank, which {type(self).__name__} does not leave out: give it other images'
            )

    def evaluate_set(self, features: FeatureSet) -> dict[str, float]:
        """Measure one network's features, without what they give away.

        Args:
            features (FeatureSet): Blocks chosen; see :meth:`evaluate_features`.

        Returns:
            dict[str, float]: Metrics by name.
        """
        return self.evaluate_features(
            features.bank, features.bank_labels, features.queries, features.query_labels
        )

    def process(self, data_batch: Any, data_samples: Sequence[FeatureSet]) -> None:
        """Take features of whole datasets, one set for each network.

        Args:
            data_batch (Any): Not used.
            data_samples (Sequence[FeatureSet]): On rank 0 the features, elsewhere nothing.
        """
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[FeatureSet]) -> dict[str, float]:
        """Measure each network.

        Args:
            results (list[FeatureSet]): One for each network.

        Returns:
            dict[str, float]: Metrics by ``'{network}/{metric}'``.

        Raises:
            ValueError: If a metric cannot be computed; names the network.
        """
        metrics = {}
        for features in results:
            chosen = features._replace(
                bank=self._choose_blocks(features.bank),
                queries=self._choose_blocks(features.queries),
            )
            try:
                values = self.evaluate_set(chosen)
            except ValueError as error:
                raise DataError(f'{type(self).__name__} of {features.name}: {error}') from error
            metrics.update({f'{features.name}/{key}': value for key, value in values.items()})
        return metrics

    def _patient_group(self):
        """A group of all processes, in which the others wait for rank 0 as long as it takes."""
        if self._group is None and is_distributed():
            # Collectives of GPUs give up after ten minutes, and a probe of a large bank takes longer.
            self._group = torch.distributed.new_group(timeout=PATIENCE, backend='gloo')
        return self._group

    def _choose_blocks(self, features: Tensor) -> Tensor:
        return features[:, -1] if self.last_blocks == 1 else features[:, -self.last_blocks :]

    def evaluate(self, size: int) -> dict[str, float]:
        """Measure on rank 0 and give the result to all.

        Args:
            size (int): Not used: padding is already dropped.

        Returns:
            dict[str, float]: Metrics by name, the same on all ranks.

        Raises:
            RuntimeError: On other ranks, if rank 0 failed.
        """
        outcome, error = [None, None], None
        if is_main_process():
            try:
                metrics = self.compute_metrics(self.results)
                prefix = f'{self.prefix}/' if self.prefix else ''
                outcome[0] = {f'{prefix}{key}': value for key, value in metrics.items()}
            except Exception as caught:
                # The others wait for the broadcast below: they must hear of it before it goes up.
                error, outcome[1] = caught, f'{type(caught).__name__}: {caught}'
        self.results.clear()
        broadcast_object_list(outcome, group=self._patient_group())
        if error is not None:
            raise error
        if outcome[1] is not None:
            raise RunStoppedError(f'rank 0 failed to evaluate features: {outcome[1]}')
        return outcome[0]
