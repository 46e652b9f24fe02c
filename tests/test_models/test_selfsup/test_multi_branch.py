# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Graphs of branches: who learns from whom, what is built and what is computed."""

from functools import partial

import pytest
import torch
from mmengine.model import BaseModel
from mokd_testing import BACKBONES, branch_cfg, build_mokd, optim_wrapper_cfg, random_views
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from mmmokd.engine.optimizers import BranchOptimWrapperConstructor
from mmmokd.models import MOKD, BaseMultiBranch, Branch, BranchHead
from mmmokd.registry import MODELS

LINEAR = dict(type='mmpretrain.LinearClsHead')
SMALL = dict(global_size=32, neck_defaults=dict(out_channels=10, embed_dims=24))


@MODELS.register_module()
class WidthHead(BranchHead):
    """Its parameters are as wide as what it reads."""

    def __init__(self, in_channels, reads='pooled', teacher='none', loss_weight=1.0):
        super().__init__(reads, teacher, loss_weight)
        self.weight = nn.Parameter(torch.ones(in_channels))

    def loss(self, student, teacher, views):
        return self.loss_weight * (student[self.reads] * self.weight).mean()


@MODELS.register_module()
class PooledTeacherHead(BranchHead):
    """Compares a projector's output with the teacher's pooled features, both as the mean."""

    def __init__(self, reads='projector', teacher='peers', loss_weight=1.0, target_reads='pooled'):
        super().__init__(reads, teacher, loss_weight, target_reads=target_reads)

    def connect(self, student, teacher):
        widths = [student.width(self.reads), teacher.width(self.target_reads)]
        self.register_buffer('widths', torch.tensor(widths))
        if widths[0] > 10:
            raise ValueError(f'too wide: {widths}')

    def loss(self, student, teacher, views):
        means = student[self.reads].mean() - teacher[self.target_reads].mean()
        return self.loss_weight * means.square()


@MODELS.register_module()
class BranchWithQueue(Branch):
    """Has an argument of its own."""

    def __init__(self, *args, queue_size=1, **kwargs):
        super().__init__(*args, **kwargs)
        self.queue_size = queue_size


def backbone(kind, **kwargs):
    return dict(backbone=BACKBONES[kind], **kwargs)


def losses_of(model, **kwargs):
    return list(model(random_views(**kwargs), mode='loss'))


def test_a_pair_is_its_two_backbones():
    model = build_mokd(dict(cnn=backbone('cnn'), vit=backbone('vit')), **SMALL)
    explicit = build_mokd(('cnn', 'vit'))
    heads = {name: branch.student.search_head for name, branch in model.branches.items()}
    for name, branch in explicit.branches.items():
        expected = branch.student.search_head.state_dict()
        found = heads[name].state_dict()
        assert list(found) == list(expected)
        assert all(found[key].shape == expected[key].shape for key in expected)
    assert losses_of(model) == losses_of(explicit)


def test_plain_dino_has_no_search_head():
    model = build_mokd(dict(vit=backbone('vit', heads=dict(st=None))), **SMALL)
    assert not [key for key in model.state_dict() if 'search_head' in key]
    assert losses_of(model, sizes=(32, 32)) == ['vit.loss_sm']


def test_branch_that_is_left_out():
    model = build_mokd(dict(cnn=None, vit=branch_cfg('vit', cross_weight=dict(cnn=1.0))))
    assert losses_of(model) == ['vit.loss_sm', 'vit.loss_st']


def test_branches_without_an_edge_need_not_agree():
    branches = dict(vit=branch_cfg('vit', cross_weight={}), cnn=branch_cfg('cnn', cross_weight={}))
    for part in ('projector', 'search_head'):
        branches['cnn'][part]['out_channels'] = 7
    assert len(losses_of(build_mokd(branches))) == 4


def test_further_term_and_its_width():
    heads = dict(st=None, mine=dict(type='mmmokd.WidthHead'))
    heads['deep'] = dict(type='mmmokd.WidthHead', reads='projector', loss_weight=0.0)
    model = build_mokd(dict(cnn=backbone('cnn', heads=heads)), **SMALL)
    found = {term: head for _, term, _, head in model.heads_by_name()}
    assert list(found) == ['sm', 'mine', 'deep']
    assert found['mine'].weight.shape == (16,) and found['deep'].weight.shape == (10,)
    losses = model(random_views(), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert found['mine'].weight.grad is not None and losses['cnn.loss_deep'] == 0
    torch.testing.assert_close(total.branch_losses['cnn'], total.detach())


def test_head_that_reads_something_else_of_the_teacher():
    """A frozen teacher needs no neck, and the head knows the widths of both ends."""
    heads = dict(sm=None, st=None, cm=None, ct=None, x=dict(type='mmmokd.PooledTeacherHead'))
    branches = dict(cnn=backbone('cnn', heads=heads), vit=backbone('vit', frozen=True))
    model = build_mokd(branches, **SMALL)
    branch = model.branches['vit']
    assert branch.teacher.neck_names == ()
    assert model.branches['cnn'].heads['x']['vit'].widths.tolist() == [10, 24]
    branch.load_state_dict(branch.state_dict())
    assert losses_of(model) == ['cnn.loss_x.vit']
    with pytest.raises(ValueError, match=r'^branch cnn, heads.x: too wide: \[12, 24\]'):
        build_mokd(branches, **{**SMALL, 'neck_defaults': dict(out_channels=12)})


def test_another_class_of_branch():
    vit = backbone('vit', type='mmmokd.BranchWithQueue', queue_size=5)
    branch = build_mokd(dict(vit=vit), **SMALL).branches['vit']
    assert branch.queue_size == 5 and branch.student.neck_names == ('projector', 'search_head')
    with pytest.raises(ValueError, match='takes no queue_size=5'):
        build_mokd(dict(vit=dict(vit, type='mmmokd.Branch')), **SMALL)


def calls_of(model):
    """Counts the calls of each network's parts."""
    counts = {}
    for name, branch in model.branches.items():
        for kind in ('student', 'teacher'):
            network = getattr(branch, kind)
            for part in ('backbone', *(network.neck_names if network is not None else ())):
                key = f'{name}.{kind}.{part}'
                counts[key] = 0

                def count(*args, key=key):
                    counts[key] += 1

                if network is not None:
                    getattr(network, part).register_forward_hook(count)
    return counts


def test_what_no_head_reads_is_not_computed():
    """A search head that only others search embeds its map, for them, and makes no logits."""
    heads = dict(sm=None, cm=None)
    cnn = backbone('cnn', heads=dict(st=None), cross_weight={})
    branches = dict(
        vit=backbone('vit', heads=heads, cross_weight=dict(net=1.0)),
        net=backbone('vit', cross_weight={}),
        cnn=cnn,
    )
    model = build_mokd(branches, **SMALL)
    calls = calls_of(model)
    assert losses_of(model) == ['vit.loss_st', 'vit.loss_ct.net', 'net.loss_sm', 'net.loss_st',
                                'cnn.loss_sm']  # fmt: skip
    assert calls == {
        # Of a student two passes; its map is embedded, described and queried with.
        'vit.student.backbone': 2, 'vit.student.search_head': 3,
        'vit.teacher.backbone': 1, 'vit.teacher.search_head': 2,
        'net.student.backbone': 2, 'net.student.projector': 1, 'net.student.search_head': 2,
        # Embedded once, described for its own branch, searched by the other.
        'net.teacher.backbone': 1, 'net.teacher.projector': 1, 'net.teacher.search_head': 3,
        'cnn.student.backbone': 2, 'cnn.student.projector': 1,
        'cnn.teacher.backbone': 1, 'cnn.teacher.projector': 1,
    }  # fmt: skip


@pytest.mark.parametrize(('norm', 'runs'), [('GN', 0), ('BN', 1)])
def test_teacher_that_nobody_reads(norm, runs):
    """It runs for the statistics of its batch norms alone."""
    cfg = dict(
        BACKBONES['cnn'], norm_cfg=dict(type=norm, **dict(num_groups=2) if norm == 'GN' else {})
    )
    heads = dict(sm=dict(_delete_=True, type='mmmokd.WidthHead'), st=None)
    model = build_mokd(dict(cnn=dict(backbone=cfg, heads=heads)), **SMALL)
    calls = calls_of(model)
    losses_of(model)
    assert calls['cnn.teacher.backbone'] == runs and calls['cnn.student.backbone'] == 2


def runs_outside(model):
    """Names what runs within a backbone or neck that was not entered by its call."""
    outside, entered = [], []

    def watch(module, path):
        module.register_forward_pre_hook(lambda *args: entered.append(path))
        module.register_forward_hook(lambda *args: entered.remove(path))

    def check(child, path, name):
        def hook(*args):
            if path not in entered:
                outside.append(f'{path}.{name}')

        child.register_forward_pre_hook(hook)

    for branch_name, branch in model.branches.items():
        for kind in ('student', 'teacher'):
            network = getattr(branch, kind)
            for part in ('backbone', *network.neck_names):
                path = f'{branch_name}.{kind}.{part}'
                watch(getattr(network, part), path)
                for name, child in getattr(network, part).named_modules():
                    if name:
                        check(child, path, name)
    return outside


def test_backbones_and_necks_are_entered_by_their_call():
    model = build_mokd(('cnn', 'vit'))
    outside = runs_outside(model)
    losses_of(model)
    assert not outside


def wrapped(model, wrap):
    for branch in model.branches.values():
        for network in (branch.student, branch.teacher):
            for part in ('backbone', *network.neck_names):
                setattr(network, part, wrap(getattr(network, part)))
    return model


@pytest.mark.parametrize(
    'wrap',
    [
        pytest.param(checkpoint_wrapper, id='checkpoint'),
        pytest.param(
            lambda module: torch.compile(module, backend='eager'),
            id='compile',
            marks=pytest.mark.long,
        ),
    ],
)
def test_wrapped_parts_give_the_same_losses(wrap):
    models = [build_mokd(('cnn', 'vit')) for _ in range(2)]
    wrapped(models[1], wrap)
    found = []
    for model in models:
        losses = model(random_views(), mode='loss')
        model.parse_losses(losses)[0].backward()
        grads = [param.grad for param in model.parameters() if param.grad is not None]
        found.append((losses, grads))
    (expected, expected_grads), (losses, grads) = found
    for key, value in expected.items():  # of the wrapped necks' logits, as there is no way around
        torch.testing.assert_close(losses[key], value, rtol=1e-5, atol=1e-6)
    assert len(grads) == len(expected_grads)
    for grad, wanted in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-5)


SEES = dict(heads=dict(st=None, ct=None))


def test_branches_with_views_of_their_own(float64):
    """Each learns from its own views, and a head is told of them alone."""
    cnn, vit = (dict(SEES, views=views) for views in ([0, 1, 4], [2, 3]))
    branches = dict(cnn=backbone('cnn', **cnn), vit=backbone('vit', **vit))
    settings = dict(SMALL, neck_defaults=dict(out_channels=10))
    model = build_mokd(branches, num_global_views=4, **settings).eval()
    views = random_views(sizes=(32, 32, 32, 32, 24))
    losses = model(views, mode='loss')
    plain = build_mokd({k: backbone(k, **SEES) for k in ('cnn', 'vit')}, **settings).eval()
    plain.load_state_dict(model.state_dict())
    for name, own in (('cnn', [views[0], views[1], views[4]]), ('vit', views[2:4])):
        torch.testing.assert_close(losses[f'{name}.loss_sm'], plain.loss(own)[f'{name}.loss_sm'])
    with pytest.raises(
        ValueError, match='MOKD needs 4 global views, 5 views in all, as a list .* 4'
    ):
        model(views[:4], mode='loss')


@pytest.mark.parametrize(
    ('views', 'message'),
    [
        ([4, 5], r'branch cnn: views must have one of the 4 global views .* got \[4, 5\]'),
        ([0], r'learns from vit \(heads.cm\), .* same number .* cnn sees 1 and vit 4'),
        ([0, 1, 2, 3], r'heads.ct needs a local view \(from number 4\), but views are \[0, 1'),
    ],
)
def test_views_that_do_not_fit(views, message):
    branches = dict(cnn=branch_cfg('cnn', views=views), vit=branch_cfg('vit'))
    with pytest.raises(ValueError, match=message):
        build_mokd(branches, num_global_views=4)


@pytest.mark.parametrize('counts', [1, 2])
def test_one_branch_after_the_other(counts):
    """To the bit as all at once, and a student's pass begins after the last one's step."""
    branches = dict(
        cnn=branch_cfg('cnn'),
        vit=branch_cfg('vit', backbone=dict(drop_path_rate=0.3)),
        own=branch_cfg('vit', ema=False),
        frozen=branch_cfg('cnn', frozen=True),
    )
    sides, events = [], []
    for at_once in (True, False):
        model = build_mokd(branches)
        model.load_state_dict(model.state_dict())  # as load_from does
        cfg = optim_wrapper_cfg(['cnn', 'vit', 'own'], accumulative_counts=counts)
        cfg.pop('constructor')
        optim = BranchOptimWrapperConstructor(cfg)(model.train())
        if not at_once:
            for name in ('cnn', 'vit'):
                note = partial(lambda name, *args: events.append(name), name)
                model.branches[name].student.backbone.register_forward_pre_hook(note)
                optim[name].optimizer.register_step_post_hook(partial(note, 'step'))
        step = partial(BaseModel.train_step, model) if at_once else model.train_step
        torch.manual_seed(3)
        logs = [step(dict(inputs=random_views(seed=i)), optim) for i in range(4)]
        sides.append((logs, model.state_dict()))
    (logs, weights), (others, other_weights) = sides
    assert [list(log) for log in logs] == [list(log) for log in others]
    for log, other in zip(logs, others, strict=True):
        assert all(torch.equal(log[key], other[key]) for key in log)
    assert all(torch.equal(value, other_weights[key]) for key, value in weights.items())
    # Views of two sizes: two passes.
    assert events[: 4 + 2 // counts] in (
        ['cnn', 'cnn', 'cnn', 'vit', 'vit', 'vit'],
        ['cnn', 'cnn', 'vit', 'vit', 'cnn'],
    )


def test_loss_of_a_subclass_is_what_trains():
    """One that does not know of training branch by branch."""

    class Doubled(MOKD):
        def loss(self, inputs, data_samples=None):
            return {key: 2 * loss for key, loss in super().loss(inputs, data_samples).items()}

    logs = []
    for cls in (MOKD, Doubled):
        model = build_mokd(['cnn', 'vit'])
        model.__class__ = cls
        cfg = optim_wrapper_cfg(['cnn', 'vit'])
        cfg.pop('constructor')
        optim = BranchOptimWrapperConstructor(cfg)(model.train())
        logs.append(model.train_step(dict(inputs=random_views()), optim))
    assert logs[0].keys() == logs[1].keys()
    for key, value in logs[0].items():
        torch.testing.assert_close(logs[1][key], 2 * value)


FROZEN = dict(vit=branch_cfg('vit', frozen=True), cnn=branch_cfg('cnn'))


def test_frozen_branch(read_log):
    """One pass without gradient, always in evaluation mode; nothing of it changes or is trained."""
    cnn = branch_cfg('vit', frozen=True, backbone=dict(drop_path_rate=0.9))
    model = build_mokd(dict(vit=cnn, cnn=branch_cfg('cnn')))
    model.load_state_dict(model.state_dict())  # as load_from does
    branch = model.train().branches['vit']
    assert branch.student is None and not branch.heads and not branch.teacher.training
    assert not [n for n, p in model.named_parameters() if '.vit.teacher.' in n and p.requires_grad]
    assert {key.split('.')[2] for key in model.state_dict() if key.startswith('branches.vit')} == {
        'teacher'
    }
    before = {key: value.clone() for key, value in branch.state_dict().items()}
    calls = calls_of(model)
    total, _ = model.parse_losses(model(random_views(), mode='loss'))
    total.backward()
    assert calls['vit.teacher.backbone'] == 1 and list(total.branch_losses) == ['cnn']
    assert all(torch.equal(value, before[key]) for key, value in branch.state_dict().items())
    images = torch.zeros(2, 3, 32, 32)
    for network in ('teacher', 'student'):
        found = model.extract_feat(images, network)
        assert torch.equal(found['vit'], branch.teacher.extract(images).pooled)
    branch.reset_teacher()
    assert any('Branch vit: frozen; no optimizer' in line for line in read_log())


def test_frozen_branch_is_loaded(tmp_path):
    """By an init_cfg, necks included, or the first step says what is random."""
    source = build_mokd(('vit',), seed=5)
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'a.pth')
    pretrained = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    with pytest.raises(ValueError, match=r'branch vit: .* teach noise: 79 .* \(backbone.cls_token'):
        losses_of(build_mokd(FROZEN))
    of_backbone = dict(pretrained, prefix='branches.vit.teacher.backbone.')
    part = branch_cfg('vit', frozen=True, backbone=dict(init_cfg=of_backbone))
    with pytest.raises(ValueError, match=r'weights are random \(projector.mlp.0.weight'):
        losses_of(build_mokd(dict(FROZEN, vit=part)))
    branch = build_mokd(FROZEN).branches['vit']
    branch.teacher.backbone_cfg = dict(pretrained=True)  # as of timm, whose constructor loads
    with pytest.raises(
        ValueError, match=r': 49 of its weights are random \(projector.mlp.0.weight'
    ):
        branch.check_initialized()
    init_cfg = dict(pretrained, prefix='branches.vit.teacher.')
    model = build_mokd(dict(FROZEN, vit=dict(FROZEN['vit'], init_cfg=init_cfg)))
    expected = source.branches['vit'].teacher.state_dict()
    found = model.branches['vit'].teacher.state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert len(losses_of(model)) == 4


def test_trained_branch_starts_from_a_whole_network(tmp_path):
    source = build_mokd(('vit',), seed=5)
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'a.pth')
    init_cfg = dict(
        type='Pretrained', checkpoint=str(tmp_path / 'a.pth'), prefix='branches.vit.teacher.'
    )
    branch = build_mokd(dict(vit=branch_cfg('vit', init_cfg=init_cfg))).branches['vit']
    expected = source.branches['vit'].teacher.state_dict()
    for network in (branch.student, branch.teacher):
        found = network.state_dict()
        assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_no_ema():
    """The student is the target of its own and its peers' heads, in its one pass."""
    vit = branch_cfg('vit', ema=False)
    model = build_mokd(dict(vit=vit, cnn=branch_cfg('cnn')))
    calls = calls_of(model)
    losses = model(random_views(), mode='loss')
    sum(loss for key, loss in losses.items() if key.startswith('cnn.')).backward()
    assert calls['vit.student.backbone'] == 2 and calls['vit.student.projector'] == 1
    assert not [n for n, p in model.named_parameters() if '.vit.' in n and p.grad is not None]
    images = torch.zeros(2, 3, 32, 32)
    assert torch.equal(
        model.extract_feat(images)['vit'], model.extract_feat(images, 'student')['vit']
    )


@pytest.mark.parametrize(
    ('branches', 'settings', 'message'),
    [
        (dict(vit=None), {}, r"branches must be a non-empty dict .*, but got \['vit'\]"),
        (dict(vit=branch_cfg('vit', cross_weight=dict(net=1.0))), {}, "names 'net', but .* are none"),
        (dict(vit=backbone('vit', heads=dict(sm=None, st=None))), {}, 'it has no loss heads'),
        (
            dict(vit=branch_cfg('vit', heads=dict(st=None, ct=None)), cnn=branch_cfg('cnn')), {},
            'branch vit: another branch learns from its search_head, which no head of its own',
        ),
        (dict(vit=backbone('vit', frozen=True)), {}, 'frozen and no other branch learns from it'),
        (
            dict(vit=backbone('vit', frozen=True, heads=dict(sm={}), cross_weight=1.0)), {},
            r'heads and cross_weight would have no effect: leave that out \(heads=None, cross_',
        ),
        (
            dict(vit=backbone('vit', heads=dict(x=dict(LINEAR, reads='pooled')))),
            {}, 'heads.x: LinearClsHead is not a loss head of a branch',
        ),
        (dict(vit=backbone('vit', heads=dict(x=LINEAR))), {},
         'branch vit: heads.x needs `reads`'),
        (dict(vit=backbone('vit', heads=dict(sm=dict(type='mmmokd.Nothing')))), {},
         "heads.sm needs a type that is registered, but got 'mmmokd.Nothing'"),
        (dict(vit=backbone('vit', heads=dict(sm=dict(teacher='none')))), {}, 'learns from a teacher'),
        (dict(vit=backbone('vit', frozen='yes')), {},
         "frozen must be True or False or 'backbone', but got 'yes'"),
        (dict(vit=backbone('vit')), dict(neck_defaults=dict(out_chanels=3)), 'takes out_chanels'),
        (dict(vit=backbone('vit')), dict(global_size='big'), "number of pixels, .* got 'big'"),
    ],
)  # fmt: skip
def test_graphs_that_cannot_be(branches, settings, message):
    with pytest.raises(ValueError, match=message):
        build_mokd(branches, **{**SMALL, **settings})


def test_loss_is_needed():
    with pytest.raises(TypeError, match='abstract'):
        BaseMultiBranch(dict(vit=branch_cfg('vit')))
