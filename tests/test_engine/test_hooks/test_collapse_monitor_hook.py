# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mokd_testing import BACKBONES, build_mokd, random_views, short_log, train
from torch import nn
from torch.utils.data import Dataset

from mmmokd.analysis import effective_rank, feature_std, mutual_information, prototype_entropy
from mmmokd.engine.hooks.collapse_monitor_hook import CollapseMonitorHook
from mmmokd.models.heads import DistillationHead
from mmmokd.models.necks import DINOProjector
from mmmokd.models.utils import step_graph
from mmmokd.structures import BackboneFeatures, NetworkOutput

PROTOTYPES, CHANNELS = 32, 16


class Network(nn.Module):
    """A projector on features that are given."""

    def __init__(self):
        super().__init__()
        self.projector = DINOProjector(CHANNELS, PROTOTYPES, hid_channels=24, bottleneck_channels=8)
        self.projector.init_weights()

    def forward(self, features):
        tokens = features[:, None]
        return NetworkOutput(self, [BackboneFeatures(features, tokens, (1, 1))], len(features))


class Branch(nn.Module):
    """A branch reduced to what the monitor touches: its networks and its heads."""

    def __init__(self, temperature=0.04, **heads):
        super().__init__()
        self.student = nn.Identity()
        self.teacher = Network()
        head = DistillationHead(PROTOTYPES, teacher_temp=temperature, warmup_teacher_temp_epochs=0)
        self.heads = nn.ModuleDict(dict(heads, self=head))

    def terms(self):
        return [(term, None, head) for term, head in self.heads.items()]


class Logger:
    def __init__(self):
        self.warnings, self.infos = [], []

    def warning(self, text):
        self.warnings.append(text)

    def info(self, text):
        self.infos.append(text)


class Drive:
    """Runs the hook over iterations of a model, without a Runner."""

    def __init__(self, branches, max_iters=1000, **kwargs):
        kwargs = dict(interval=10, warmup_iters=50, patience=3) | kwargs
        self.model = nn.Module()
        self.model.branches = nn.ModuleDict(branches)
        self.runner = SimpleNamespace(
            model=self.model,
            iter=0,
            max_iters=max_iters,
            message_hub=MessageHub('monitor'),
            logger=Logger(),
        )
        self.hook = CollapseMonitorHook(**kwargs)
        self.hook.before_train(self.runner)

    def step(self, features):
        """One iteration in which each teacher sees the given features."""
        self.hook.before_train_iter(self.runner, self.runner.iter)
        seen = {}
        for name, branch in self.model.branches.items():
            with torch.no_grad():
                head = branch.heads['self']
                logits = branch.teacher(features)[head.reads]  # (1, B, K)
                seen[name] = logits[0], head.targets(logits[0])
                head.update_center(logits)
        self.hook.after_train_iter(self.runner, self.runner.iter, outputs={})
        self.runner.iter += 1
        return seen

    def run(self, features, iters):
        for _ in range(iters):
            self.step(features())
        return self.runner.logger.warnings

    def scalar(self, name):
        return self.runner.message_hub.get_scalar(f'train/{name}').current()


def healthy(n=32):
    return lambda: torch.randn(n, CHANNELS)


def constant(n=32):
    return lambda: torch.ones(n, CHANNELS)


def test_signals_are_those_of_the_step_with_the_center_before_its_update():
    torch.manual_seed(0)
    drive = Drive(dict(cnn=Branch(), vit=Branch()), interval=2)
    drive.step(torch.randn(12, CHANNELS))
    assert 'train/cnn.entropy' not in drive.runner.message_hub.log_scalars
    features = torch.randn(12, CHANNELS)
    seen = drive.step(features)
    for name, (_, targets) in seen.items():
        assert drive.scalar(f'{name}.entropy') == pytest.approx(
            prototype_entropy(targets).mean_share.item(), rel=1e-5
        )
        assert drive.scalar(f'{name}.mutual_info') == pytest.approx(
            mutual_information(targets).item(), rel=1e-5
        )
        assert drive.scalar(f'{name}.feature_std') == pytest.approx(feature_std(features).item())
        assert drive.scalar(f'{name}.effective_rank') == pytest.approx(
            effective_rank(features).item(), rel=1e-5
        )
    assert not any('loss' in key for key in drive.runner.message_hub.log_scalars)


def test_listens_only_in_its_turn():
    drive = Drive(dict(cnn=Branch()), interval=10)
    hooks = drive.model.branches['cnn'].teacher._forward_hooks
    for i in range(20):
        drive.hook.before_train_iter(drive.runner, i)
        assert len(hooks) == (1 if i in (9, 19) else 0)
        drive.model.branches['cnn'].teacher(torch.randn(4, CHANNELS))
        drive.hook.after_train_iter(drive.runner, i)
        assert len(hooks) == 0
        drive.runner.iter += 1


def test_no_alarm_on_healthy_branches():
    torch.manual_seed(0)
    assert Drive(dict(cnn=Branch(0.04), vit=Branch(0.07))).run(healthy(), 100) == []
    assert Drive(dict(cnn=Branch()), warmup_iters=0).run(healthy(4), 100) == []


def test_uniform_targets_are_reported_once_with_what_to_change():
    torch.manual_seed(0)
    drive = Drive(dict(cnn=Branch(temperature=20.0), vit=Branch()))
    warnings = drive.run(healthy(), 100)
    assert len(warnings) == 1
    text = warnings[0]
    assert text.startswith("Branch 'cnn' has collapsed: in 3 checks in a row (iterations 60 to 80)")
    assert f'same uniform target over the {PROTOTYPES} prototypes' in text
    assert 'of log K, expected below 0.99' in text
    assert 'lower the teacher temperature' in text and 'learning rate' in text


def test_constant_targets():
    torch.manual_seed(0)
    # A projector that ignores its input, and a center that does not follow.
    branch = Branch()
    branch.teacher.projector.mlp[-1].weight.data.zero_()
    branch.teacher.projector.mlp[-1].bias.data.normal_()
    branch.heads['self'].center_momentum = 1.0
    (text,) = Drive(dict(cnn=branch)).run(healthy(), 100)
    assert 'gave all 32 views of the batch the same target, and not a uniform one' in text
    assert 'let the center follow faster' in text and 'at most 3.47' in text


def test_constant_features():
    torch.manual_seed(0)
    branch = Branch()
    branch.heads['self'].center_momentum = 1.0
    (text,) = Drive(dict(cnn=branch)).run(constant(), 100)
    assert 'the same feature: feature std 0.00000, expected above 0.01' in text
    assert 'normalization' in text


def test_episode_ends_and_another_begins():
    torch.manual_seed(0)
    drive = Drive(dict(cnn=Branch()))
    drive.run(healthy(), 100)
    assert drive.run(constant(), 100)[0].count('iterations 110 to 130') == 1
    drive.run(healthy(), 100)
    (info,) = drive.runner.logger.infos
    assert info.startswith("Branch 'cnn' has recovered from its collapse at iteration 2")
    assert len(drive.run(constant(), 100)) == 2


def test_patience_counts_checks_in_a_row():
    torch.manual_seed(0)
    drive = Drive(dict(cnn=Branch()))
    drive.run(healthy(), 60)
    for _ in range(5):
        drive.run(constant(), 20)
        # The center, which went after the constant, needs a while to come back.
        drive.run(healthy(), 20)
    assert drive.runner.logger.warnings == []


def test_stop_ends_the_run():
    torch.manual_seed(0)
    with pytest.raises(RuntimeError, match="Branch 'cnn' has collapsed"):
        Drive(dict(cnn=Branch()), stop=True).run(constant(), 100)


def test_nothing_is_said_in_warm_up():
    torch.manual_seed(0)
    assert Drive(dict(cnn=Branch()), warmup_iters=None, max_iters=20000).run(constant(), 1000) == []
    drive = Drive(dict(cnn=Branch()), warmup_iters=None, max_iters=20000)
    drive.runner.iter = 1000
    assert len(drive.run(constant(), 30)) == 1
    for max_iters, warmup in ((20000, 1000), (10000, 500), (1000, 500), (600, 300)):
        assert (
            Drive(dict(cnn=Branch()), warmup_iters=None, max_iters=max_iters).hook._warmup == warmup
        )


def test_one_image_says_nothing():
    torch.manual_seed(0)
    assert Drive(dict(cnn=Branch())).run(constant(2), 100) == []
    drive = Drive(dict(cnn=Branch()), interval=1)
    drive.step(torch.randn(1, CHANNELS))
    assert math.isnan(drive.scalar('cnn.entropy'))


def test_no_more_than_max_samples_are_looked_at():
    torch.manual_seed(0)
    drive = Drive(dict(cnn=Branch()), interval=1, max_samples=10)
    features = torch.randn(32, CHANNELS)
    drive.step(features)
    assert drive.scalar('cnn.feature_std') == pytest.approx(feature_std(features[::4]).item())


def test_broken_numbers_are_left_to_the_loss_hook():
    drive = Drive(dict(cnn=Branch()))
    assert drive.run(lambda: torch.full((8, CHANNELS), torch.nan), 100) == []
    assert math.isnan(drive.scalar('cnn.feature_std'))


def test_errors():
    runner = SimpleNamespace(model=nn.Linear(2, 2), max_iters=10)
    with pytest.raises(ValueError, match='for models with branches, as MOKD, but Linear has none'):
        CollapseMonitorHook().before_train(runner)
    with pytest.raises(ValueError, match='at least 1, but got 0 and 5'):
        CollapseMonitorHook(interval=0)
    drive = Drive(dict(cnn=Branch()), interval=1)
    drive.hook.before_train_iter(drive.runner, 0)
    with pytest.raises(RuntimeError, match="teacher of branch 'cnn' did not run"):
        drive.hook.after_train_iter(drive.runner, 0)


class Uncentered(nn.Module):
    """A head without targets, as those that compare pairs of views."""

    reads = target_reads = 'pooled'
    teacher = 'own'


def test_watches_the_heads_that_can_be_asked():
    """The first of a branch with targets of its own teacher; another one by its name."""
    plain, frozen, alone, fixed = Branch(), Branch(), Branch(), Branch()
    for branch in (plain, fixed):
        del branch.heads['self']
        branch.heads['koleo'] = Uncentered()
    frozen.student, alone.teacher, fixed.student.frozen_backbone = None, None, True
    branches = dict(plain=plain, frozen=frozen, alone=alone, fixed=fixed)
    drive = Drive(dict(branches, cnn=Branch(koleo=Uncentered())))
    assert {name: head for name, (_, head) in drive.hook._watched.items()} == {
        'plain': None,
        'alone': None,
        'cnn': drive.model.branches['cnn'].heads['self'],
    }
    (text,) = drive.runner.logger.infos
    assert (
        text.startswith('CollapseMonitorHook does not watch') and 'teacher: frozen, fixed' in text
    )

    other = DistillationHead(PROTOTYPES, student_temp=0.2)
    peers = DistillationHead(PROTOTYPES, teacher='peers')
    branches = dict(cnn=Branch(other=other, cross=peers))
    assert Drive(branches, head='other').hook._watched['cnn'][1] is other
    with pytest.raises(ValueError, match='no branch has a loss head .none.'):
        Drive(branches, head='none')
    with pytest.raises(
        ValueError, match="'cross' of branch cnn gives no targets of the branch's own"
    ):
        Drive(branches, head='cross')


SMALL = dict(backbone=BACKBONES['cnn'])
LINEAR = dict(hid_channels=20, out_channels=20)
SIMSIAM = dict(SMALL, projector=LINEAR, predictor=LINEAR)
TEACHER = dict(backbone=BACKBONES['vit'], frozen=True)
POOLED = dict(seed=dict(target_reads='pooled', queue_length=32))
# The model, and of its watched branches: the network, the neck and the numbers of its views.
WITHOUT_TARGETS = {
    'DoGoSimSiam': (
        dict(branches=dict(one=SIMSIAM, two=SIMSIAM)),
        dict(one=('student', 'projector', (0, 1)), two=('student', 'projector', (2, 3))),
    ),
    'MCL': (
        dict(branches=dict(one=SMALL), queue_length=32, neck_defaults=dict(out_channels=20)),
        dict(one=('teacher', 'projector', (1,))),
    ),
    # Its EMA teacher has no batch norm and does not run: nobody learns from it.
    'SEED': (
        dict(
            branches=dict(one=dict(SMALL, heads=POOLED), big=TEACHER),
            neck_defaults=dict(hid_channels=20, out_channels=24),
        ),
        dict(one=('student', 'projector', (0,))),
    ),
}


def watch(kind, views, iters=1, change=lambda model: None, **kwargs):
    """Watches an algorithm's losses; gives the model, and the drive with what was logged."""
    cfg, watched = WITHOUT_TARGETS[kind]
    model = build_mokd(**cfg, type=f'mmmokd.{kind}', global_size=32, **kwargs)
    for branch in model.branches.values():
        branch.load_state_dict(branch.state_dict())  # frozen ones have to be loaded
    change(model)
    drive = Drive(model.branches, interval=1, warmup_iters=0)
    used = [number for *_, numbers in watched.values() for number in numbers]
    for _ in range(iters):
        drive.hook.before_train_iter(drive.runner, 0)
        model(views[: max(used) + 1], mode='loss')
        drive.hook.after_train_iter(drive.runner, 0)
        drive.runner.iter += 1
    return model, drive


def plain_signals(rows):
    """Spread of the directions of rows, and number of directions that they fill."""
    rows = rows.detach().double().numpy()
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    shares = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    shares = shares[shares > 1e-9 * shares.max()] / shares.sum()
    std = np.mean(directions.std(axis=0)) * np.sqrt(rows.shape[1])
    return std, np.exp(-(shares * np.log(shares)).sum())


@pytest.mark.parametrize('kind', WITHOUT_TARGETS)
def test_branch_without_targets(kind):
    """Its numbers are those of a plain formula; healthy, constant, on a line."""
    views = random_views(20, (32, 32, 32, 32))
    model, drive = watch(kind, views, iters=3)
    assert drive.runner.logger.warnings == []
    watched = WITHOUT_TARGETS[kind][1]
    for name, (network, neck, numbers) in watched.items():
        network = getattr(model.branches[name], network)
        pooled = network.extract(torch.cat([views[i] for i in numbers])).pooled
        embedded = getattr(network, neck)((pooled,))
        embedded = embedded[-1] if isinstance(embedded, tuple) else embedded
        for what, rows in (('feature_std effective_rank', pooled), ('embedding_', embedded)):
            keys = what.split() if ' ' in what else [f'{what}std', f'{what}rank']
            for key, value in zip(keys, plain_signals(rows), strict=True):
                assert drive.scalar(f'{name}.{key}') == pytest.approx(value, rel=1e-4), (name, key)
    assert not any('entropy' in key for key in drive.runner.message_hub.log_scalars)

    _, drive = watch(kind, [torch.ones_like(view) for view in views], iters=4)
    assert len(drive.runner.logger.warnings) == len(watched)
    for text, (name, (network, *_)) in zip(
        drive.runner.logger.warnings, watched.items(), strict=True
    ):
        assert text.startswith(f"Branch '{name}' has collapsed: in 3 checks in a row (iterations")
        assert (
            f"its {network}'s backbone gave all" in text and 'views of the batch the same' in text
        )

    def flatten(model):  # a projector that keeps one direction of the features
        for name, (network, neck, _) in watched.items():
            layers = getattr(getattr(model.branches[name], network), neck).modules()
            *_, last = (each for each in layers if isinstance(each, nn.Linear))
            last.weight.data = torch.ones_like(last.weight) * last.weight[:1]

    _, drive = watch(kind, views, iters=4, change=flatten)
    assert len(drive.runner.logger.warnings) == len(watched)
    for text in drive.runner.logger.warnings:
        assert 'embeddings that differ in little more than one direction: effective rank' in text
        assert 'expected above 2.0 (at most' in text


def test_keys_of_several_groups_are_watched(monkeypatch):
    later = []  # as in a captured step, after each of whose replays these are called
    monkeypatch.setattr(step_graph, '_after_replay', later)
    with pytest.raises(RuntimeError, match="no network of branch 'one' ran"):
        watch('MCL', random_views(20, (32, 32)))
    assert len(later) == 4  # features and embeddings of both networks
    monkeypatch.undo()
    _, drive = watch('MCL', random_views(20, (32, 32)), key_groups=2)
    assert drive.scalar('one.effective_rank') > 2 and drive.scalar('one.embedding_rank') > 2


class Noise(Dataset):
    metainfo = dict()

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return dict(inputs=torch.randn(CHANNELS))


class OneBranchModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleDict(dict(cnn=Branch()))
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs, data_samples=None, mode='loss'):
        self.branches['cnn'].teacher(torch.stack(inputs))['projector']
        return dict(loss=self.weight.square())


def test_signals_are_in_the_progress_line(tmp_path):
    lines = []

    class Line(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            lines.append(runner.log_processor.get_log_after_iter(runner, batch_idx, 'train'))

    with short_log():
        runner = Runner(
            model=OneBranchModel(),
            work_dir=str(tmp_path),
            experiment_name=tmp_path.name,
            train_dataloader=dict(
                dataset=Noise(), batch_size=8, sampler=dict(type='DefaultSampler', shuffle=True)
            ),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            custom_hooks=[CollapseMonitorHook(interval=2), Line()],
        )
    runner.train()
    (first, _), (tags, line) = lines
    assert 'cnn.entropy' not in first
    for key in ('cnn.entropy', 'cnn.mutual_info', 'cnn.feature_std', 'cnn.effective_rank'):
        assert f'{key}: ' in line and key in tags
    assert tags['loss'] == pytest.approx((1 + 0.64) / 2, rel=1e-3)


def test_run_of_mokd(runner_cfg):
    cfg = runner_cfg(max_epochs=5)
    for branch in cfg.model.branches.values():
        head = dict(teacher_temp=100.0, warmup_teacher_temp=100.0)
        branch.heads = dict.fromkeys(('sm', 'st', 'cm', 'ct'), head)
    monitor = CollapseMonitorHook(interval=1, warmup_iters=2, patience=4, stop=True, min_std=0.0)
    text = r"Branch 'cnn' has collapsed: .* \(iterations 3 to 6\) its teacher gave all 8 views"
    with pytest.raises(RuntimeError, match=f'{text} .* uniform target over the 10 prototypes'):
        train(cfg, monitor)
