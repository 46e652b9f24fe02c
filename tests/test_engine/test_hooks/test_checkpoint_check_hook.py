# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mokd_testing import build_mokd, build_runner, train

HOOK = dict(type='mmmokd.CheckpointCheckHook')


def save(tmp_path, change=lambda state_dict: state_dict, branches=('vit',)):
    state_dict = build_mokd(branches, seed=3).state_dict()
    path = str(tmp_path / 'weights.pth')
    torch.save(dict(state_dict=change(dict(state_dict)), meta=dict()), path)
    return path, state_dict


def load(runner_cfg, path, **settings):
    """Do what a run does before its first step."""
    cfg = runner_cfg(branches=('vit',), load_from=path, custom_hooks=[dict(HOOK, **settings)])
    runner = build_runner(cfg)
    runner.load_or_resume()
    return runner.model.state_dict()


@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize('partial', [False, True])
def test_checkpoint_that_fits(runner_cfg, tmp_path, prefix, partial):
    path, expected = save(tmp_path, lambda state: {prefix + k: v for k, v in state.items()})
    found = load(runner_cfg, path, partial=partial)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_missing_weights(runner_cfg, tmp_path):
    lost = 'branches.vit.teacher.backbone.cls_token'
    path, _ = save(tmp_path, lambda state: {k: v for k, v in state.items() if k != lost})
    with pytest.raises(ValueError, match=f'the checkpoint lacks 1 of the .* MOKD: {lost}'):
        load(runner_cfg, path)
    load(runner_cfg, path, partial=True)


def test_weights_of_other_branches(runner_cfg, tmp_path):
    path, _ = save(tmp_path, branches=('cnn',))
    for partial in (False, True):
        with pytest.raises(ValueError, match='with the branches cnn, .* for this MOKD .* vit'):
            load(runner_cfg, path, partial=partial)
    torch.save({'state_dict': {'other': torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match='the checkpoint lacks .* of MOKD: branches.vit.*other'):
        load(runner_cfg, path)
    with pytest.raises(ValueError, match='not one of the 1 weights .* example other and .*vit'):
        load(runner_cfg, path, partial=True)


def test_weights_of_another_shape(runner_cfg, tmp_path):
    key = 'branches.vit.student.projector.mlp.0.weight'
    path, _ = save(tmp_path, lambda state: dict(state, **{key: torch.zeros(2, 2)}))
    with pytest.raises(ValueError, match=f'does not fit MOKD: .*{key}'):
        load(runner_cfg, path)


def test_position_embedding_of_another_kind(runner_cfg, tmp_path):
    """Without its class token's row mmpretrain cannot resize it."""
    key = 'branches.vit.student.backbone.pos_embed'
    path, _ = save(tmp_path, lambda state: dict(state, **{key: torch.zeros(1, 16, 24)}))
    with pytest.raises(ValueError, match='the checkpoint does not fit MOKD: .*pos_embed'):
        load(runner_cfg, path)


def test_resumed_run(runner_cfg, tmp_path):
    """A checkpoint of a run passes; one cut short stops the run before its first step."""
    checkpoints = dict(checkpoint=dict(type='CheckpointHook', interval=1))
    cfg = runner_cfg(length=4, max_epochs=1, branches=('vit',), custom_hooks=[HOOK])
    cfg.default_hooks.update(checkpoints)
    train(cfg)
    path = f'{cfg.work_dir}/epoch_1.pth'
    longer = runner_cfg(
        'more', length=4, max_epochs=2, branches=('vit',), custom_hooks=[HOOK], resume=True,
        load_from=path,
    )  # fmt: skip
    assert train(longer).iter == 2

    checkpoint = torch.load(path, weights_only=False)
    for key in [key for key in checkpoint['state_dict'] if '.teacher.' in key]:
        del checkpoint['state_dict'][key]
    torch.save(checkpoint, path)
    longer.experiment_name = 'without_teachers'
    with pytest.raises(ValueError, match='lacks .*teacher'):
        train(longer)
