# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence

from mmengine.device import get_device
from torch import Tensor

from mmmokd.registry import METRICS
from mmmokd.utils.errors import ConfigError

from ..functional import check_num_neighbors, weighted_knn
from ..overlap import Overlap
from .feature_metric import FeatureMetric, FeatureSet


@METRICS.register_module()
class KNNMetric(FeatureMetric):
    """Accuracy of weighted k-NN classification, in percent; see :func:`weighted_knn`.

    A query that is also an image of the bank is not its own neighbor. Logged as
    ``'{network}/knn_top1'`` and ``'{network}/knn_top5'`` for the first ``k``, and as
    ``'{network}/knn_top1_k{k}'`` for each further one.

    Args:
        k (int | Sequence[int]): Numbers of neighbors. Defaults to 20.
        temperature (float): Temperature of the votes. Defaults to 0.07.
        topk (Sequence[int]): n of the top-n accuracies. Defaults to (1, 5).
        chunk_size (int): Rows compared at a time. Defaults to 4096.
        device (str, optional): Where to compute. Defaults to None: the GPU if there is one.
        prefix (str, optional): See :class:`FeatureMetric`. Defaults to None.

    Raises:
        ValueError: If an n of ``topk`` is below 1.

    Example:
        >>> val_cfg = dict(type='mmmokd.FeatureValLoop', bank_dataloader=dict(...))
        >>> val_evaluator = dict(type='mmmokd.KNNMetric', k=20)
    """

    def __init__(
        self,
        k: int | Sequence[int] = 20,
        temperature: float = 0.07,
        topk: Sequence[int] = (1, 5),
        chunk_size: int = 4096,
        device: str | None = None,
        prefix: str | None = None,
    ) -> None:
        super().__init__(prefix=prefix)
        if not topk or min(topk) < 1:
            raise ConfigError(f'topk of KNNMetric must be numbers of at least 1, but got {topk}')
        self.k = (k,) if isinstance(k, int) else tuple(k)
        self.temperature = temperature
        self.topk = tuple(topk)
        self.chunk_size = chunk_size
        self.device = device or get_device()

    def check_sizes(self, num_bank: int, num_queries: int) -> None:
        check_num_neighbors(self.k, num_bank)

    def check_overlap(self, overlap: Overlap) -> None:
        check_num_neighbors(self.k, len(overlap.bank), overlap.most_copies)

    def evaluate_set(self, features: FeatureSet) -> dict[str, float]:
        return self.evaluate_features(*features[1:])

    def evaluate_features(
        self,
        bank: Tensor,
        bank_labels: Tensor,
        queries: Tensor,
        query_labels: Tensor,
        overlap: Overlap | None = None,
    ) -> dict[str, float]:
        predictions = weighted_knn(
            bank,
            bank_labels,
            queries,
            k=self.k,
            temperature=self.temperature,
            topk=max(self.topk),
            chunk_size=self.chunk_size,
            device=self.device,
            identities=overlap,
        )
        hits = {k: classes == query_labels[:, None] for k, classes in predictions.items()}
        return {
            f'knn_top{n}' + (f'_k{k}' if k != self.k[0] else ''): (
                100.0 * hits[k][:, :n].any(dim=1).double().mean().item()
            )
            for k in self.k
            for n in self.topk
        }
