# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from graph_testing import losses_of
from mokd_testing import branch_cfg, build_mokd

FROZEN = dict(vit=branch_cfg('vit', frozen=True), cnn=branch_cfg('cnn'))


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
