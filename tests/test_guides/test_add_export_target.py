# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The code of docs/en/advanced_guides/add_export_target.md."""

# [start-library]
from pathlib import Path

import torch
from torch import nn

from mmmokd.transfer.libraries import LIBRARIES, Library
from mmmokd.transfer.libraries.mmlab import build_in_scope
from mmmokd.utils.atomic import atomic_write


class PooledFeatures(nn.Module):
    """A backbone whose output is one feature vector for each image."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        last = self.backbone(images)[-1]
        return last.mean((2, 3)) if last.ndim == 4 else last


@LIBRARIES.register_module('torch_export')
class TorchExport(Library):
    """A program of torch.export: it runs with PyTorch alone, without mmpretrain or mmmokd."""

    takes = 'a ResNet, and a ViT with a class token'
    suffix = '.pt2'

    def build(self) -> nn.Module:
        if self.info.family not in ('ResNet', 'VisionTransformer'):
            raise self.refuse()
        cfg = dict(self.info.cfg)
        if self.info.is_vit:
            cfg['out_type'] = 'cls_token'
        return PooledFeatures(build_in_scope(cfg, 'mmpretrain'))

    def convert(self, weights):
        return {f'backbone.{name}': value for name, value in weights.items()}

    def write(self, path: Path, meta: dict[str, str], overwrite: bool) -> None:
        size = self.info.img_size or 224
        images = torch.zeros(2, self.info.cfg.get('in_channels', 3), size, size)
        batch = {0: torch.export.Dim('batch')}
        program = torch.export.export(self.model.eval(), (images,), dynamic_shapes=(batch,))
        with atomic_write(path) as part, part.open('wb') as file:
            torch.export.save(program, file)

    def usage(self, file: Path) -> str:
        return f'model = torch.export.load({str(file)!r}).module()'


# [end-library]


# [start-test]
import pytest  # noqa: E402
from transfer_testing import run_here  # noqa: E402


@pytest.mark.parametrize('branch', ['cnn', 'vit'])
def test_features_are_the_branchs(mokd, tmp_path, monkeypatch, capsys, branch):
    checkpoint, model = mokd  # a MOKD checkpoint, and the model it was saved from
    out = tmp_path / 'branch.pt2'
    tool = ('model_converters/export_branch.py', '--custom-imports', 'test_add_export_target')
    arguments = (checkpoint, out, '--to', 'torch_export', '--branch', branch)
    assert run_here(monkeypatch, *tool, *arguments) == 0
    printed = capsys.readouterr().out
    assert '(100 %)' in printed and f'model = torch.export.load({str(out)!r}).module()' in printed

    size = 64 if branch == 'vit' else 224
    images = torch.rand(3, 3, size, size)
    with torch.no_grad():
        expected = model.branches[branch].teacher.extract(images).pooled
        found = torch.export.load(out).module()(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    # [end-test]


def test_another_family_is_refused(tmp_path, monkeypatch, capsys):
    backbone = build_in_scope(dict(type='MobileNetV2', widen_factor=0.1), 'mmpretrain')
    weights = {f'branches.a.teacher.backbone.{k}': v for k, v in backbone.state_dict().items()}
    text = (
        "model = dict(branches=dict(a=dict(backbone=dict(type='MobileNetV2', widen_factor=0.1))))"
    )
    torch.save(dict(state_dict=weights, meta=dict(cfg=text)), tmp_path / 'a.pth')
    for name, message in (
        (
            'a.pt2',
            '--to torch_export takes a ResNet, and a ViT with a class token, but the branch is',
        ),
        ('a.pth', 'torch_export reads such a file by its suffix'),
    ):
        arguments = (tmp_path / 'a.pth', tmp_path / name, '--to', 'torch_export')
        assert run_here(monkeypatch, 'model_converters/export_branch.py', *arguments) == 2
        assert message in capsys.readouterr().err
