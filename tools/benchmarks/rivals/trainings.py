# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Runs of the benchmark: begun, resumed, evaluated, recorded."""

import json
import os
import re
import shlex
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mmmokd.cli.config import read_config
from mmmokd.cli.run_script import run_script
from mmmokd.engine.hooks.checkpoint_hook import POINTER
from mmmokd.engine.resume.find import find_resume_checkpoint
from mmmokd.utils.atomic import atomic_write
from mmmokd.utils.config_changes import config_changes, describe_changes
from mmmokd.utils.config_tree import iter_dicts, type_name
from mmmokd.utils.errors import ConfigError, RunStoppedError, UserError
from mmmokd.visualization import read_scalars

from .cases import Case
from .recording import EPOCHS, MACHINE

RECORD = 'record.json'
BENCHMARKS = Path(__file__).resolve().parents[1]
# Of mmengine's log: validations, and warnings of images and of collapsed branches.
PROGRESS = re.compile(r'- (INFO - (?:Epoch\(val\).*top1.*|resum.*)|WARNING - (?:Branch|.*image).*)')
REASON = re.compile(r'^(?:error: .*|[\w.]*(?:Error|Exception|Interrupt)\b.*)$', re.MULTILINE)
PLAIN_K = 20  # neighbors of the table's k-NN
CURVES = ('knn_top1', 'effective_rank')


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of the frozen features at the end of a run.

    Attributes:
        networks (tuple[str]): ``'teacher'``, ``'student'`` or both. Defaults to ('teacher', ).
        linear_epochs (int): Epochs of linear probes; 0 leaves them out. Defaults to 100.
    """

    networks: tuple[str, ...] = ('teacher',)
    linear_epochs: int = 100

    def arguments(self) -> list[str]:
        """list[str]: For tools/evaluate.py."""
        linear = ['--linear-epochs', str(self.linear_epochs)]
        return [
            '--networks', *self.networks, '--knn', str(PLAIN_K),
            *(linear if self.linear_epochs else ['--no-linear']),
        ]  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """dict: For the record."""
        return dict(networks=[*self.networks], linear_epochs=self.linear_epochs)


class StaleRunError(ConfigError):
    """A folder holds a run of other settings."""


@dataclass
class Benchmark:
    """All runs of a folder.

    Attributes:
        out (Path): The folder.
        find_method (Callable): From a method's name to the method.
        data (dict[str, dict[str, Any]]): Options that say where a pair's images are, by pair.
        evaluation (Evaluation): See there.
        overwrite (bool): Whether a run of other settings is replaced. Defaults to False.
        records (dict[str, dict]): What is done, by case.
        failed (dict[str, str]): Why the others are not, by case.
    """

    out: Path
    find_method: Any
    data: Mapping[str, Mapping[str, Any]]
    evaluation: Evaluation = field(default_factory=Evaluation)
    overwrite: bool = False
    records: dict[str, dict] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def run(self, case: Case) -> dict[str, Any] | None:
        """Run a case, after the training of its teacher if it has one, unless that was done.

        Args:
            case (Case): The case.

        Returns:
            dict[str, Any] | None: Its record; None if it failed, see ``failed``.

        Raises:
            StaleRunError: If its folder holds a run of other settings.
        """
        if case.name not in self.records and case.name not in self.failed:
            try:
                self.records[case.name] = self._run(case)
            except StaleRunError:
                raise
            except Exception as error:  # of whatever kind, the other cases are to run
                kind = '' if isinstance(error, UserError) else f'{type(error).__name__}: '
                self.failed[case.name] = f'{kind}{error}'
                print(f'{case.name} failed: {self.failed[case.name]}', flush=True)
        return self.records.get(case.name)

    def _run(self, case: Case) -> dict[str, Any]:
        work_dir = self.out / case.name
        cfg = case.load(self.data.get(case.pair.name, {}), work_dir)
        teachers = self._teachers(case, cfg)
        record_costs(cfg)
        self._claim(work_dir, cfg)
        file = work_dir / RECORD
        if file.is_file():
            record = json.loads(file.read_text(encoding='utf-8'))
            if record['evaluation'] == self.evaluation.as_json():
                print(f'{case.name}: done by an earlier call', flush=True)
                return record
            file.unlink()
        print(f'\n=== {case.name} ===', flush=True)
        last = work_dir / f'epoch_{cfg.train_cfg.max_epochs}.pth'
        drop_unvalidated(work_dir)
        if case.method.before and not last.is_file():
            tool = BENCHMARKS.parent / case.method.before
            run_child([tool, config_file(work_dir)], work_dir / 'before.txt')
        command = [BENCHMARKS / 'rivals' / 'run_case.py', config_file(work_dir), last]
        run_child([*command, *self.evaluation.arguments()], work_dir / 'output.txt')
        record = self._record(case, cfg, work_dir, teachers)
        with atomic_write(file) as part:
            part.write_text(short_json(record), encoding='utf-8')
        for path in work_dir.glob('epoch_*.pth'):
            if path != last:
                path.unlink()
        return record

    def _teachers(self, case: Case, cfg: Config) -> list[dict[str, Any]]:
        """Train the branches that a config freezes, and let it take their weights."""
        found = []
        for name, branch in (cfg.model.get('branches') or {}).items():
            if not branch or not branch.get('frozen'):
                continue
            places = [
                node
                for _, node in iter_dicts(branch)
                if type_name(node.get('type')) == 'Pretrained' and 'checkpoint' in node
            ]
            if case.method.teacher is None:
                continue  # the config says which weights
            if not places:
                raise ConfigError(f'{case.config}: the frozen branch {name} loads no checkpoint')
            method = self.find_method(f'{case.method.teacher}@{name}')
            teacher = replace(case, method=method)
            record = self.run(teacher)
            if record is None:
                raise RunStoppedError(f'its teacher, {teacher.name}, failed')
            for node in places:
                node['checkpoint'] = str(self.out / teacher.name / record['checkpoint'])
            found.append(dict(branch=name, case=teacher.name, seconds=record['seconds']))
        return found

    def _claim(self, work_dir: Path, cfg: Config) -> None:
        """Let a folder hold this run alone."""
        file = config_file(work_dir)
        if file.is_file():
            changes = [*config_changes(read_config(file).to_dict(), cfg.to_dict())]
            if not changes:
                return
            if not self.overwrite:
                listed = '; '.join(describe_changes(changes, 5))
                raise StaleRunError(
                    f'{work_dir} holds a run of other settings ({listed}): replace it with '
                    '--overwrite, or name another folder by --out'
                )
            shutil.rmtree(work_dir)
        work_dir.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            part.write_text(cfg.pretty_text, encoding='utf-8')

    def _record(
        self, case: Case, cfg: Config, work_dir: Path, teachers: list[dict]
    ) -> dict[str, Any]:
        """Collect what a finished run wrote."""
        epochs = json.loads((work_dir / EPOCHS).read_text())
        evaluated = json.loads((work_dir / 'evaluation' / 'results.json').read_text())['results']
        branches = {name: b for name, b in cfg.model.branches.items() if b is not None}
        names = [*cfg.model.branches]
        options = {**case.pair_options(names), **case.method_options(names)}
        return dict(
            method=case.method.name,
            pair=case.pair.name,
            seed=case.seed,
            config=f'configs/{case.config}' if not Path(case.config).is_file() else case.config,
            size=case.size,
            data=[*case.folders] if case.folders else None,
            options=options,
            command=describe_command(case, self.evaluation),
            evaluation=self.evaluation.as_json(),
            machine=json.loads((work_dir / MACHINE).read_text()),
            epochs=len(epochs),
            images=epochs[0]['steps'] * cfg.train_dataloader.batch_size,
            batch_size=cfg.train_dataloader.batch_size,
            **costs(epochs, cfg.train_dataloader.batch_size),
            frozen=[name for name, branch in branches.items() if branch.get('frozen')],
            teachers=teachers,
            checkpoint=f'epoch_{cfg.train_cfg.max_epochs}.pth',
            curves=curves(work_dir, epochs, branches),
            results=results(evaluated, work_dir, branches),
        )


@contextmanager
def _path_for_children() -> Iterator[None]:
    """Let processes that are started find the hook and the metric, and this checkout."""
    before = os.environ.get('PYTHONPATH')
    paths = [str(BENCHMARKS), str(BENCHMARKS.parents[1]), *([before] if before else [])]
    os.environ['PYTHONPATH'] = os.pathsep.join(paths)
    try:
        yield
    finally:
        if before is None:
            del os.environ['PYTHONPATH']
        else:
            os.environ['PYTHONPATH'] = before


def run_child(command: Sequence[Any], output: Path) -> None:
    """Run a script.

    Args:
        command (Sequence): The script and its arguments.
        output (Path): File for its output.

    Raises:
        RunStoppedError: If it fails; names the last error in its output.
    """
    with _path_for_children():
        try:
            run_script(command, output, show=PROGRESS)
        except RunStoppedError as error:
            found = REASON.findall(output.read_text(encoding='utf-8'))
            raise RunStoppedError(
                f'{found[-1]} (all of its output: {output})' if found else str(error)
            ) from error


def config_file(work_dir: Path) -> Path:
    """Name the config of a run.

    Args:
        work_dir (Path): Folder of the run.

    Returns:
        Path: A file beside it: in it, the Runner would write its own under the same name.
    """
    return work_dir.with_name(f'{work_dir.name}.py')


def short_json(record: Mapping[str, Any]) -> str:
    """Write a record with a line for each of its values.

    Args:
        record (dict): Anything that JSON can hold.

    Returns:
        str: The content of a file.
    """
    lines = [f' {json.dumps(key)}: {json.dumps(value)}' for key, value in record.items()]
    return '{\n' + ',\n'.join(lines) + '\n}\n'


def record_costs(cfg: Config) -> None:
    """Add the benchmark's hooks and metric to a config.

    Args:
        cfg (Config): The config; changed in place.
    """
    imports = cfg.setdefault('custom_imports', ConfigDict(imports=[]))
    imports['imports'] = [*imports['imports'], 'rivals.recording']
    added = [dict(type='mmmokd.SameStartHook'), dict(type='mmmokd.CostRecordHook')]
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), *added]
    found = cfg.get('val_evaluator') or []
    metrics = [found] if isinstance(found, dict) else [*found]
    if metrics:
        cfg.val_evaluator = [*metrics, dict(type='mmmokd.EffectiveRankMetric')]


def drop_unvalidated(work_dir: Path) -> None:
    """Remove a newest checkpoint whose epoch has not been validated, so that the epoch is repeated.

    A run that is stopped between the two would lack that point of its curve.

    Args:
        work_dir (Path): Folder of the run.
    """
    newest = find_resume_checkpoint(work_dir)
    if newest is None:
        return
    cfg, epoch = read_config(config_file(work_dir)), int(newest.stem.rpartition('_')[2])
    due = epoch == cfg.train_cfg.max_epochs or epoch % cfg.train_cfg.get('val_interval', 1) == 0
    val = read_scalars(work_dir).val if [*work_dir.glob('*/vis_data/scalars.json')] else {}
    done = {x for points in val.values() for x, _ in points}
    if due and epoch not in done and cfg.get('val_cfg'):
        newest.unlink()
        (work_dir / POINTER).unlink(missing_ok=True)


def costs(epochs: Sequence[Mapping[str, Any]], batch_size: int) -> dict[str, Any]:
    """Sum up what the epochs of a run cost.

    Args:
        epochs (Sequence[dict]): From :class:`~rivals.recording.CostRecordHook`.
        batch_size (int): Images a step.

    Returns:
        dict[str, Any]: ``seconds`` of training, ``seconds_per_step``: the median over the epochs,
        without the first of each start if there are others, ``images_per_second``, ``memory_mib``
        and ``views``, a mark of all views.
    """
    steady = [entry for entry in epochs if not entry['first']] or epochs
    step = statistics.median(entry['seconds'] / entry['steps'] for entry in steady)
    memory = [entry['memory_mib'] for entry in epochs if entry['memory_mib'] is not None]
    return dict(
        seconds=round(sum(entry['seconds'] for entry in epochs), 2),
        steps=sum(entry['steps'] for entry in epochs),
        seconds_per_step=round(step, 5),
        images_per_second=round(batch_size / step, 1),
        memory_mib=max(memory, default=None),
        views=' '.join(entry['views'] for entry in (epochs[0], epochs[-1])),
    )


def curves(
    work_dir: Path, epochs: Sequence[Mapping[str, Any]], branches: Sequence[str]
) -> dict[str, dict[str, list]]:
    """Values of the validations over epochs and over seconds.

    Args:
        work_dir (Path): Folder of the run.
        epochs (Sequence[dict]): From :class:`~rivals.recording.CostRecordHook`.
        branches (Sequence[str]): Names of the branches.

    Returns:
        dict[str, dict[str, list]]: By branch and metric: lists of epoch, seconds of training until
        then, and value.
    """
    until, total = {0: 0.0}, 0.0
    for entry in epochs:
        total += entry['seconds']
        until[entry['epoch']] = round(total, 3)
    found: dict[str, dict[str, list]] = {}
    for key, points in read_scalars(work_dir).val.items():
        network, _, metric = key.partition('/')
        branch, _, kind = network.partition('.')
        if branch in branches and kind == 'teacher' and metric in CURVES:
            values = [[x, until[x], round(y, 4)] for x, y in points if x in until]
            found.setdefault(branch, {})[metric] = values
    return found


def results(evaluated: Mapping[str, Any], work_dir: Path, branches: Sequence[str]) -> dict:
    """Final values by network.

    Args:
        evaluated (dict): What tools/evaluate.py found, by network.
        work_dir (Path): Folder of the run.
        branches (Sequence[str]): Names of the branches.

    Returns:
        dict[str, dict[str, float]]: ``knn_top1`` and, where they were measured, ``linear_top1`` and
        ``effective_rank``, by branch or ``BRANCH.student``.
    """
    val, found = read_scalars(work_dir).val, {}
    for network, values in evaluated.items():
        branch, _, kind = network.partition('.')
        if branch not in branches or kind not in ('teacher', 'student'):
            continue
        name = branch if kind == 'teacher' else network
        found[name] = dict(knn_top1=round(values['knn_top1'][str(PLAIN_K)], 4))
        if 'linear_top1' in values:
            found[name]['linear_top1'] = round(values['linear_top1'], 4)
        if rank := val.get(f'{network}/effective_rank'):
            found[name]['effective_rank'] = round(rank[-1][1], 2)
    return found


def describe_command(case: Case, evaluation: Evaluation) -> str:
    """Write the command that runs one case.

    Args:
        case (Case): The case.
        evaluation (Evaluation): What is evaluated.

    Returns:
        str: For a shell.
    """
    words = ['python', 'tools/benchmarks/rivals.py', '--methods', case.method.name]
    words += ['--pairs', case.pair.name, '--seeds', str(case.seed)]
    words += ['--data', *case.folders] if case.folders else []
    if evaluation != Evaluation():
        words += ['--networks', *evaluation.networks]
        words += ['--linear-epochs', str(evaluation.linear_epochs)]
    if case.options:
        words += ['--cfg-options', *(f'{key}={value}' for key, value in case.options.items())]
    return shlex.join(words)
