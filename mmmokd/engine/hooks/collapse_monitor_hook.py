# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math
from collections.abc import Callable
from functools import partial

import torch
from mmengine.dist import all_gather, broadcast, get_world_size
from mmengine.hooks import Hook
from torch import Tensor, nn

from mmmokd.analysis import effective_rank, feature_std, mutual_information, prototype_entropy
from mmmokd.models.utils import capturable, when_computed
from mmmokd.registry import HOOKS
from mmmokd.structures import NetworkOutput
from mmmokd.structures.network_output import FEATURES
from mmmokd.utils import CollapseError
from mmmokd.utils.errors import ConfigError

from ..branches import get_branches

NETWORKS = ('teacher', 'student')  # the first that runs is watched
# Two views of one image are to have one target: fewer rows than this say nothing.
MIN_ROWS = 4
# Nor does the rank of features that can have no higher one than this.
MIN_MOST_RANK = 15


@HOOKS.register_module()
class CollapseMonitorHook(Hook):
    """Monitors, without labels, whether a branch learns, and warns if it does not.

    Every ``interval`` iterations it looks at what each branch makes of the batch's global views, over
    all processes. It logs

    - ``{branch}.feature_std``: spread of the directions of the backbone's features: 0 if all have
      the same one;
    - ``{branch}.effective_rank``: number of directions that the features fill;

    where a loss head gives ``targets()`` of the branch's own EMA teacher, as
    :class:`~mmmokd.models.DistillationHead` does,

    - ``{branch}.entropy``: mean entropy of a view's target over the K prototypes, as a share of
      log K: 1 is uniform;
    - ``{branch}.mutual_info``: what the target tells about the image, in nats: 0 if all
      have the same;

    and where a head without targets compares the output of a neck, as a projector or predictor,

    - ``{branch}.embedding_std`` and ``{branch}.embedding_rank``: ``feature_std`` and ``effective_rank``
      of that output.

    They are of the teacher, if there is one that runs it, else of the student. The targets are those of
    the step: with the center as it was before the step moved it. A branch that is frozen is not
    watched, nor is one with a frozen backbone and without targets, which the log says.

    A collapse shows as follows. All targets are the same (`DINO
    <https://arxiv.org/abs/2104.14294>`_). All features or embeddings have one direction, so that
    their std is 0 (`SimSiam <https://arxiv.org/abs/2011.10566>`_). Or they differ along a line: a
    batch norm in a projector keeps the std up, and the rank tells (`dimensional collapse
    <https://arxiv.org/abs/2110.09348>`_).

    A random network may give all images nearly the same features, and targets stay close to uniform
    while the center settles and the learning rate warms up: a branch is judged after
    ``warmup_iters`` only, and after ``patience`` bad checks in a row. The warning comes once an
    episode.

    Args:
        interval (int): Iterations between checks. Defaults to 50.
        warmup_iters (int, optional): Iterations before a branch is judged. Defaults to None: a
            twentieth of the run, at least 500 or, of a run below 1000, a half.
        patience (int): Bad checks in a row that make a collapse. Defaults to 5.
        stop (bool): Whether a collapse ends the run with an error. Defaults to False.
        min_info (float): Mutual information, as a share of its largest value (the log of the number
            of views or prototypes), below which targets no longer tell images apart. Defaults to
            0.005: collapsed pairs of small models had below 0.001, a sluggish one 0.015.
        max_entropy (float): Entropy, as a share of log K, above which such targets are called
            uniform, and below which constant. Defaults to 0.99.
        min_std (float): Standard deviation of features or embeddings below which they count as
            constant. Defaults to 0.01.
        min_rank (float): Effective rank of features or embeddings below which they count as collapsed
            to a line. Batches whose rank can be at most 14 are not judged by it. Defaults to 2.0:
            embeddings of small SimSiam models had 1.1 to 1.9 without its stop-gradient, 5 to 50 with
            it.
        max_samples (int): Views to look at, over all processes; of more, every n-th is taken. It
            bounds time and memory. Defaults to 256.
        head (str, optional): The term whose head gives the targets; branches without it are watched
            as if they had none. Defaults to None, the first of a branch that can.

    Raises:
        ConfigError: If ``interval`` or ``patience`` is below 1 or, when training begins, if no branch
            has ``head``.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        interval: int = 50,
        warmup_iters: int | None = None,
        patience: int = 5,
        stop: bool = False,
        min_info: float = 0.005,
        max_entropy: float = 0.99,
        min_std: float = 0.01,
        min_rank: float = 2.0,
        max_samples: int = 256,
        head: str | None = None,
    ) -> None:
        if interval < 1 or patience < 1:
            raise ConfigError(
                'interval and patience of CollapseMonitorHook must be at least 1, but got '
                f'{interval} and {patience}'
            )
        self.interval = interval
        self.warmup_iters = warmup_iters
        self.patience = patience
        self.stop = stop
        self.min_info = min_info
        self.max_entropy = max_entropy
        self.min_std = min_std
        self.min_rank = min_rank
        self.max_samples = max_samples
        self.head = head
        self._handles: list = []
        # Of each branch: by what it is and the network that gave it.
        self._records: dict[str, dict[tuple[str, str], list[Tensor]]] = {}

    def before_train(self, runner) -> None:
        """Find the branches and, in each, the head to ask.

        Raises:
            ConfigError: If the model has no branches to watch.
            ConfigError: If no branch has the head of that name, or it gives no targets of the
                branch's own teacher.
        """
        branches = get_branches(runner.model, type(self).__name__)
        heads = {name: self._find_head(name, branch) for name, branch in branches.items()}
        if self.head is not None and not any(heads.values()):
            raise ConfigError(f'CollapseMonitorHook.head: no branch has a loss head {self.head!r}')
        self._watched = {
            name: (branch, heads[name])
            for name, branch in branches.items()
            if heads[name] is not None or _trains_backbone(branch)
        }
        if skipped := [name for name in branches if name not in self._watched]:
            runner.logger.info(
                'CollapseMonitorHook does not watch branches whose backbone is frozen and that have '
                f"no head with targets of the branch's own teacher: {', '.join(skipped)}."
            )
        self._warmup = self.warmup_iters
        if self._warmup is None:
            self._warmup = max(min(500, runner.max_iters // 2), runner.max_iters // 20)
        self._bad_checks = dict.fromkeys(self._watched, 0)

    def _find_head(self, name: str, branch: nn.Module) -> nn.Module | None:
        """The head of a branch by whose targets it is judged; None if it has none."""
        if branch.student is None or branch.teacher is None:
            return None
        named = [head for term, _, head in branch.terms() if self.head in (None, term)]
        found = [head for head in named if head.teacher == 'own' and hasattr(head, 'targets')]
        if self.head is not None and named and not found:
            raise ConfigError(
                f'CollapseMonitorHook.head: the head {self.head!r} of branch {name} gives no targets '
                "of the branch's own teacher: name another, or None for the first that does"
            )
        return found[0] if found else None

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Listen to the networks in this iteration, if it is its turn."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        self._records = {name: {} for name in self._watched}
        for name, (branch, head) in self._watched.items():
            neck = _find_embedding(branch, with_peers=head is None)
            # Whether a teacher runs that no head learns from is up to the algorithm.
            alone = head is not None and neck is None
            for network in NETWORKS[:1] if alone else NETWORKS:
                if (module := getattr(branch, network)) is not None:
                    asked = head if network == 'teacher' else None
                    record = partial(self._record, name, network, asked, neck)
                    self._handles.append(module.register_forward_hook(capturable(record)))

    @torch.no_grad()
    def _record(
        self,
        name: str,
        network: str,
        head: nn.Module | None,
        neck: str | None,
        module: nn.Module,
        args: tuple,
        output: NetworkOutput,
    ) -> None:
        # Views of one size, the global ones among them.
        self._keep(name, network, 'features', output.passes[0].pooled)
        if head is not None:
            # At once, for the center moves before the iteration ends. What is computed of the output
            # here is what the head reads later.
            logits = self._choose(output[head.reads].flatten(0, -2))
            self._keep(name, network, 'targets', head.targets(logits), chosen=True)
        if neck is not None:
            output.watch(neck, partial(self._keep, name, network, 'embeddings'))

    def _keep(self, name: str, network: str, kind: str, rows: Tensor, chosen: bool = False) -> None:
        if rows.ndim != 2:
            return  # of a neck with an output for each token
        rows = rows if chosen else self._choose(rows)
        key = kind, network
        when_computed(lambda: self._records[name].setdefault(key, []).append(rows))

    def _choose(self, rows: Tensor) -> Tensor:
        """Every n-th row, so that of all processes there are at most ``max_samples``."""
        step = math.ceil(len(rows) * get_world_size() / self.max_samples)
        return rows.detach()[::step].float()

    @torch.no_grad()
    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Log the signals and judge the branches.

        Raises:
            CollapseError: If a branch has collapsed and ``stop`` is set.
            RuntimeError: If no network of a branch ran.
        """
        if not self._handles:
            return
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for name, records in self._records.items():
            if self._watched[name][1] is not None and ('targets', 'teacher') not in records:
                raise RuntimeError(
                    f"the teacher of branch '{name}' did not run in this iteration: "
                    'CollapseMonitorHook has nothing to watch'
                )
            if not records:
                raise RuntimeError(
                    f"no network of branch '{name}' ran in this iteration: CollapseMonitorHook has "
                    'nothing to watch'
                )
            found, networks = {}, {}
            for kind, network in sorted(records, key=lambda key: NETWORKS.index(key[1])):
                if kind not in found:
                    found[kind] = self._gather(records[kind, network])
                    networks[kind] = network
            signals = compute_signals(**found)
            for key, value in signals.items():
                runner.message_hub.update_scalar(f'train/{name}.{key}', value)
            shapes = {kind: rows.shape for kind, rows in found.items()}
            self._judge(runner, name, signals, networks, shapes)
        self._records.clear()

    @staticmethod
    def _gather(parts: list[Tensor]) -> Tensor:
        return torch.cat(all_gather(torch.cat(parts)))

    def _judge(
        self,
        runner,
        name: str,
        signals: dict[str, float],
        networks: dict[str, str],
        shapes: dict[str, torch.Size],
    ) -> None:
        """Count bad checks of a branch; warn or end the run at ``patience`` in a row."""
        iteration = runner.iter + 1
        if iteration <= self._warmup or shapes['features'][0] < MIN_ROWS:
            return
        finding = self._diagnose_features(signals, networks['features'], *shapes['features'])
        if finding is None and 'targets' in shapes:
            finding = self._diagnose_targets(signals, *shapes['targets'])
        if finding is None and 'embeddings' in shapes:
            finding = self._diagnose_embeddings(
                signals, networks['embeddings'], *shapes['embeddings']
            )
        if finding is None:
            if self._bad_checks[name] >= self.patience:
                runner.logger.info(
                    f"Branch '{name}' has recovered from its collapse at iteration {iteration}: "
                    f'{describe(signals)}.'
                )
            self._bad_checks[name] = 0
            return
        self._bad_checks[name] += 1
        if self._bad_checks[name] != self.patience:
            return
        since = iteration - (self.patience - 1) * self.interval
        message = (
            f"Branch '{name}' has collapsed: in {self.patience} checks in a row (iterations "
            f'{since} to {iteration}) {finding} (Last check: {describe(signals)}.)'
        )
        if self.stop:
            raise CollapseError(message)
        runner.logger.warning(message)

    def _diagnose_features(
        self, signals: dict[str, float], network: str, num_rows: int, num_channels: int
    ) -> str | None:
        """Describe features that hardly differ, and what to change; None for others."""
        fault = self._describe_spread(
            'feature', signals['feature_std'], signals['effective_rank'], num_rows, num_channels
        )
        return fault and (
            f"its {network}'s backbone gave all {num_rows} views of the batch {fault}. What to "
            'look at: are the images different, and is their normalization (mean and std of '
            'the data_preprocessor) right? What to change: lower the learning rate or warm it '
            'up for longer; leave mixed precision out.'
        )

    def _diagnose_embeddings(
        self, signals: dict[str, float], network: str, num_rows: int, num_channels: int
    ) -> str | None:
        """Describe embeddings that hardly differ, and what to change; None for others."""
        fault = self._describe_spread(
            'embedding', signals['embedding_std'], signals['embedding_rank'], num_rows, num_channels
        )
        return fault and (
            f'its {network} gave all {num_rows} views of the batch {fault}. What to look at: does '
            'that work which keeps the method from a collapse (targets without gradient, a '
            'predictor, an EMA teacher, other images to differ from)? What to change: lower the '
            'learning rate or warm it up for longer; use a larger batch.'
        )

    def _describe_spread(
        self, what: str, std: float, rank: float, num_rows: int, num_channels: int
    ) -> str | None:
        most = min(num_rows - 1, num_channels)
        if std < self.min_std:
            return f'the same {what}: {what} std {std:.5f}, expected above {self.min_std}'
        if most >= MIN_MOST_RANK and rank < self.min_rank:
            return (
                f'{what}s that differ in little more than one direction: effective rank {rank:.2f}, '
                f'expected above {self.min_rank} (at most {most})'
            )
        return None

    def _diagnose_targets(
        self, signals: dict[str, float], num_rows: int, num_prototypes: int
    ) -> str | None:
        """Describe what is wrong with targets and what to change; None for healthy ones."""
        largest = math.log(min(num_rows, num_prototypes))
        if not signals['mutual_info'] < self.min_info * largest:
            return None
        info = (
            f'mutual information of view and prototype {signals["mutual_info"]:.5f} nats, expected '
            f'above {self.min_info * largest:.3f} (at most {largest:.2f})'
        )
        if signals['entropy'] > self.max_entropy:
            return (
                f'its teacher gave all {num_rows} views of the batch the same uniform target over '
                f'the {num_prototypes} prototypes: mean entropy {signals["entropy"]:.4f} of log K, '
                f'expected below {self.max_entropy}; {info}. What to change, one at a time: lower '
                "the teacher temperature (the heads' teacher_temp and warmup_teacher_temp); lower "
                'the learning rate or warm it up for longer; let the center follow more slowly '
                '(center_momentum closer to 1); use a larger batch; leave mixed precision out.'
            )
        return (
            f'its teacher gave all {num_rows} views of the batch the same target, and not a '
            f'uniform one: {info}. What to change, one at a time: let the center follow faster '
            "(lower center_momentum; 0.9 is usual); raise the teacher temperature (the heads' "
            'teacher_temp); lower the learning rate or warm it up for longer; freeze the '
            'prototypes for more epochs; use a larger batch.'
        )


def compute_signals(
    features: Tensor, targets: Tensor | None = None, embeddings: Tensor | None = None
) -> dict[str, float]:
    """The signals of one branch, the same on all ranks.

    Args:
        features (Tensor): Backbone's features of n views, shape (n, C).
        targets (Tensor, optional): Targets of m views, shape (m, K). Defaults to None.
        embeddings (Tensor, optional): Embeddings of m views, shape (m, D). Defaults to None.

    Returns:
        dict[str, float]: By name, see :class:`CollapseMonitorHook`, of what is given. NaN if there is
        one view only or a value is not finite.
    """
    values: dict[str, Tensor] = {}
    nan = features.new_full((), torch.nan)

    def add(rows: Tensor, **signals: Callable[[Tensor], Tensor]) -> None:
        known = len(rows) > 1 and rows.isfinite().all()
        values.update({k: signal(rows) if known else nan for k, signal in signals.items()})

    if targets is not None:
        add(targets, entropy=_mean_share, mutual_info=mutual_information)
    add(features, feature_std=feature_std, effective_rank=effective_rank)
    if embeddings is not None:
        add(embeddings, embedding_std=feature_std, embedding_rank=effective_rank)
    # Rounding may differ between devices, but all ranks have to come to the same judgment.
    found = torch.stack([*values.values()]).float()
    broadcast(found, src=0)
    return dict(zip(values, found.tolist(), strict=True))


def _mean_share(probs: Tensor) -> Tensor:
    return prototype_entropy(probs).mean_share


def describe(signals: dict[str, float]) -> str:
    """Signals in words, for a log line.

    Args:
        signals (dict[str, float]): See :func:`compute_signals`.

    Returns:
        str: One line.
    """
    words = dict(
        entropy='entropy {:.4f} of log K',
        mutual_info='mutual information {:.4f} nats',
        feature_std='feature std {:.4f}',
        effective_rank='effective rank {:.1f}',
        embedding_std='embedding std {:.4f}',
        embedding_rank='embedding rank {:.1f}',
    )
    return ', '.join(words[name].format(value) for name, value in signals.items())


def _trains_backbone(branch: nn.Module) -> bool:
    student = branch.student
    return student is not None and not getattr(student, 'frozen_backbone', False)


def _find_embedding(branch: nn.Module, with_peers: bool) -> str | None:
    """The first neck whose output is compared by a head without targets; None if there is none."""
    for _, _, head in branch.terms():
        if hasattr(head, 'targets') or (head.teacher == 'peers' and not with_peers):
            continue
        # What a head reads of peers is theirs.
        reads = head.reads if head.teacher == 'peers' else head.target_reads
        if reads not in FEATURES:
            return reads
    return None
