# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Variants of MOKD that are configs alone, with tiny models: two steps of each against its formula."""

from pathlib import Path

import numpy as np
import pytest
import torch
from config_testing import dicts, draw_image
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mokd_testing import branch_cfg, build_mokd, build_runner
from plain_mokd import run_network, search_loss, view_loss

from mmmokd.cli.config import load_config
from mmmokd.datasets import LabeledShare, iter_datasets
from mmmokd.models.heads import ClassificationHead
from mmmokd.registry import DATASETS

ROOT = Path(__file__).parents[2] / 'configs'
VARIANTS = sorted((ROOT / 'mokd' / 'variants').glob('*.py'))
BATCH, STEPS = 4, 2
CROP = dict(type='mmmokd.MultiCrop', groups=[dict(num=2, size=16, scale=(0.5, 1.0))])


@pytest.fixture
def cifar(data_roots):
    return data_roots['CIFAR10']


class Steps(Hook):
    """Ends the run after two steps; keeps their losses, and what ``plain`` made of model and batch."""

    priority = 'VERY_LOW'

    def __init__(self, plain=lambda model, views, data_samples: {}):
        self.plain = plain
        self.losses, self.expected, self.calls = [], [], []

    def before_train(self, runner):
        for name, module in runner.model.named_modules():
            if name.endswith('backbone'):
                module.register_forward_hook(lambda *_, key=name: self.calls[-1].append(key))

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.calls.append([])  # thrown away
        data = runner.model.data_preprocessor(data_batch, training=True)
        found = self.plain(runner.model, data['inputs'], data.get('data_samples'))
        self.expected.append({key: value.detach() for key, value in found.items()})
        self.calls[-1] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({k: v.detach() for k, v in outputs.items() if '.loss_' in k})
        runner.train_loop.stop_training = len(self.losses) >= STEPS

    def check(self, keys, **tolerance):
        for losses, expected in zip(self.losses, self.expected, strict=True):
            assert set(losses) == set(keys)
            for key, value in expected.items():
                torch.testing.assert_close(losses[key], value, msg=key, **tolerance)


def tiny(variant, tmp_path, cifar=None):
    """The config of a variant with tiny models; on random views where it is for ImageNet."""
    path, *_ = [path for path in VARIANTS if path.name.startswith(f'{variant}_')]
    cfg = Config.fromfile(path)
    cfg.model.global_size = 32
    for branch in filter(None, cfg.model.branches.values()):
        backbone = branch.backbone
        is_vit = 'VisionTransformer' in backbone.type or 'vit' in backbone.get('model_name', '')
        small = branch_cfg('vit' if is_vit else 'cnn')
        for part in ('backbone', 'projector', 'search_head'):
            if branch.get(part, {}) is not None:
                branch[part] = small[part]
    for node in dicts(cfg._cfg_dict):
        if node.get('type') == 'NonLinearNeck':
            widths = dict(in_channels=8, hid_channels=16, out_channels=8)
            node.update({k: v for k, v in widths.items() if k in node})
        elif node.get('type') == 'mmmokd.MultiCrop':
            node.groups[-1].num = 2
        elif node.get('type') == 'CIFAR10':
            node.data_root = str(cifar)
    loader = dict(batch_size=BATCH, num_workers=0, persistent_workers=False, pin_memory=False)
    loader['num_batch_per_epoch'] = STEPS
    if cifar is None:
        loader['dataset'] = dict(type='mmmokd.RandomViews', length=STEPS * BATCH, _delete_=True)
        cfg.data_preprocessor = dict(type='mmengine.BaseDataPreprocessor')
        cfg.default_hooks.pop('data_health')
    cfg.merge_from_dict(dict(train_dataloader=loader))
    for key in ('val', 'test'):
        for kind in ('cfg', 'dataloader', 'evaluator'):
            cfg.pop(f'{key}_{kind}', None)
    for key in ('dtype', 'loss_scale'):
        cfg.optim_wrapper.pop(key)
    cfg.optim_wrapper.type = 'OptimWrapper'
    cfg.default_hooks.update(checkpoint=None, logger=dict(type='LoggerHook', interval=1))
    cfg.default_hooks.collapse_monitor.interval = 1
    cfg.update(work_dir=str(tmp_path), experiment_name=tmp_path.name, visualizer=None)
    cfg.log_level = 'WARNING'
    return cfg


def train(cfg, plain=lambda *_: {}):
    hook = Steps(plain)
    runner = build_runner(cfg, hook)
    runner.train()
    return runner.model, hook, runner


def outputs(network, views):
    """Terms of plain_mokd for views."""
    return [run_network(network, view) for view in views]


def plain_terms(own, edges):
    """MOKD's terms, written plainly, for branches that learn from themselves and along edges."""

    def plain(model, views, data_samples):
        branches = model.branches
        students = {n: outputs(b.student, views) for n, b in branches.items() if b.student}
        with torch.no_grad():
            teachers = {n: outputs(b.teacher, views[:2]) for n, b in branches.items()}
        found = {}
        for i, student in students.items():
            heads = branches[i].heads
            for term, output in (('sm', 'm'), ('st', 't')):
                if term in own.get(i, ()):
                    found[f'{i}.loss_{term}'] = distill(heads[term], student, teachers[i], output)
            for j, weight in edges.get(i, {}).items():
                cm, ct = heads['cm'][j], heads['ct'][j]
                found[f'{i}.loss_cm.{j}'] = weight * distill(cm, student, teachers[j], 'm')
                found[f'{i}.loss_ct.{j}'] = weight * search_loss(
                    [s['t'] for s in student[2:]],
                    [s['query'] for s in student[2:]],
                    teachers[j][0]['tokens'],
                    dict(branches[j].teacher.search_head.named_parameters()),
                    ct.student_temp,
                    ct.teacher_temp,
                )
        return found

    return plain


def distill(head, student, teacher, output):
    students, targets = ([x[output] for x in each] for each in (student, teacher))
    return view_loss(students, targets, head.center[0], head.student_temp, head.teacher_temp)


def both(own, edges):
    """Keys of the losses."""
    keys = {f'{i}.loss_{term}' for i, terms in own.items() for term in terms}
    return keys | {
        f'{i}.loss_{t}.{j}' for i, peers in edges.items() for j in peers for t in ('cm', 'ct')
    }


PAIR = dict(cnn=dict(vit=1.0), vit=dict(cnn=0.1))
SELF = ('sm', 'st')
THREE = dict(cnn=SELF, vit=SELF, cnn_small=SELF)
GRAPHS = {
    'mokd-ring': (THREE, dict(cnn=dict(vit=1.0), vit=dict(cnn_small=0.1), cnn_small=dict(cnn=1.0))),
    'mokd-edges': (
        THREE,
        dict(
            cnn=dict(vit=1.0, cnn_small=0.1),
            vit=dict(cnn=0.1, cnn_small=0.05),
            cnn_small=dict(cnn=0.5, vit=1.0),
        ),
    ),
    'mokd-star': (
        dict(THREE, cnn_medium=SELF),
        dict(cnn=dict(vit=0.5), cnn_small=dict(vit=1.0), cnn_medium=dict(vit=1.0)),
    ),
}


@pytest.mark.parametrize('variant', GRAPHS)
def test_graphs(variant, tmp_path, float64):
    own, edges = GRAPHS[variant]
    model, hook, _ = train(tiny(variant, tmp_path), plain_terms(own, edges))
    hook.check(both(own, edges), rtol=1e-9, atol=0)
    for name, branch in model.branches.items():
        # However many learn from it, a teacher runs once.
        assert hook.calls[-1].count(f'branches.{name}.teacher.backbone') == 1
        assert set(edges.get(name, ())) == set(branch.peers)
        # A head, and so a center, for each edge; none without an edge.
        assert ('cm' in branch.heads) == bool(edges.get(name))


def test_frozen_partner(tmp_path, float64):
    loaded = build_mokd(('cnn', 'vit'), seed=5).state_dict()
    torch.save(dict(state_dict=loaded, meta={}), tmp_path / 'partner.pth')
    cfg = tiny('mokd-frozen', tmp_path)
    cfg.model.branches.vit.init_cfg.checkpoint = str(tmp_path / 'partner.pth')
    edges = dict(cnn=dict(vit=1.0))
    model, hook, runner = train(cfg, plain_terms(dict(cnn=SELF), edges))
    hook.check(both(dict(cnn=SELF), edges), rtol=1e-9, atol=0)
    assert set(runner.optim_wrapper.keys()) == {'cnn'} == set(runner.param_schedulers)
    assert sorted(hook.calls[-1]) == [
        'branches.cnn.student.backbone',
        'branches.cnn.student.backbone',
        'branches.cnn.teacher.backbone',
        'branches.vit.teacher.backbone',
    ]
    kept = {k: v for k, v in model.state_dict().items() if k.startswith('branches.vit.')}
    assert kept.keys() == {k for k in loaded if k.startswith('branches.vit.teacher.')}
    assert all(torch.equal(value, loaded[key]) for key, value in kept.items())


@pytest.mark.parametrize('variant', ['mokd-partner', 'mokd-lora'])
def test_partner_of_a_backbone_alone(variant, tmp_path, float64):
    """Of its file the partner has the backbone; it learns necks, or necks and updates, by itself."""
    own = dict(cnn=SELF, vit=SELF)
    edges = dict(cnn=dict(vit=1.0), vit=dict(cnn=0.1) if variant == 'mokd-lora' else {})
    source = build_mokd(('vit',), seed=5).branches['vit'].teacher.backbone.state_dict()
    torch.save(source, tmp_path / 'partner.pth')
    cfg = tiny(variant, tmp_path)
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'partner.pth'))
    cfg.model.branches.vit.backbone = dict(cfg.model.branches.vit.backbone, init_cfg=init_cfg)
    model, hook, _ = train(cfg, plain_terms(own, edges))
    hook.check(both(own, edges), rtol=1e-9, atol=0)
    passes = (
        2 if variant == 'mokd-partner' else 3
    )  # of the global and the local views; the teacher's
    assert len([name for name in hook.calls[-1] if '.vit.' in name]) == passes
    for network in (model.branches.vit.student, model.branches.vit.teacher):
        found = network.backbone.state_dict()
        assert all(torch.equal(found[key], value) for key, value in source.items())
        assert (len(found) > len(source)) == (variant == 'mokd-lora')


FRAMEWORKS = {'mokd-mocov3': 'moco', 'mokd-byol': 'byol', 'mokd-simsiam': 'simsiam'}


@pytest.mark.parametrize('variant', FRAMEWORKS)
def test_two_view_frameworks(variant, tmp_path, cifar):
    """MoCo v3, BYOL and SimSiam in both branches, each in both directions."""
    neck = FRAMEWORKS[variant]

    def plain(model, views, data_samples):
        found = {}
        for name, branch in model.branches.items():
            head = branch.heads.sm.head
            query = through(branch.student, neck, views[:2])
            key = query if neck == 'simsiam' else through(branch.teacher, neck, views[:2])
            losses = []
            for v, g in ((0, 1), (1, 0)):
                x, y = unit(head.predictor([query[v]])[0]), unit(key[g])
                if neck == 'moco':
                    temperature = dict(cnn=1.0, vit=0.2)[name]
                    scores = (x @ y.T / temperature).exp()
                    terms = -2 * temperature * (scores.diagonal() / scores.sum(dim=1)).log()
                elif neck == 'byol':
                    terms = (x - y).square().sum(dim=1)
                else:
                    terms = (1 - (x * y).sum(dim=1)) / 2
                losses.append(terms.mean())
            found[f'{name}.loss_sm'] = sum(losses)
        return found

    model, hook, runner = train(tiny(variant, tmp_path, cifar), plain)
    hook.check(both(dict(cnn=SELF, vit=SELF), PAIR), rtol=1e-4, atol=1e-6)
    for name, branch in model.branches.items():
        groups = runner.optim_wrapper[name].param_groups
        rates = {id(p): group['lr'] for group in groups for p in group['params']}
        assert {id(p) for p in branch.heads.parameters()} <= set(rates)
        (rate,) = {rates[id(p)] for p in branch.heads.parameters()}
        if neck == 'simsiam':  # the predictor's rate neither warms up nor falls
            assert rate == pytest.approx(dict(cnn=0.1, vit=3e-4)[name] * BATCH / 256)


def through(network, neck, views):
    """Global views through a neck at once, of which its batch norms take their statistics."""
    pooled = torch.cat([network.extract(view).pooled for view in views])
    return getattr(network, neck)((pooled,))[-1].split(BATCH)


def unit(x):
    return x / x.square().sum(dim=1, keepdim=True).sqrt()


def test_swav(tmp_path, cifar):
    def plain(model, views, data_samples):
        found = {}
        for name, branch in model.branches.items():
            pooled = torch.cat([branch.student.extract(view).pooled for view in views])
            scores = branch.student.projector(pooled).split(BATCH)
            losses = []
            for g in range(2):
                q = (scores[g] / 0.05).exp()
                for _ in range(3):
                    q = q / q.sum(dim=0)
                    q = q / q.sum(dim=1, keepdim=True)
                others = [v for v in range(len(views)) if v != g]
                losses += [-(q * (scores[v] / 0.1).softmax(1).log()).sum(1).mean() for v in others]
            found[f'{name}.loss_sm'] = sum(losses) / len(losses)
        return found

    cfg = tiny('mokd-swav', tmp_path, cifar)
    for branch in cfg.model.branches.values():
        branch.projector.update(train_gain=False, norm_cfg=dict(type='SyncBN'))
    _, hook, _ = train(cfg, plain)
    hook.check(both(dict(cnn=SELF, vit=SELF), PAIR), rtol=1e-4, atol=1e-6)


def test_ibot_in_the_vit(tmp_path, cifar):
    """Against its formula in test_masked_patch_head.py; here with the rest of a run."""
    cfg = tiny('mokd-ibot', tmp_path, cifar)
    model, hook, runner = train(cfg)
    hook.check(both(dict(cnn=SELF, vit=(*SELF, 'patch')), PAIR))
    assert hook.losses[0]['vit.loss_patch'] > 0
    assert model.branches.vit.heads.patch.center.abs().sum() > 0
    assert runner.message_hub.log_scalars['train/vit.patch.teacher_temp'].current() == 0.04
    # Two sizes of views, and the masked ones.
    assert hook.calls[-1].count('branches.vit.student.backbone') == 3
    assert hook.calls[-1].count('branches.cnn.student.backbone') == 2


def test_koleo(tmp_path, cifar):
    def plain(model, views, data_samples):
        return {
            f'{name}.loss_koleo': 0.1
            * sum(koleo(branch.student.extract(v).pooled) for v in views[:2])
            for name, branch in model.branches.items()
        }

    _, hook, _ = train(tiny('mokd-koleo', tmp_path, cifar), plain)
    own = (*SELF, 'koleo')
    hook.check(both(dict(cnn=own, vit=own), PAIR), rtol=1e-4, atol=1e-6)


def koleo(features):
    x = unit(features)
    distances = (x[:, None] - x).square().sum(dim=-1).sqrt() + 9 * torch.eye(len(x))
    return -distances.min(dim=1).values.log().mean()


def classified(smooth):
    """Cross-entropy of the labeled images, and how many labels each step had."""
    counts = []

    def plain(model, views, data_samples):
        labels = [int(sample.gt_label) for sample in data_samples]
        labeled = [i for i, label in enumerate(labels) if label >= 0]
        counts.append(len(labeled))
        found = {}
        for name, branch in model.branches.items():
            fc, terms = branch.heads.ce.fc, [torch.zeros(())]
            for view in views[:2]:
                log_probs = fc(branch.student.extract(view).pooled).softmax(dim=1).log()
                for i in labeled:
                    own = log_probs[i, labels[i]]
                    terms.append((smooth - 1) * own - smooth * log_probs[i].mean())
            found[f'{name}.loss_ce'] = sum(terms) / max(len(terms) - 1, 1)
        return found

    return plain, counts


def test_supervised(tmp_path, cifar):
    plain, counts = classified(smooth=0.1)
    _, hook, _ = train(tiny('mokd-supervised', tmp_path, cifar), plain)
    hook.check(both(dict(cnn=['ce'], vit=['ce']), PAIR), rtol=1e-4, atol=1e-6)
    assert counts == [BATCH, BATCH]


def test_labels_for_a_part_of_the_images(tmp_path, cifar):
    plain, counts = classified(smooth=0.0)
    cfg = tiny('mokd-semi', tmp_path, cifar)
    cfg.train_dataloader.dataset.share = 0.4  # of five images a class
    _, hook, runner = train(cfg, plain)
    own = (*SELF, 'ce')
    hook.check(both(dict(cnn=own, vit=own), PAIR), rtol=1e-4, atol=1e-6)
    (dataset,) = (
        d for d in iter_datasets(runner.train_dataloader.dataset) if isinstance(d, LabeledShare)
    )
    assert len(dataset) == 40
    assert 0 < sum(counts) < STEPS * BATCH
    logged = runner.message_hub.log_scalars
    assert 0 <= logged['train/vit.ce.accuracy'].current() <= 100


def test_labels_of_class_folders(tmp_path):
    """As variants/README.md has it: labeled class folders beside a folder without labels."""
    for i, name in enumerate(('labeled/ant', 'labeled/bee', 'more')):
        draw_image(tmp_path / name / f'{i}.png', np.random.default_rng(0))
    pipeline = [
        dict(type='mmmokd.LoadImage'),
        dict(type='mmmokd.MultiCrop'),
        dict(type='PackInputs'),
    ]
    folder = dict(type='mmmokd.ImageFolder', pipeline=pipeline)
    labeled = dict(folder, data_root=str(tmp_path / 'labeled'), with_label=True)
    more = dict(folder, data_root=str(tmp_path / 'more'))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        dataset = DATASETS.build(
            dict(type='ConcatDataset', datasets=[labeled, more], ignore_keys=['classes'])
        )
    batch = default_collate([dataset[i] for i in range(3)])
    head = ClassificationHead(num_classes=2, in_channels=8)
    assert head.read_labels(batch['data_samples']).tolist() == [0, 1, -1]


@pytest.mark.parametrize('path', VARIANTS, ids=[path.stem for path in VARIANTS])
def test_variant_is_a_short_config(path):
    assert load_config(path)  # which the command line takes as it is
    text = path.read_text()
    assert len(text.splitlines()) <= 30
    assert 'def ' not in text and '\ndel ' not in text
