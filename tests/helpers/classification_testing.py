# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Configs of fine-tuning made small, and random images in the form of each set that they name."""

import pickle

import mat4py
import numpy as np
from config_testing import dicts, draw_image
from mmengine.config import Config
from mmpretrain.datasets.categories import FGVCAIRCRAFT_CATEGORIES
from mmpretrain.models import VisionTransformer as ViT

IMAGES = 8  # of a set, four of them to train with
SIZE = 32  # of a crop
LAYERS = 4  # of a ViT's twelve: linear evaluation reads four
TRAIN, TEST = range(IMAGES // 2), range(IMAGES // 2, IMAGES)


def write_imagenet(root, rng):
    for split in ('train', 'val'):
        names = [f'n0144076{i % 2}/{i}.png' for i in TRAIN]
        for name in names:
            draw_image(root / split / name, rng)
        lines = '\n'.join(f'{name} {i % 2}' for i, name in enumerate(names))
        (root / 'meta').mkdir(exist_ok=True)
        for list_file in (split, f'{split}_1percent', f'{split}_10percent'):
            (root / 'meta' / f'{list_file}.txt').write_text(lines)


def write_cifar(folder, names, key, rng):
    folder.mkdir()
    for name in names:
        data = rng.integers(0, 256, (IMAGES, 3 * 32 * 32), dtype=np.uint8)
        labels = [i % 2 for i in range(IMAGES)]
        (folder / name).write_bytes(pickle.dumps({'data': data, key: labels}))


def write_flowers(root, rng):
    for i in range(IMAGES):
        draw_image(root / 'jpg' / f'image_{i + 1:05}.jpg', rng)
    mat4py.savemat(str(root / 'imagelabels.mat'), {'labels': [101 + i % 2 for i in range(IMAGES)]})
    splits = {'trnid': [1, 2], 'valid': [3, 4], 'tstid': [i + 1 for i in TEST]}
    mat4py.savemat(str(root / 'setid.mat'), splits)


def write_cars(root, rng):
    names = [f'car_ims/{i}.jpg' for i in range(IMAGES)]
    for name in names:
        draw_image(root / name, rng)
    annotations = {
        'relative_im_path': names,
        'class': [195 + i % 2 for i in range(IMAGES)],
        'test': [int(i in TEST) for i in range(IMAGES)],
    }
    mat4py.savemat(str(root / 'cars_annos.mat'), {'annotations': annotations})


def write_pets(root, rng):
    for i in range(IMAGES):
        draw_image(root / 'images' / f'pug_{i}.jpg', rng)
    (root / 'annotations').mkdir()
    for split, indices in (('trainval', TRAIN), ('test', TEST)):
        lines = '\n'.join(f'pug_{i} {36 + i % 2} 2 1' for i in indices)
        (root / 'annotations' / f'{split}.txt').write_text(lines)


def write_aircraft(root, rng):
    for i in range(IMAGES):
        draw_image(root / 'data' / 'images' / f'{i}.jpg', rng)
    for split, indices in (('trainval', TRAIN), ('test', TEST)):
        lines = '\n'.join(f'{i} {FGVCAIRCRAFT_CATEGORIES[98 + i % 2]}' for i in indices)
        (root / 'data' / f'images_variant_{split}.txt').write_text(lines)


def write_textures(root, rng):
    names = [f'zigzagged/zigzagged_{i}.jpg' for i in range(IMAGES)]
    for name in names:
        draw_image(root / 'images' / name, rng)
    (root / 'imdb').mkdir()
    images = {
        'name': names,
        'class': [46 + i % 2 for i in range(IMAGES)],
        'set': [3 if i in TEST else 1 + i % 2 for i in range(IMAGES)],
    }
    mat4py.savemat(str(root / 'imdb' / 'imdb.mat'), {'images': images})


def write_places(root, rng):
    names = [f'z/zoo/{i}.jpg' for i in range(IMAGES)]
    for name in names:
        draw_image(root / 'data/vision/torralba/deeplearning/images256' / name, rng)
    (root / 'trainvalsplit_places205').mkdir()
    for split, indices in (('train', TRAIN), ('val', TEST)):
        lines = '\n'.join(f'{names[i]} {203 + i % 2}' for i in indices)
        (root / 'trainvalsplit_places205' / f'{split}_places205.csv').write_text(lines)


def write_cifar10(root, rng):
    names = [f'data_batch_{i}' for i in range(1, 6)]
    write_cifar(root / 'cifar-10-batches-py', [*names, 'test_batch'], 'labels', rng)


def write_cifar100(root, rng):
    write_cifar(root / 'cifar-100-python', ['train', 'test', 'meta'], 'fine_labels', rng)


WRITERS = dict(
    ImageNet=write_imagenet,
    CIFAR10=write_cifar10,
    CIFAR100=write_cifar100,
    Flowers102=write_flowers,
    StanfordCars=write_cars,
    OxfordIIITPet=write_pets,
    FGVCAircraft=write_aircraft,
    DTD=write_textures,
    Places205=write_places,
)


def write_datasets(tmp_path_factory):
    """A few random images in the form of each set; folders by type of the set."""
    rng = np.random.default_rng(0)
    roots = {}
    for kind, write in WRITERS.items():
        roots[kind] = tmp_path_factory.mktemp(kind)
        write(roots[kind], rng)
    return roots


def shrink_model(model):
    """From random weights; a ViT with four layers of its twelve."""
    backbone = model.backbone
    backbone.init_cfg = None
    if backbone.type == 'mmmokd.VisionTransformer':
        assert backbone.get('frozen_stages', 12) == 12, 'all layers are frozen, or none'
        backbone.arch = dict(ViT.arch_zoo[backbone.arch], num_layers=LAYERS)
        if 'frozen_stages' in backbone:
            backbone.frozen_stages = LAYERS
        if 'out_indices' in backbone:
            assert backbone.out_indices == [8, 9, 10, 11], 'the last four'
            backbone.out_indices = list(range(LAYERS))


def small_config(path, tmp_path, data_roots, batch_size=2):
    """A config that trains on a few images in seconds, without warm-up."""
    cfg = Config.fromfile(path)
    shrink_model(cfg.model)
    for node in dicts(cfg._cfg_dict):
        if node.get('type') in data_roots and 'pipeline' in node:
            node['data_root'] = f'{data_roots[node["type"]]}/'
        elif 'dataset' in node and 'sampler' in node:
            node.update(num_workers=0, persistent_workers=False, pin_memory=False)
            node['batch_size'] = batch_size
        elif node.get('type') in ('RandomResizedCrop', 'ResizeEdge'):
            node['scale'] = SIZE
        elif node.get('type') == 'CenterCrop':
            node['crop_size'] = SIZE
    if 'warmup' in cfg.param_scheduler:
        cfg.param_scheduler.warmup = 0
    cfg.default_hooks.checkpoint.update(interval=10**6, save_last=False)
    cfg.work_dir = str(tmp_path)
    cfg.experiment_name = tmp_path.name
    return cfg
