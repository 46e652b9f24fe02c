# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Find every training image's nearest neighbors in the space of a frozen teacher.

    python tools/dataset_converters/find_neighbors.py CONFIG [--branch NAME] [--out FILE] [...]

CONFIG is one whose train_dataloader.dataset is a mmmokd.NeighborBags, as those of BINGO. Each image of
its dataset is read as for evaluation, one view without augmentation; the teacher is the config's frozen
branch, and neighbors are the nearest by the cosine of its pooled features. FILE, where the config
expects it by default, gets `neighbors`, (N, K) numbers of images, the nearest first. One process does
it; a GPU is used if there is one.
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mmmokd.cli.run_tool import run_tool, tool_parser

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import Tensor, nn
    from torch.utils.data import DataLoader


def parse_args() -> argparse.Namespace:
    parser = tool_parser("Find every training image's nearest neighbors for a frozen teacher")
    parser.add_argument('--branch', help='the frozen branch (default: the only one)')
    parser.add_argument(
        '--num-neighbors',
        type=int,
        metavar='K',
        help="neighbors of each image (default: the config's num_neighbors)",
    )
    parser.add_argument('--out', metavar='FILE', help='where to (default: as the config has it)')
    return parser.parse_args()


def choose_teacher(cfg: 'Config', branch: str | None) -> str:
    """The name of the frozen branch."""
    from mmmokd.utils.errors import ConfigError

    branches = cfg.model.get('branches') or {}
    frozen = [name for name, each in branches.items() if each and each.get('frozen')]
    if branch is None and len(frozen) == 1:
        return frozen[0]
    if branch in frozen:
        return branch
    listed = ', '.join(frozen) or 'none'
    raise ConfigError(
        f'the frozen branches of {cfg.filename} are {listed}'
        + (f', but got --branch {branch}' if branch else ': name one by --branch')
    )


def build_teacher(cfg: 'Config', name: str) -> 'nn.Module':
    """The algorithm with the teacher's weights, in evaluation mode."""
    from mmengine.device import get_device

    from mmmokd.registry import MODELS

    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.branches[name].check_initialized()
    return model.to(get_device()).eval()


def build_loader(cfg: 'Config') -> 'DataLoader':
    """All images of the bags' dataset, in order, as for evaluation."""
    from mmengine.dataset import default_collate
    from torch.utils.data import DataLoader

    from mmmokd.evaluation.pipeline import evaluation_pipeline
    from mmmokd.registry import DATASETS

    plain = cfg.train_dataloader.dataset.dataset
    pipelines = cfg.copy()
    pipelines.train_dataloader = dict(dataset=plain)
    pipeline = evaluation_pipeline(pipelines)
    if pipeline[0]['type'].endswith('LoadImage'):
        pipeline = [dict(pipeline[0], skip_bad=False), *pipeline[1:]]
    dataset = DATASETS.build(dict(plain, pipeline=pipeline))
    source = cfg.get('val_dataloader') or cfg.train_dataloader
    return DataLoader(
        dataset,
        batch_size=source.get('batch_size', 1),
        num_workers=source.get('num_workers', 0),
        collate_fn=default_collate,
    )


def embed_images(model: 'nn.Module', name: str, loader: 'DataLoader') -> 'Tensor':
    """Pooled features of all images, (N, C)."""
    import torch
    from rich.progress import track

    from mmmokd.evaluation.batches import read_inputs

    network = model.branches[name].network('teacher')
    with torch.no_grad():
        return torch.cat(
            [
                network.extract(read_inputs(model, batch)).pooled.float().cpu()
                for batch in track(loader, 'Features')
            ]
        )


def find(args: argparse.Namespace) -> None:
    import numpy as np
    from mmengine.device import get_device
    from mmengine.registry import DefaultScope

    from mmmokd.cli.config import load_config, require_keys
    from mmmokd.evaluation import nearest_neighbors
    from mmmokd.utils.atomic import atomic_write
    from mmmokd.utils.config_tree import type_name
    from mmmokd.utils.errors import ConfigError

    cfg = load_config(args.config, args.cfg_options)
    require_keys(cfg, ('model', 'train_dataloader'), 'finding neighbors')
    bags = cfg.train_dataloader.dataset
    if type_name(bags.get('type')) != 'NeighborBags':
        raise ConfigError(
            f'train_dataloader.dataset of {args.config} must be a mmmokd.NeighborBags, but is '
            f'{bags.get("type")}'
        )
    out = Path(args.out or bags.neighbors).expanduser()
    num = args.num_neighbors or bags.get('num_neighbors', 5)
    teacher = choose_teacher(cfg, args.branch)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmpretrain'):
        model = build_teacher(cfg, teacher)
        features = embed_images(model, teacher, build_loader(cfg))
    found = nearest_neighbors(features, num, device=get_device())
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as part, open(part, 'wb') as file:
        np.savez_compressed(file, neighbors=found.numpy().astype(np.int32))
    print(f'{num} neighbors of each of {len(found)} images, by {teacher}: {out}')


if __name__ == '__main__':
    run_tool(lambda: find(parse_args()))
