# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Branches of which a part stays as it was loaded: the backbone, or all but low-rank updates."""

import pytest
import torch
from mokd_testing import branch_cfg, build_mokd, optim_wrapper_cfg, random_views

from mmmokd.engine.hooks import EMATeacherHook
from mmmokd.engine.optimizers import BranchOptimWrapperConstructor
from mmmokd.models.branches import make_teacher
from mmmokd.weights import load_backbone, merge_lora

LORA = dict(rank=2, alpha=4.0)
ALONE = dict(cross_weight={})  # nobody to learn from


@pytest.fixture
def weights(tmp_path):
    """A file of the ViT's backbone alone, and the weights of a pair that has it everywhere."""
    model = build_mokd(dict(vit=branch_cfg('vit', **ALONE), cnn=branch_cfg('cnn')), seed=5)
    backbone = model.branches['vit'].student.backbone.state_dict()
    torch.save(backbone, tmp_path / 'backbone.pth')
    return tmp_path / 'backbone.pth', model


def partner(path, **kwargs):
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    # Drop path and the like have no place in a frozen backbone.
    cfg = dict(init_cfg=init_cfg, drop_path_rate=0.5 if 'frozen' in kwargs else 0.0)
    vit = branch_cfg('vit', backbone=cfg, **ALONE, **kwargs)
    return build_mokd(dict(vit=vit, cnn=branch_cfg('cnn')), seed=5).train()


def train(model, steps=2):
    """A few steps with EMA, as a run does them."""
    cfg = optim_wrapper_cfg(['vit', 'cnn'])
    cfg.pop('constructor')
    optim = BranchOptimWrapperConstructor(cfg)(model)
    runner = type('Runner', (), dict(model=model, optim_wrapper=optim, max_iters=10))
    runner.message_hub = type('Hub', (), dict(update_scalar=lambda *args: None))
    hook = EMATeacherHook(0.9)
    hook.before_train(runner)
    for step in range(steps):
        model.train_step(dict(inputs=random_views(seed=step)), optim)
        hook.after_train_iter(runner, step)
    return optim


def snapshot(module):
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def test_frozen_backbone(float64, weights):
    """The losses and gradients of a pair whose backbone takes none, by one pass of it."""
    path, whole = weights
    model = partner(path, frozen='backbone')
    whole.load_state_dict(model.state_dict())  # drop path aside, they are one model now
    branch = model.branches['vit']
    assert branch.teacher.backbone is branch.student.backbone
    assert not branch.student.backbone.training and branch.student.projector.training
    calls = []
    branch.student.backbone.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    sides = []
    for each in (model, whole.train()):
        losses = each(random_views(), mode='loss')
        sum(losses.values()).backward()
        sides.append((losses, dict(each.named_parameters())))
    assert calls == [False, False]  # the globals and the locals; none for the teacher
    (losses, params), (others, other_params) = sides
    assert losses.keys() == others.keys()
    for key, loss in losses.items():
        torch.testing.assert_close(loss, others[key], rtol=1e-12, atol=0)
    frozen = [name for name in params if name.startswith('branches.vit.student.backbone.')]
    assert frozen and not any(params[name].grad is not None for name in frozen)
    for name in (name for name in params if name not in frozen):
        assert (params[name].grad is None) == (other_params[name].grad is None), name
        if params[name].grad is not None:
            torch.testing.assert_close(params[name].grad, other_params[name].grad)


def test_only_necks_learn(weights, read_log):
    path, _ = weights
    model = partner(path, frozen='backbone')
    branch = model.branches['vit']
    before = snapshot(branch)
    optim = train(model)
    groups = [param for group in optim['vit'].optimizer.param_groups for param in group['params']]
    assert len(groups) == len([p for p in branch.student.parameters() if p.requires_grad])
    moved = {
        key for key, value in branch.state_dict().items() if not torch.equal(value, before[key])
    }
    assert not any('.backbone.' in key for key in moved)
    for network in ('student', 'teacher'):
        assert f'{network}.projector.mlp.0.weight' in moved
    state = branch.state_dict()
    for key in (key for key in before if key.startswith('teacher.backbone.')):
        # A checkpoint has both networks whole, and torch.save writes what they share once.
        assert state[key].data_ptr() == state[key.replace('teacher', 'student', 1)].data_ptr()
    assert any('its backbone is frozen, one pass per step' in line for line in read_log())


def test_without_ema_the_student_serves_others(weights):
    model = partner(weights[0], frozen='backbone', ema=False)
    calls = []
    model.branches['vit'].student.backbone.register_forward_hook(lambda *_: calls.append(0))
    assert len(model(random_views(), mode='loss')) == 6 and len(calls) == 2


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(frozen='backbone'), r'learn from noise, .*: \d+ of its weights are random \(backbone.cls'),
        (dict(lora=LORA), r'lora would adapt noise: \d+ of its weights are random \(backbone.cls_token'),
        (dict(frozen=True, lora=LORA, learn=1), 'lora adapts a backbone that learns, but frozen is'),
        (dict(lora=dict(targets=['query'])), r'no linear layer query; .* end with 0, 1, proj, qkv'),
        (dict(lora=dict(rank=0)), 'rank of LoRA must be a whole number of at least 1, but got 0'),
        (dict(frozen='backbone', projector=None, search_head=None,
              heads=dict(sm=None, st=None, k=dict(type='mmmokd.KoLeoHead', reads='pooled'))),
         'trains necks, but no head reads one'),
    ],
)  # fmt: skip
def test_partners_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        vit = {**branch_cfg('vit', **ALONE), **settings}
        cnn = branch_cfg('cnn', cross_weight=dict(vit=1.0) if vit.pop('learn', 0) else {})
        model = build_mokd(dict(vit=vit, cnn=cnn))
        model(random_views(), mode='loss')


def test_updates_of_weights_that_are_used_without_their_layer():
    """mmpretrain's BEiT multiplies by the weight of qkv itself."""
    arch = dict(embed_dims=24, num_layers=1, num_heads=2, feedforward_channels=48)
    beit = dict(type='BEiTViT', arch=arch, img_size=32, patch_size=8)
    with pytest.raises(ValueError, match=r'weights of layers.0.attn.qkv without calling the layer'):
        build_mokd(dict(vit=dict(backbone=beit, lora=dict(targets=['qkv']))), global_size=32)


def test_lora(float64, weights):
    """It begins as the plain model, learns updates and necks alone, and is merged by its names."""
    path, whole = weights
    model = partner(path, lora=dict(LORA, targets=['qkv', 'proj']))
    branch = model.branches['vit']
    student, teacher = branch.student, branch.teacher
    images = torch.rand(2, 3, 32, 32)
    plain = whole.branches['vit'].student.backbone
    assert torch.equal(
        student.extract(images).pooled, whole.branches['vit'].student.extract(images)[0]
    )
    assert teacher.backbone is not student.backbone
    assert teacher.backbone.cls_token is student.backbone.cls_token  # shared, as what is loaded is
    learning = {n for n, p in student.backbone.named_parameters() if p.requires_grad}
    assert len(learning) == 8 and all('lora_' in name for name in learning)
    assert make_teacher(student).projector is not student.projector

    before = snapshot(branch)
    train(model)
    moved = {
        key for key, value in branch.state_dict().items() if not torch.equal(value, before[key])
    }
    of_backbone = {key for key in moved if '.backbone.' in key}
    expected = {f'{net}.backbone.{name}' for net in ('student', 'teacher') for name in learning}
    assert of_backbone == expected  # B first, and A with it from the second step
    name = 'layers.1.attn.qkv.lora_up'
    assert (teacher.backbone.state_dict()[name] != student.backbone.state_dict()[name]).any()

    for network in (student, teacher):
        merged = merge_lora(network.backbone.state_dict())
        assert merged.keys() == plain.state_dict().keys()
        load_backbone(plain, network.backbone.state_dict(), 'a checkpoint')  # which merges
        with torch.no_grad():
            found = whole.branches['vit'].student.eval().extract(images)
            wanted = network.eval().extract(images)
        torch.testing.assert_close(found.tokens, wanted.tokens, rtol=1e-10, atol=1e-12)


def test_lora_is_resumed_with_its_scale(weights):
    path, _ = weights
    model = partner(path, lora=LORA)
    train(model, 1)
    again = partner(path, lora=LORA)
    again.load_state_dict(model.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True)
    )
    with pytest.raises(
        RuntimeError, match=r'qkv.lora_scale \(alpha / rank\) is 2 there, but 0.5 here'
    ):
        partner(path, lora=dict(LORA, alpha=1.0)).load_state_dict(model.state_dict())
