# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import logging
from collections.abc import Sequence

from mmengine.device import get_device
from mmengine.logging import print_log
from torch import Tensor

from mmmokd.registry import METRICS
from mmmokd.utils.errors import ConfigError, DataError
from mmmokd.utils.state_dict import name_some

from ..functional import check_probe_settings, linear_probe
from ..overlap import Overlap
from .feature_metric import FeatureMetric, FeatureSet

# The MOKD authors' two and what lies around them. On fewer images than ImageNet has, and with
# them fewer steps, the best rate is higher than theirs.
DEFAULT_LRS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
POOLED_LR, BLOCKS_LR = 0.01, 0.001  # the authors'
# The bank without the queries, where it has some, must be worth learning from.
MIN_LEFT_SHARE = 0.1
HELD_OUT_PREFIX = 'linear_held_out_lr'


@METRICS.register_module()
class LinearProbeMetric(FeatureMetric):
    """Accuracy of a linear classifier of frozen features, in percent; see :func:`linear_probe`.

    It is not trained on images of the bank that are also queries; at least a tenth of the bank must
    be others.

    It reads what the authors of MOKD, as those of DINO, read: of a network with a class token that
    token after each of the last four blocks, concatenated; of any other its pooled feature. Logged
    as ``'{network}/linear_top1'`` and ``'{network}/linear_top5'``, with the learning rate chosen as
    ``'{network}/linear_lr'``.

    Args:
        lrs (Sequence[float] | float, optional): Learning rates, for a batch of 256, to choose
            between; one rate is not chosen but taken. None is the authors' own, without a choice:
            0.001 for a network that gave several blocks, 0.01 for one that gave its pooled
            feature. Defaults to nine from 0.001 to 10.
        epochs (int): Passes over the bank. Fewer, 10 for instance, are enough to follow a training
            run. Defaults to 100, the authors'.
        batch_size (int): Features a step. Defaults to 256.
        last_blocks (int): Of a network with a class token, the number of blocks; 1 is the pooled
            feature of any. Defaults to 4.
        held_out_share (float): Share of the bank to choose the rate by. Defaults to 0.1.
        topk (Sequence[int]): n of the top-n accuracies. Defaults to (1, 5).
        log_sweep (bool): Whether to log the top-1 of each rate on the held-out share, as
            ``'{network}/linear_held_out_lr{lr}'``. Defaults to False.
        seed (int): Of all that is random. Defaults to 0.
        device (str, optional): Where to compute. Defaults to None: the GPU if there is one.
        prefix (str, optional): See :class:`FeatureMetric`. Defaults to None.

    Raises:
        ValueError: If a setting is not positive.

    Example:
        >>> val_cfg = dict(type='mmmokd.FeatureValLoop', bank_dataloader=dict(...))
        >>> val_evaluator = [
        ...     dict(type='mmmokd.KNNMetric', k=20),
        ...     dict(type='mmmokd.LinearProbeMetric', epochs=10),
        ... ]
        >>> default_hooks = dict(checkpoint=dict(save_best='vit.teacher/linear_top1'))
    """

    def __init__(
        self,
        lrs: Sequence[float] | float | None = DEFAULT_LRS,
        epochs: int = 100,
        batch_size: int = 256,
        last_blocks: int = 4,
        held_out_share: float = 0.1,
        topk: Sequence[int] = (1, 5),
        log_sweep: bool = False,
        seed: int = 0,
        device: str | None = None,
        prefix: str | None = None,
    ) -> None:
        super().__init__(prefix=prefix)
        if not topk or min(topk) < 1:
            raise ConfigError(
                f'topk of LinearProbeMetric must be numbers of at least 1, but got {topk}'
            )
        if last_blocks < 1:
            raise ConfigError(
                f'last_blocks of LinearProbeMetric must be at least 1, but got {last_blocks}'
            )
        if not 0 < held_out_share < 1:
            raise ConfigError(
                f'held_out_share of LinearProbeMetric must be between 0 and 1, but got '
                f'{held_out_share}'
            )
        self.lrs = (lrs,) if isinstance(lrs, int | float) else lrs
        check_probe_settings((1.0,) if self.lrs is None else self.lrs, epochs, batch_size)
        self.epochs = epochs
        self.batch_size = batch_size
        self.last_blocks = last_blocks
        self.held_out_share = held_out_share
        self.topk = tuple(topk)
        self.log_sweep = log_sweep
        self.seed = seed
        self.device = device or get_device()

    def check_overlap(self, overlap: Overlap) -> None:
        left = int((overlap.bank < 0).sum())
        if left < MIN_LEFT_SHARE * len(overlap.bank):
            raise DataError(
                f'{overlap.num_queries} of {len(overlap.queries)} queries are also images of '
                f'the bank, which leaves a linear probe {left} of its {len(overlap.bank)} images to '
                'learn from: too few, and tested on what it has learned an accuracy means '
                'nothing. Give two sets of different images, or leave the probe out (--no-linear '
                'of tools/evaluate.py), for k-NN can do without'
            )

    def evaluate_set(self, features: FeatureSet) -> dict[str, float]:
        if features.overlap is not None:
            left = features.overlap.bank < 0
            lost = set(features.bank_labels.tolist()) - set(features.bank_labels[left].tolist())
            if lost:
                print_log(
                    f'without the queries, the bank has no image of {len(lost)} classes '
                    f'(numbers {name_some([*map(str, sorted(lost))])}): the linear probe of '
                    f'{features.name} cannot recognize them',
                    logger='current',
                    level=logging.WARNING,
                )
            features = features._replace(
                bank=features.bank[left], bank_labels=features.bank_labels[left]
            )
        return super().evaluate_set(features)

    def evaluate_features(
        self, bank: Tensor, bank_labels: Tensor, queries: Tensor, query_labels: Tensor
    ) -> dict[str, float]:
        several_blocks = bank.ndim == 3 and bank.shape[1] > 1
        author_lr = BLOCKS_LR if several_blocks else POOLED_LR
        probe = linear_probe(
            bank.flatten(1),
            bank_labels,
            queries.flatten(1),
            lrs=(author_lr,) if self.lrs is None else self.lrs,
            epochs=self.epochs,
            batch_size=self.batch_size,
            held_out_share=self.held_out_share,
            topk=max(self.topk),
            seed=self.seed,
            device=self.device,
        )
        hits = probe.predictions == query_labels[:, None]
        metrics = {
            f'linear_top{n}': 100.0 * hits[:, :n].any(dim=1).double().mean().item()
            for n in self.topk
        }
        metrics['linear_lr'] = probe.lr
        if self.log_sweep:
            metrics.update({f'{HELD_OUT_PREFIX}{lr:g}': x for lr, x in probe.held_out.items()})
        return metrics
