# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Drawn scenes in the formats of COCO, VOC, ADE20K and Cityscapes; configs for them made small."""

import importlib
import json
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from config_testing import dicts
from mmengine.config import Config
from mmpretrain.models import ResNet
from mmpretrain.models import VisionTransformer as ViT
from mokd_testing import short_log

import mmmokd.models  # noqa: F401
from mmmokd.engine.hooks import CheckpointCheckHook
from mmmokd.registry import MODELS
from mmmokd.weights import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / 'configs' / 'mokd' / 'benchmarks'
SIZE = 96  # pixels, of a scene
CLASSES = (
    'person',
    'bicycle',
    'car',
)  # by the names that COCO and VOC have: squares, triangles, discs
COLORS = ((40, 40, 230), (40, 230, 40), (230, 40, 40))
NARROWER = 8  # width of a backbone over that of its small copy
ROOTS = dict(
    CocoDataset='coco',
    VOCDataset='VOCdevkit',
    ADE20KDataset='ade',
    PascalVOCDataset='VOCdevkit/VOC2012',
    CityscapesDataset='cityscapes',
)


def need(*modules):
    """Skip where mmdet, mmseg or mmcv's operations are not installed."""
    for module in modules:
        pytest.importorskip(module, reason=f'{module} is not installed', exc_type=ImportError)


def draw_scene(rng):
    """Two colored shapes on noise.

    Returns:
        tuple: The image (BGR), its map of classes (0 background, 1 the first of ``CLASSES``), and
        (class counted from 0, polygon) of each shape.
    """
    image = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) // 2 + 32
    labels = np.zeros((SIZE, SIZE), np.uint8)
    objects = []
    for left in (0, SIZE // 2):
        kind, radius = int(rng.integers(3)), int(rng.integers(19, 23))
        center = (left + SIZE // 4, int(rng.integers(radius, SIZE - radius)))
        corners, turn = ((4, 45), (3, -90), (20, 0))[kind]
        angles = np.deg2rad(turn + 360 / corners * np.arange(corners))
        polygon = np.stack((np.cos(angles), np.sin(angles)), 1) * radius * 1.1 + center
        polygon = polygon.round().clip(0, SIZE - 1).astype(np.int32)
        cv2.fillPoly(image, [polygon], COLORS[kind])
        cv2.fillPoly(labels, [polygon], kind + 1)
        objects.append((kind, polygon))
    return image, labels, objects


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n')


def make_coco(root, scenes, split):
    images, annotations = [], []
    for number, (image, _, objects) in enumerate(scenes, 1):
        name = f'{number:012}.jpg'
        write(root / split / name, image)
        images.append(dict(id=number, file_name=name, width=SIZE, height=SIZE))
        for kind, polygon in objects:
            x, y, width, height = cv2.boundingRect(polygon)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=number,
                    category_id=kind + 1,
                    bbox=[x, y, width, height],
                    segmentation=[polygon.ravel().tolist()],
                    area=cv2.contourArea(polygon),
                    iscrowd=0,
                )
            )
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)]
    content = dict(images=images, annotations=annotations, categories=categories)
    write_lines(root / 'annotations' / f'instances_{split}.json', [json.dumps(content)])


XML = (
    '<object><name>{}</name><bndbox>'
    '<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>'
)


def make_voc(root, scenes):
    names = [f'{number:06}' for number in range(len(scenes))]
    for name, (image, labels, objects) in zip(names, scenes, strict=True):
        write(root / 'JPEGImages' / f'{name}.jpg', image)
        for folder in ('SegmentationClass', 'SegmentationClassAug'):
            write(root / folder / f'{name}.png', labels)
        boxes = [(CLASSES[kind], *cv2.boundingRect(polygon)) for kind, polygon in objects]
        found = [XML.format(name, x + 1, y + 1, x + w, y + h) for name, x, y, w, h in boxes]
        write_lines(root / 'Annotations' / f'{name}.xml', ['<annotation>', *found, '</annotation>'])
    for split in (
        'Main/trainval',
        'Main/test',
        *(f'Segmentation/{s}' for s in ('train', 'aug', 'val')),
    ):
        write_lines(root / 'ImageSets' / f'{split}.txt', names)


def make_data(root, num_train=4, num_val=4):
    """The same scenes in every format, each in its folder of ``ROOTS``."""
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng) for _ in range(num_train + num_val)]
    splits = dict(train=scenes[:num_train], val=scenes[num_train:])
    for split, part in splits.items():
        make_coco(root / 'coco', part, f'{split}2017')
        for number, (image, labels, _) in enumerate(part):
            folder = dict(train='training', val='validation')[split]
            write(root / 'ade' / 'images' / folder / f'{number}.jpg', image)
            write(root / 'ade' / 'annotations' / folder / f'{number}.png', labels)
            name = root / 'cityscapes' / '{}' / split / 'town' / f'town_{number}_{{}}.png'
            write(Path(str(name).format('leftImg8bit', 'leftImg8bit')), image)
            write(Path(str(name).format('gtFine', 'gtFine_labelTrainIds')), labels)
    for year in ('VOC2007', 'VOC2012'):
        make_voc(root / 'VOCdevkit' / year, splits['train'])


def narrow_backbone(model):
    """A model with a backbone an eighth as wide."""
    backbone = model.backbone
    if backbone.type == 'mmmokd.VisionTransformer':
        arch = ViT.arch_zoo[backbone.arch]
        backbone.arch = dict(
            arch,
            embed_dims=arch['embed_dims'] // NARROWER,
            feedforward_channels=arch['feedforward_channels'] // NARROWER,
        )
    elif 'shared_head' in model.get('roi_head', {}):
        return  # mmdet's has one width only
    else:
        backbone.update(base_channels=64 // NARROWER, stem_channels=64 // NARROWER)
    heads = [model.neck] if 'neck' in model else [model.decode_head, model.auxiliary_head]
    if model.get('neck', {}).get('type') == 'Feature2Pyramid':
        model.neck.embed_dim //= NARROWER
        heads = [model.decode_head, model.auxiliary_head]
    for head in heads:
        widths = head.in_channels
        head.in_channels = (
            widths // NARROWER if isinstance(widths, int) else [w // NARROWER for w in widths]
        )


SMALLER = {
    'Resize': dict(scale=(SIZE, SIZE)),
    'RandomResize': dict(scale=(SIZE, SIZE)),
    'RandomCrop': dict(crop_size=(64, 64)),
    'Pad': dict(size=(64, 64)),
    'RandomSampler': dict(num=16),
}


def small_config(path, data, work_dir, options=None):
    """A config that trains on the scenes of :func:`make_data` in seconds."""
    cfg = Config.fromfile(path)
    narrow_backbone(cfg.model)
    for node in dicts(cfg._cfg_dict):
        node.update(SMALLER.get(node.get('type'), {}))
        if 'nms_pre' in node:
            node.update(nms_pre=50, max_per_img=20)
        if 'data_root' in node and node.get('type') in ROOTS:
            node['data_root'] = str(data / ROOTS[node['type']])
        elif 'dataset' in node and 'sampler' in node:
            node.update(num_workers=0, persistent_workers=False, batch_size=2)
        elif node.get('type') == 'CocoMetric':
            node['ann_file'] = str(data / 'coco' / 'annotations' / 'instances_val2017.json')
        elif node.get('type') == 'EncoderDecoder':
            for head in (node['decode_head'], node['auxiliary_head']):
                head['channels'] //= 16
            node['data_preprocessor']['size'] = (64, 64)
            if node['test_cfg']['mode'] == 'slide':
                node['test_cfg'].update(crop_size=(64, 64), stride=(43, 43))
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = work_dir.name
    cfg.merge_from_dict(options or {})
    return cfg


def make_checkpoint(path, model, branch):
    """A MOKD's checkpoint with one branch, whose backbone is that of a detector or segmentor.

    Args:
        path (Path): The file.
        model (ConfigDict): The detector's or segmentor's config.
        branch (str): Name of the branch.

    Returns:
        dict: The backbone's weights.
    """
    torch.manual_seed(0)
    cfg = model.backbone
    if cfg.type == 'mmmokd.VisionTransformer':
        backbone = MODELS.build(dict(type=cfg.type, arch=cfg.arch, img_size=224, patch_size=16))
    else:
        width = cfg.get('base_channels', 64)
        backbone = ResNet(cfg.depth, base_channels=width, stem_channels=width)
    backbone.init_weights()
    weights = {
        key: torch.rand_like(value) + 0.5 if 'running' in key else value
        for key, value in backbone.state_dict().items()
    }
    prefix = f'branches.{branch}.teacher.backbone.'
    torch.save(dict(state_dict={prefix + key: value for key, value in weights.items()}), path)
    return weights


def library_tool(package, name):
    """A command of mmdet or mmseg itself."""
    return Path(importlib.import_module(package).__file__).parent / '.mim' / 'tools' / name


def run_here(monkeypatch, tool, *arguments):
    """Run a command of ours in this process, which has the libraries imported; its exit status."""
    monkeypatch.setattr('sys.argv', [tool, *map(str, arguments)])
    for name in ('LOCAL_RANK', 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'):
        monkeypatch.setenv(name, '0')  # to be put back: the tool sets them
        monkeypatch.delenv(name)
    try:
        with short_log():
            runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
    except SystemExit as exit_info:
        return exit_info.code
    return 0


def remember_start(monkeypatch):
    """The weights that the next run of ours has before its first step; empty until then."""
    started = {}

    def before_train(hook, runner):
        started.update({key: value.clone() for key, value in runner.model.state_dict().items()})

    monkeypatch.setattr(CheckpointCheckHook, 'before_train', before_train)
    return started


def assert_started_from(started, checkpoint, branch, least):
    """The backbone began with the weights of a branch's teacher, ``least`` or more of them."""
    prefix = f'branches.{branch}.teacher.backbone.'
    weights = read_checkpoint(checkpoint)['state_dict']
    weights = {key.removeprefix(prefix): weights[key] for key in weights if key.startswith(prefix)}
    assert len(weights) >= least
    assert {key for key in started if key.startswith('backbone.')} == {
        f'backbone.{key}' for key in weights
    }
    for key, value in weights.items():
        assert torch.equal(started[f'backbone.{key}'], value), key
    return len(weights)


def read_scalars(work_dir, key):
    """Read what a run logged below a name, in order."""
    (file,) = work_dir.glob('*/vis_data/scalars.json')
    lines = map(json.loads, file.read_text().splitlines())
    return [line[key] for line in lines if key in line]


def assert_learned(work_dir, steps, share=0.9):
    """The loss was logged in every step, and fell below a share of what it was."""
    losses = read_scalars(work_dir, 'loss')
    assert len(losses) == steps
    assert sum(losses[-4:]) < share * sum(losses[:4])
