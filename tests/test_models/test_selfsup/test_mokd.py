# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""MOKD's losses, gradients and centers against the paper's formulas written out plainly."""

from collections import OrderedDict

import numpy as np
import plain_mokd
import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from mokd_testing import branch_cfg, build_mokd, model_cfg, random_views, slow_center
from torch import nn

from mmmokd.registry import MODELS

WARMUPS = dict(sm=dict(warmup_teacher_temp_epochs=50), st=dict(warmup_teacher_temp_epochs=50))
OWN_TEMPS = dict(
    sm=dict(student_temp=0.2, teacher_temp=0.09, warmup_teacher_temp=0.05),
    st=dict(student_temp=0.15, warmup_teacher_temp_epochs=2, center_momentum=0.5),
    cm=dict(teacher_temp=0.06, warmup_teacher_temp_epochs=0, center_momentum=0.7),
    ct=dict(student_temp=0.3, warmup_teacher_temp=0.02, warmup_teacher_temp_epochs=10),
)
CASES = dict(
    one=dict(branches=dict(vit=('vit', {})), sizes=(32, 32, 24, 16, 16), epoch=3),
    one_without_locals=dict(branches=dict(cnn=('cnn', {})), sizes=(32, 32), epoch=0),
    two=dict(
        branches=dict(
            cnn=('cnn', dict(heads=WARMUPS)), vit=('vit', dict(cross_weight=0.1)),
        ),
        sizes=(32, 32, 24, 16, 24), epoch=7,
    ),
    two_of_a_kind=dict(
        branches=dict(net=('vit', {}), net2=('vit', dict(heads=OWN_TEMPS, cross_weight=0.5))),
        sizes=(24, 24, 16), epoch=4, batch=3,
    ),
    three=dict(
        branches=dict(
            vit=('vit', dict(cross_weight=0.3)), cnn=('cnn', dict(heads=WARMUPS)),
            next=('next', dict(heads=OWN_TEMPS, cross_weight=2.0)),
        ),
        sizes=(32, 32, 16, 16, 24), epoch=60,
    ),
    ring=dict(
        branches=dict(
            vit=('vit', dict(cross_weight=dict(cnn=0.7))),
            cnn=('cnn', dict(cross_weight=dict(next=1.0))),
            next=('next', dict(cross_weight=dict(vit=0.1), heads=OWN_TEMPS)),
        ),
        sizes=(24, 24, 16), epoch=1,
    ),
    star=dict(
        branches=dict(
            vit=('vit', dict(cross_weight={})), cnn=('cnn', dict(cross_weight=dict(vit=2.0))),
            net=('vit', dict(cross_weight=dict(vit=0.5))),
        ),
        sizes=(24, 24, 16), epoch=0,
    ),
    one_global=dict(
        branches=dict(cnn=('cnn', {}), next=('next', {})), sizes=(24, 16, 16), epoch=0,
        num_globals=1,
    ),
    three_globals=dict(
        branches=dict(vit=('vit', {}), next=('next', dict(cross_weight=0.0))),
        sizes=(24, 24, 24, 24, 32), epoch=29, num_globals=3,
    ),
)  # fmt: skip


def temperatures(settings, epoch):
    """(T_s, T_t) of an epoch, from the settings of a loss head."""
    start, end = settings.get('warmup_teacher_temp', 0.04), settings.get('teacher_temp', 0.07)
    length = settings.get('warmup_teacher_temp_epochs', 30)
    teacher_temp = np.linspace(start, end, length)[epoch] if epoch < length else end
    return settings.get('student_temp', 0.1), teacher_temp


def heads_with_centers(branch):
    return {
        (term, peer) if peer else term: head for term, peer, head in branch.terms() if term != 'ct'
    }


class Case:
    """A model with teachers and centers of its own, views, and what the formulas make of them."""

    def __init__(self, branches, sizes, epoch, num_globals=2, batch=2):
        settings = {name: own for name, (_, own) in branches.items()}
        self.model = build_mokd(
            {name: branch_cfg(kind, **own) for name, (kind, own) in branches.items()},
            num_global_views=num_globals,
        )
        self.num_globals = num_globals
        self.views = random_views(batch, sizes)
        torch.manual_seed(5)
        self.momenta, self.centers, self.temps = {}, {}, {}
        for name, branch in self.model.branches.items():
            # Weights well away from their initial values: a teacher that is not its student,
            # logits that differ between images, gains other than 1.
            for param in branch.parameters():
                param.data.add_(torch.randn_like(param) * (0.3 if param.dim() == 2 else 0.1))
            heads = heads_with_centers(branch)
            for head in heads.values():
                head.center.normal_(std=0.2)
            for head in branch.heads.modules():
                if hasattr(head, 'set_epoch'):
                    head.set_epoch(epoch)
            own = settings[name].get('heads', {})
            self.centers[name] = {key: head.center[0].clone() for key, head in heads.items()}
            self.momenta[name] = {
                key: own.get(key[0] if isinstance(key, tuple) else key, {}).get(
                    'center_momentum', 0.9
                )
                for key in heads
            }
            self.temps[name] = {
                term: temperatures(own.get(term, {}), epoch) for term in ('sm', 'st', 'cm', 'ct')
            }
        self.weights = {name: own.get('cross_weight', 1.0) for name, own in settings.items()}

    def expected(self):
        return plain_mokd.losses(
            self.model, self.views, self.num_globals, self.centers, self.temps, self.weights
        )


@pytest.mark.parametrize('name', CASES)
def test_losses_gradients_and_centers(name, float64):
    case = Case(**CASES[name])
    expected, teachers = case.expected()
    sum(expected.values()).backward()
    expected_grads = {key: p.grad for key, p in case.model.named_parameters()}
    case.model.zero_grad()

    losses = case.model(case.views, mode='loss')
    assert losses.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value, rtol=1e-11, atol=0, msg=key)

    total, log_vars = case.model.parse_losses(losses)
    total.backward()
    for key, param in case.model.named_parameters():
        assert (param.grad is None) == ('.teacher.' in key or not param.requires_grad), key
        if param.grad is not None:
            torch.testing.assert_close(
                param.grad, expected_grads[key], rtol=1e-7, atol=1e-10, msg=key
            )

    for branch_name, branch in case.model.branches.items():
        assert not any('heads.ct' in key for key, _ in branch.named_buffers())
        for key, head in heads_with_centers(branch).items():
            source, part = (key[1], 'm') if isinstance(key, tuple) else (branch_name, key[1])
            center = slow_center(
                case.centers[branch_name][key].tolist(),
                [view[part].tolist() for view in teachers[source]],
                case.momenta[branch_name][key],
            )
            assert head.center[0].tolist() == pytest.approx(center, rel=1e-11)


def test_number_of_centers():
    """L_sm and L_st have one each, L_cm one per peer, L_ct none."""
    model = build_mokd(('cnn', 'vit', 'next'))
    centers = [key for key, _ in model.named_buffers() if key.endswith('center')]
    peers = dict(cnn=('vit', 'next'), vit=('cnn', 'next'), next=('cnn', 'vit'))
    assert centers == [
        f'branches.{name}.heads.{head}.center'
        for name in peers
        for head in ('sm', 'st', *(f'cm.{peer}' for peer in peers[name]))
    ]


def test_gradient_of_a_branch_stays_in_it():
    model = build_mokd(('cnn', 'vit', 'next'))
    losses = model(random_views(), mode='loss')
    for of in model.branches:
        model.zero_grad()
        own = [loss for key, loss in losses.items() if key.startswith(f'{of}.')]
        sum(own).backward()
        touched = {key for key, param in model.named_parameters() if param.grad is not None}
        trained = {key for key, param in model.named_parameters() if param.requires_grad}
        assert touched == {key for key in trained if key.startswith(f'branches.{of}.student.')}


def count_calls(modules):
    """Counts the calls of modules; a dict by their names."""
    counts = dict.fromkeys(modules, 0)
    for name, module in modules.items():

        def count(*args, name=name):
            counts[name] += 1

        module.register_forward_hook(count)
    return counts


def test_nothing_is_computed_twice():
    """One pass a size and network; the searched map is projected with the teacher's own pass."""
    model = build_mokd(('cnn', 'vit', 'next'))
    nets = {f'{n}.{net}': getattr(b, net) for n, b in model.branches.items()
            for net in ('student', 'teacher')}  # fmt: skip
    backbones = count_calls({name: net.backbone for name, net in nets.items()})
    projectors = count_calls({name: net.projector for name, net in nets.items()})
    projections = count_calls(
        {name: net.search_head.projection for name, net in nets.items() if 'vit' not in name}
    )
    model(random_views(sizes=(32, 32, 24, 24, 24, 16)), mode='loss')
    assert backbones == {name: 3 if 'student' in name else 1 for name in nets}
    assert projectors == dict.fromkeys(nets, 1)
    # Of a student its three maps, and the pooled features of its local crops: its queries.
    assert projections == {
        name: 4 if 'student' in name else 1 for name in nets if 'vit' not in name
    }


def test_queries_are_of_the_student_s_own_pass():
    """With drop path a second pass would have dropped other paths."""
    vit = branch_cfg('vit', backbone=dict(drop_path_rate=0.9))
    model = build_mokd(dict(cnn=branch_cfg('cnn'), vit=vit))
    outputs, queries = [], []
    model.branches['vit'].student.backbone.register_forward_hook(
        lambda module, args, output: outputs.append(output[-1][:, 0].detach())
    )
    model.branches['cnn'].teacher.search_head.register_forward_pre_hook(
        lambda module, args: queries.append(args[1]) if len(args) > 1 else None
    )
    model(random_views(), mode='loss')
    assert torch.equal(queries[0], outputs[1])


def test_features_of_the_branches():
    model = build_mokd().eval()
    images = torch.randn(3, 3, 32, 32)
    for network in ('teacher', 'student'):
        found = model.extract_feat(images, network)
        expected = {
            name: getattr(b, network).backbone(images)[-1] for name, b in model.branches.items()
        }
        torch.testing.assert_close(
            found['cnn'], nn.AdaptiveAvgPool2d(1)(expected['cnn']).flatten(1)
        )
        torch.testing.assert_close(found['vit'], expected['vit'][:, 0])
    teachers = model.extract_feat(images)
    for inputs in (images, [images, torch.randn(3, 3, 16, 16)]):
        found = model(inputs)
        assert all(torch.equal(found[name], teachers[name]) for name in teachers)


def test_total_and_its_parts_by_branch():
    """The names of the branches may begin alike."""
    model = build_mokd(dict(net=branch_cfg('cnn'), net2=branch_cfg('vit')))
    losses = model(random_views(), mode='loss')
    total, log_vars = model.parse_losses(losses)
    torch.testing.assert_close(total, sum(losses.values()))
    torch.testing.assert_close(log_vars['loss'], total)
    assert log_vars.keys() == {'loss', *losses}
    for name, loss in total.branch_losses.items():
        peer = 'net2' if name == 'net' else 'net'
        terms = ('loss_sm', 'loss_st', f'loss_cm.{peer}', f'loss_ct.{peer}')
        torch.testing.assert_close(loss, sum(losses[f'{name}.{term}'] for term in terms))


@pytest.mark.parametrize(
    ('views', 'message'),
    [
        (random_views(sizes=(32, 32)), 'at least one local view, .*; got 2'),
        (random_views(sizes=(32,)), '2 global views .*; got 1'),
        ([], '; got 0'),
        (torch.zeros(2, 3, 32, 32), 'as a list of tensors, .*; got Tensor'),
        (random_views(2, (32, 32)) + random_views(3, (24,)),
         r'views must have one batch size, .* \(3, 3, 24, 24\)'),
        (random_views(sizes=(32, 24, 24)), r'the 2 global ones one image size, .* \(2, 3, 24, 24\)'),
    ],
)  # fmt: skip
def test_views_that_do_not_fit(views, message):
    with pytest.raises(ValueError, match=message):
        build_mokd()(views, mode='loss')


def changed(kind, part, **settings):
    cfg = branch_cfg(kind)
    cfg[part].update(settings)
    return cfg


@pytest.mark.parametrize(
    ('branches', 'settings', 'message'),
    [
        ({}, {}, r'branches must be a non-empty dict .*, but got \[\]'),
        ({'res.net': branch_cfg('cnn')}, {}, r"names without a dot, but got \['res.net'\]"),
        (('cnn',), dict(num_global_views=0), 'num_global_views of MOKD .* at least 1, but got 0'),
        (
            dict(cnn=branch_cfg('cnn'), vit=changed('vit', 'search_head', out_channels=12)),
            {}, 'projector and search head need the same out_channels .* 10 and 12',
        ),
        (
            dict(
                cnn=branch_cfg('cnn'),
                next=dict(
                    changed('next', 'search_head', out_channels=12),
                    projector=changed('next', 'projector', out_channels=12)['projector'],
                ),
            ),
            {},
            r"cnn learns from next \(heads.cm\), .* same prototypes \(out_channels\), but got "
            "{'cnn': 10, 'next': 12}",
        ),
        (
            dict(cnn=changed('cnn', 'search_head', embed_dims=48), vit=branch_cfg('vit')),
            {}, r"same search width \(search_head.embed_dims\), but got {'cnn': 48, 'vit': 24}",
        ),
    ],
)  # fmt: skip
def test_branches_that_do_not_fit(branches, settings, message):
    with pytest.raises(ValueError, match=message):
        build_mokd(branches, **settings)


def test_unknown_mode():
    with pytest.raises(RuntimeError, match="'loss' or 'tensor', but got 'predict'"):
        build_mokd(('vit',))(torch.zeros(1, 3, 32, 32), mode='predict')


def test_default_preprocessor_passes_views():
    cfg = model_cfg(('vit',))
    del cfg['data_preprocessor']
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg)
    views = random_views()
    batch = dict(inputs=views, data_samples=[DataSample(), DataSample()])
    data = model.data_preprocessor(batch, training=True)
    assert all(torch.equal(a, b) for a, b in zip(data['inputs'], views, strict=True))
    assert model(**data, mode='loss').keys() == {'vit.loss_sm', 'vit.loss_st'}


def without(kind, part):
    cfg = branch_cfg(kind)
    del cfg[part]
    return cfg


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (without('vit', 'backbone'), 'has no backbone: it needs one, and takes .*cross_weight'),
        ('vit', "must be a dict with backbone, got 'vit'"),
        (branch_cfg('vit', cross_wieght=0.1), 'takes no cross_wieght=0.1: .* mean cross_weight?'),
        (branch_cfg('vit', projecter=dict(out_channels=3)), 'projecter must be a dict with a type'),
        (dict(branch_cfg('vit'), search_head=3), ': search_head must be a dict with a type, got 3'),
        (dict(branch_cfg('vit'), backbone=dict(depth=18)), ': backbone must be a dict with a type'),
        (changed('vit', 'search_head', num_heads=5), ': embed_dims=24 .* multiple of num_heads=5'),
        (changed('vit', 'search_head', num_heads=0), ': num_heads of the search head must be a whole'),
        (changed('vit', 'search_head', in_channels=48), ': .* needs in_channels == embed_dims'),
        (changed('vit', 'search_head', grid_size=0), ': grid_size of the search head .* but got 0'),
        (changed('vit', 'search_head', grid_size=(4, 4, 4)), ': grid_size .* one number or'),
        (changed('vit', 'search_head', grid_size='four'), ": grid_size .* but got 'four'"),
        (changed('vit', 'search_head', mlp_ratio=-1), ': mlp_ratio .* positive number, but got -1'),
        (changed('vit', 'search_head', out_channels='many'), ": out_channels .* but got 'many'"),
        (changed('vit', 'projector', out_channels=11), ': projector and search head need the same'),
        (changed('vit', 'projector', in_channels=0), ': in_channels of DINOProjector .* but got 0'),
        (changed('vit', 'projector', hid_channels=1.5), ': hid_channels of DINO.* but got 1.5'),
        (changed('vit', 'backbone', arch='vit-tiny'), ': .*vit-tiny is not in default archs'),
        (changed('vit', 'backbone', norm_outputs=True, final_norm=False), ': norm_outputs=True needs'),
        (branch_cfg('vit', cross_weight='much'), ": cross_weight of a branch .* but got 'much'"),
        (branch_cfg('vit', cross_weight=-1), ': cross_weight of a branch must be a number >= 0'),
        (branch_cfg('vit', heads=dict(sn={})), r": unknown loss heads \['sn'\]"),
        (branch_cfg('vit', heads=dict(sm=0.1)), ': heads.sm must be a dict of settings'),
        (branch_cfg('vit', heads=dict(sm=dict(student_temp='warm'))), ": student_temp .* 'warm'"),
    ],
)  # fmt: skip
def test_values_of_a_branch(cfg, message):
    """One sentence with the branch's name and the argument's."""
    with pytest.raises(ValueError, match=rf'^branch vit.*{message}') as error:
        build_mokd(dict(cnn=branch_cfg('cnn'), vit=cfg))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('mean', 'std'), [([1.0], [1.0] * 3), ([1.0] * 4, [1.0] * 4), ([1.0] * 3, None), (None, [1.0])]
)
def test_statistics_that_fit_no_image(mean, std):
    with pytest.raises(ValueError, match='needs mean and std of three values each or, for gray'):
        MODELS.build(dict(model_cfg(), data_preprocessor=dict(mean=mean, std=std)))


def test_statistics_of_gray_images():
    """One mean for the three channels that a gray image is read as, and a backbone of one."""
    model = MODELS.build(
        dict(
            model_cfg(dict(vit=branch_cfg('vit', backbone=dict(in_channels=1)))),
            data_preprocessor=dict(mean=[100.0], std=[50.0], to_rgb=True),
        )
    )
    gray = torch.randint(256, (2, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    views = dict(inputs=[gray.expand(-1, 3, -1, -1)] * 3, data_samples=[DataSample()] * 2)
    data = model.data_preprocessor(views, True)
    expected = (gray.float() - 100) / 50
    assert all(torch.equal(view, expected.expand(-1, 3, -1, -1)) for view in data['inputs'])
    assert all(loss.isfinite() for loss in model(**data, mode='loss').values())


def test_names_of_mmpretrain_need_no_scope(monkeypatch):
    """In plain Python, where no Runner has set one; none is left behind."""
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())
    model = MODELS.build(model_cfg(('cnn',)))
    assert type(model.branches.cnn.student.backbone).__name__ == 'ResNet_CIFAR'
    assert DefaultScope.get_current_instance() is None
