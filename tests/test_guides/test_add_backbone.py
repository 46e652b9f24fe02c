# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The code of docs/en/advanced_guides/add_backbone.md: a backbone of your own and its adapter."""

import pytest
from mmengine.hooks import Hook
from mokd_testing import build_mokd, copy_of, runner_cfg, train

# isort: split
# [start-backbone]
import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmmokd.models.branches import BackboneAdapter
from mmmokd.registry import MODELS
from mmmokd.structures import BackboneFeatures


@MODELS.register_module()
class ScanNet(BaseModule):
    """Read an image's patches like a text, in both directions, with a class token in their middle."""

    def __init__(
        self,
        embed_dims: int = 192,
        patch_size: int = 16,
        num_layers: int = 4,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.patch_size = patch_size
        self.patch_embed = nn.Conv2d(3, embed_dims, patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
        self.scan = nn.GRU(
            embed_dims, embed_dims // 2, num_layers, batch_first=True, bidirectional=True
        )
        self.norm = nn.LayerNorm(embed_dims)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)  # (B, N, C)
        middle = patches.shape[1] // 2
        cls_token = self.cls_token.expand(len(images), -1, -1)
        x = torch.cat([patches[:, :middle], cls_token, patches[:, middle:]], dim=1)
        sequence, _ = self.scan(x)
        return dict(sequence=self.norm(sequence), cls_index=middle)  # (B, N + 1, C)


# [end-backbone]


# [start-adapter]
@MODELS.register_module()
class ScanNetAdapter(BackboneAdapter):
    """Take the class token out of a ScanNet's sequence."""

    def read(
        self, output: dict, backbone: ScanNet, image_size: tuple[int, int]
    ) -> BackboneFeatures:
        sequence, i = output['sequence'], output['cls_index']
        tokens = torch.cat([sequence[:, :i], sequence[:, i + 1 :]], dim=1)  # (B, h * w, C)
        height, width = image_size
        grid = (height // backbone.patch_size, width // backbone.patch_size)
        return BackboneFeatures(pooled=sequence[:, i], tokens=tokens, grid=grid)


# [end-adapter]

# [start-config]
model = dict(
    type='mmmokd.MOKD',
    branches=dict(
        cnn=dict(backbone=dict(type='ResNet', depth=18)),
        scan=dict(backbone=dict(type='mmmokd.ScanNet'), adapter=dict(type='mmmokd.ScanNetAdapter')),
    ),
)
# [end-config]

# [start-ready]
adapter = dict(type='mmmokd.TokenAdapter', index='sequence', position='middle')
# [end-ready]

SMALL = dict(
    cnn=dict(backbone=dict(model['branches']['cnn']['backbone'], base_channels=8, stem_channels=8)),
    scan=dict(
        model['branches']['scan'], backbone=dict(type='mmmokd.ScanNet', embed_dims=24, num_layers=1)
    ),
)
SETTINGS = dict(
    global_size=32,
    neck_defaults=dict(out_channels=10, embed_dims=24),
    data_preprocessor=dict(type='mmengine.BaseDataPreprocessor'),
)


@pytest.mark.parametrize('size', [(32, 48), (48, 48)])
def test_the_adapter_reads_what_a_ready_one_reads(size):
    # [start-try]
    from mmmokd.models.branches import infer_features

    backbone = MODELS.build(dict(type='mmmokd.ScanNet'))
    spec = infer_features(backbone, 96, ScanNetAdapter())
    print(spec.pooled_channels, spec.token_channels, spec.grid)  # 192 192 (6, 6)
    # [end-try]
    assert spec[:3] == (192, 192, (6, 6))
    images = torch.randn(2, 3, *size)
    found = ScanNetAdapter()(backbone(images), backbone, size)
    expected = MODELS.build(adapter)(backbone(images), backbone, size)
    assert all(torch.equal(x, y) for x, y in zip(found[:2], expected[:2], strict=True))
    assert found.grid == expected.grid == (size[0] // 16, 3)


def test_without_an_adapter_the_message_says_what_is_missing():
    scan = dict(backbone=dict(type='mmmokd.ScanNet'))
    with pytest.raises(
        ValueError, match=r'branch scan: the backbone ScanNet gave dict .* set the `adapter` of'
    ):
        build_mokd(dict(scan=scan))


def test_it_trains_in_a_pair(tmp_path):
    cfg = runner_cfg(tmp_path, length=4)  # two steps, the first with lr 0
    cfg.model = dict(model, branches=SMALL, **SETTINGS)
    cfg.optim_wrapper.branches = dict(
        cnn=cfg.optim_wrapper.branches.cnn, scan=cfg.optim_wrapper.branches.vit
    )
    cfg.param_scheduler = dict(cnn=cfg.param_scheduler.cnn, scan=cfg.param_scheduler.vit)
    before = {}

    class Keep(Hook):
        def before_train(self, runner):
            before.update(copy_of(runner.model.state_dict()))

    after = train(cfg, Keep()).model.state_dict()
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    for network in ('student', 'teacher'):
        assert {key for key in after if f'scan.{network}.backbone.' in key} <= moved
        assert f'branches.cnn.{network}.backbone.conv1.weight' in moved
