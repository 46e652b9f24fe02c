# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math
from functools import partial

import torch
from mmengine.dist import all_gather, broadcast, get_world_size
from mmengine.hooks import Hook
from torch import Tensor, nn

from mmmokd.analysis import effective_rank, feature_std, mutual_information, prototype_entropy
from mmmokd.models.utils import capturable, when_computed
from mmmokd.registry import HOOKS
from mmmokd.structures import NetworkOutput
from mmmokd.utils import CollapseError
from mmmokd.utils.errors import ConfigError

from ..branches import get_branches

SIGNALS = ('entropy', 'mutual_info', 'feature_std', 'effective_rank')
# Two views of one image are to have one target: fewer rows than this say nothing.
MIN_ROWS = 4


@HOOKS.register_module()
class CollapseMonitorHook(Hook):
    """Monitors, without labels, whether a branch learns, and warns if it does not.

    Every ``interval`` iterations it looks at what each branch's teacher makes of the batch's global
    views, over all processes, through a loss head that gives ``targets()`` of the branch's own
    teacher, as :class:`~mmmokd.models.DistillationHead` does. It logs

    - ``{branch}.entropy``: mean entropy of a view's target over the K prototypes, as a share of
      log K: 1 is uniform;
    - ``{branch}.mutual_info``: what the target tells about the image, in nats: 0 if all
      have the same;
    - ``{branch}.feature_std``: spread of the directions of the backbone's features: 0 if all have
      the same one;
    - ``{branch}.effective_rank``: number of directions that the features fill.

    The targets are those of the step: with the center as it was before the step moved it. A branch
    without a teacher or without such a head is not watched, which the log says.

    A random network gives all images nearly the same features, and targets stay close to uniform
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
        min_std (float): Feature standard deviation below which features count as constant.
            Defaults to 0.01.
        max_samples (int): Views to look at, over all processes; of more, every n-th is taken. It
            bounds time and memory. Defaults to 256.
        head (str, optional): The term whose head gives the targets. Defaults to None, the first of
            a branch that can.

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
        self.max_samples = max_samples
        self.head = head
        self._handles: list = []
        self._records: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def before_train(self, runner) -> None:
        """Find the branches and, in each, the head to ask.

        Raises:
            ConfigError: If the model has no branches to watch.
            ConfigError: If no branch has the head of that name, or it gives no targets of the
                branch's own teacher.
        """
        branches = get_branches(runner.model, type(self).__name__)
        heads = {name: self._find_head(name, branch) for name, branch in branches.items()}
        self._watched = {name: (branches[name], head) for name, head in heads.items() if head}
        if self.head is not None and not self._watched:
            raise ConfigError(f'CollapseMonitorHook.head: no branch has a loss head {self.head!r}')
        if skipped := [name for name, head in heads.items() if head is None]:
            runner.logger.info(
                'CollapseMonitorHook does not watch what has no teacher of its own, or no head that '
                f'gives targets of it: {", ".join(skipped)}.'
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
        """Listen to the teachers in this iteration, if it is its turn."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        self._records = {name: [] for name in self._watched}
        for name, (branch, head) in self._watched.items():
            record = capturable(partial(self._record, name, head))
            self._handles.append(branch.teacher.register_forward_hook(record))

    @torch.no_grad()
    def _record(
        self, name: str, head: nn.Module, module: nn.Module, args: tuple, output: NetworkOutput
    ) -> None:
        # At once, for the center moves before the iteration ends. What is computed of the output here
        # is what the head reads later.
        features, logits = output['pooled'].flatten(0, 1), output[head.reads]
        logits = logits.flatten(0, -2)
        step = math.ceil(len(logits) * get_world_size() / self.max_samples)
        probs = head.targets(logits.detach()[::step].float())
        step = math.ceil(len(features) * get_world_size() / self.max_samples)
        record = features.detach()[::step].float(), probs
        when_computed(lambda: self._records[name].append(record))

    @torch.no_grad()
    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Log the signals and judge the branches.

        Raises:
            CollapseError: If a branch has collapsed and ``stop`` is set.
            RuntimeError: If a teacher did not run.
        """
        if not self._handles:
            return
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for name, records in self._records.items():
            if not records:
                raise RuntimeError(
                    f"the teacher of branch '{name}' did not run in this iteration: "
                    'CollapseMonitorHook has nothing to watch'
                )
            features, probs = (self._gather(parts) for parts in zip(*records, strict=True))
            signals = compute_signals(features, probs)
            for key, value in signals.items():
                runner.message_hub.update_scalar(f'train/{name}.{key}', value)
            self._judge(runner, name, signals, *probs.shape)
        self._records.clear()

    @staticmethod
    def _gather(parts: tuple[Tensor, ...]) -> Tensor:
        return torch.cat(all_gather(torch.cat(parts)))

    def _judge(
        self, runner, name: str, signals: dict[str, float], num_rows: int, num_prototypes: int
    ) -> None:
        """Count bad checks of a branch; warn or end the run at ``patience`` in a row."""
        iteration = runner.iter + 1
        if iteration <= self._warmup or num_rows < MIN_ROWS:
            return
        finding = self._diagnose(signals, num_rows, num_prototypes)
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

    def _diagnose(
        self, signals: dict[str, float], num_rows: int, num_prototypes: int
    ) -> str | None:
        """Describe what is wrong and what to change; None for a healthy branch."""
        if signals['feature_std'] < self.min_std:
            return (
                f"its teacher's backbone gave all {num_rows} views of the batch the same feature: "
                f'feature std {signals["feature_std"]:.5f}, expected above {self.min_std}. What to '
                'look at: are the images different, and is their normalization (mean and std of '
                'the data_preprocessor) right? What to change: lower the learning rate or warm it '
                'up for longer; leave mixed precision out.'
            )
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


def compute_signals(features: Tensor, probs: Tensor) -> dict[str, float]:
    """The signals of one branch, the same on all ranks.

    Args:
        features (Tensor): Backbone's features of n views, shape (n, C).
        probs (Tensor): Targets of the views, shape (n, K).

    Returns:
        dict[str, float]: By name, see :class:`CollapseMonitorHook`; NaN if there is one view only
        or a value is not finite.
    """
    values = torch.full((len(SIGNALS),), torch.nan, device=probs.device)
    if len(probs) > 1 and features.isfinite().all() and probs.isfinite().all():
        values = torch.stack(
            (
                prototype_entropy(probs).mean_share,
                mutual_information(probs),
                feature_std(features),
                effective_rank(features),
            )
        ).float()
    # Rounding may differ between devices, but all ranks have to come to the same judgment.
    broadcast(values, src=0)
    return dict(zip(SIGNALS, values.tolist(), strict=True))


def describe(signals: dict[str, float]) -> str:
    """Signals in words, for a log line.

    Args:
        signals (dict[str, float]): See :func:`compute_signals`.

    Returns:
        str: One line.
    """
    return (
        f'entropy {signals["entropy"]:.4f} of log K, mutual information '
        f'{signals["mutual_info"]:.4f} nats, feature std {signals["feature_std"]:.4f}, effective '
        f'rank {signals["effective_rank"]:.1f}'
    )
