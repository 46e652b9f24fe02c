# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Check that the indexes of the configs are complete and true.

    python .dev_scripts/check_metafile.py [ROOT]

Each folder of configs/ needs a README.md and a metafile.yml; each lists every config of the folder once
(those of a folder within it in the README.md there), under a name that describes the config.
model-index.yml imports every metafile. The README.md of a folder `benchmarks` links to that of each
task, which lists every config of the task. The configs of a quick start are not listed, since they are
not training recipes. Prints one line per problem; exits with status 1 if there are any.
"""

import argparse
import importlib.util
import math
import posixpath
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import yaml
from mmengine.config import Config

# algorithm[-variant]_models_GPUsxbatch-training_data[-labels], for example
# mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k
NAME = re.compile(
    r'(?P<algorithm>[a-z0-9]+)(-[a-z0-9]+)*_(?P<models>[a-z0-9-]+(_[a-z0-9-]+)*)_(?P<gpus>\d+)xb(?P<batch>\d+)'
    r'(?P<amp>-amp)?-[a-z]+-(?P<epochs>\d+)e_(?P<data>[a-z0-9-]+?)(-(?P<labels>\d+)pct)?'
)
DATASETS = {
    'in1k': 'ImageNet',
    'cifar10': 'CIFAR10',
    'folder': 'mmmokd.ImageFolder',
    'folder-knn': 'mmmokd.ImageFolder',
}
LINK = re.compile(r'\]\(([^):\s]+\.py)\)')
PAGE = re.compile(r'\]\(([^):\s#]+\.md)')

# Benchmarks, whose names follow mmpretrain, mmdet or mmseg: the optional parts of a name.
NAMED_LINK = re.compile(r'\[`([^`\]]+)`\]\(([^):\s]+\.py)\)')
PARTS = {
    'depth': re.compile(r'(?:^|_)(?:resnet|r)(\d+)(?=[-_])'),
    'arch': re.compile(r'(?:^|_)vit-([a-z]+)-p\d+(?=_)'),
    'batch size': re.compile(r'_\d+xb(\d+)(?=[-_])'),
    'epochs': re.compile(r'-(\d+)e(?=_)'),
    'schedule, times 12 epochs': re.compile(r'_(\d+)x(?=_)'),
    'thousand iterations': re.compile(r'-(\d+)k(?=_)'),
    'percent of the labels': re.compile(r'-(\d+)pct$'),
}
BENCHMARK_DATASETS = {
    'in1k': 'ImageNet',
    'cifar10': 'CIFAR10',
    'cifar100': 'CIFAR100',
    'fashion': 'FashionMNIST',
    'flowers102': 'Flowers102',
    'stanfordcars': 'StanfordCars',
    'oxfordiiitpet': 'OxfordIIITPet',
    'fgvcaircraft': 'FGVCAircraft',
    'dtd': 'DTD',
    'places205': 'Places205',
    'coco': 'CocoDataset',
    'panoptic': 'BaseSegDataset',
    'voc0712': 'VOCDataset',
    'ade20k': 'ADE20KDataset',
    'voc12aug': 'PascalVOCDataset',
    'cityscapes': 'CityscapesDataset',
}
# Whose configs those of a folder, or of a name that begins so, build on.
PACKAGES = {'detection': 'mmdet', 'segmentation': 'mmseg', 'mask-rcnn': 'mmdet', 'fcn': 'mmseg'}


def check_counts(listed: list[str], existing: list[str], where: str) -> Iterator[str]:
    """Every existing name should be listed once, and no other."""
    for name, count in Counter(listed).items():
        if count > 1:
            yield f'{where}: {name} is listed {count} times'
        if name not in existing:
            yield f'{where}: {name} is listed and does not exist'
    yield from (f'{where}: {name} is not listed' for name in existing if name not in listed)


def check_name(config: Path, folder: Path, model: dict) -> Iterator[str]:
    """The name and the metadata should agree with the config."""
    found = NAME.fullmatch(config.stem)
    if not found:
        yield f'{config.name}: the name does not follow algorithm_models_GPUsxbatch-training_data'
        return
    parts, cfg = found.groupdict(), Config.fromfile(config, import_custom_modules=False)
    metadata = model.get('Metadata', {})
    batch, epochs = cfg.train_dataloader.batch_size, cfg.train_cfg.max_epochs
    branches = [branch for branch in cfg.model.branches.values() if branch is not None]
    datasets = list(inner_datasets(cfg.train_dataloader.dataset))
    labels = parts['labels'] and int(parts['labels'])
    named = {
        'algorithm': (parts['algorithm'], folder.name),
        'models': (len(parts['models'].split('_')), len(branches)),
        'data': (DATASETS.get(parts['data']), datasets[-1]['type']),
        'percent of the labels': (labels, labeled_per_cent(datasets)),
        'Epochs in the metafile': (metadata.get('Epochs'), epochs),
        'Batch Size in the metafile': (metadata.get('Batch Size'), int(parts['gpus']) * batch),
        'batch size': (int(parts['batch']), batch),
        'epochs': (int(parts['epochs']), epochs),
        'amp': (bool(parts['amp']), cfg.optim_wrapper.type == 'AmpOptimWrapper'),
    }
    for what, (said, true) in named.items():
        if said != true:
            yield f'{config.name}: {what} {said!r}, but the config has {true!r}'


def check_folder(folder: Path, root: Path) -> Iterator[str]:
    """Check the README, the metafile and the configs of one folder."""
    apart = {'quickstart', 'benchmarks'}
    configs = sorted(
        path for path in folder.rglob('*.py') if not apart & set(path.relative_to(folder).parts)
    )
    readme, metafile = folder / 'README.md', folder / 'metafile.yml'
    lacking = [path for path in (readme, metafile) if not path.is_file()]
    if lacking:
        yield from (f'{path.relative_to(root)} does not exist' for path in lacking)
        return
    links = [
        posixpath.normpath(posixpath.join(page.parent.relative_to(folder).as_posix(), link))
        for page in sorted(folder.rglob('README.md'))
        if not apart & set(page.relative_to(folder).parts)
        for link in LINK.findall(page.read_text(encoding='utf-8'))
    ]
    links = [link for link in links if not link.startswith('..')]
    names = [path.relative_to(folder).as_posix() for path in configs]
    yield from check_counts(links, names, str(readme.relative_to(root)))

    content = yaml.safe_load(metafile.read_text(encoding='utf-8'))
    where = str(metafile.relative_to(root))
    collections = {collection['Name']: collection for collection in content['Collections']}
    for name, collection in collections.items():
        if not (root / collection['README']).is_file():
            yield f'{where}: the README of {name}, {collection["README"]}, does not exist'
    models = {model['Config']: model for model in content['Models']}
    listed = [model['Config'] for model in content['Models']]
    names = [path.relative_to(root).as_posix() for path in configs]
    yield from check_counts(listed, names, where)
    for path in set(models) & set(names):
        model = models[path]
        if model['Name'] != Path(path).stem:
            yield f'{where}: {model["Name"]} is not the name of {path}'
        if model['In Collection'] not in collections:
            yield f'{where}: {model["Name"]} is in {model["In Collection"]}, which does not exist'
        yield from check_name(root / path, folder, model)


def inner_datasets(dataset: dict) -> Iterator[dict]:
    """A dataset and those inside it, outer before inner."""
    yield dataset
    inner = dataset.get('datasets', [dataset['dataset']] if 'dataset' in dataset else [])
    for child in inner:
        yield from inner_datasets(child)


def labeled_per_cent(datasets: list[dict]) -> int | None:
    """The share of the labels that a training set keeps."""
    for dataset in datasets:
        listed = re.search(r'train_(\d+)percent', dataset.get('ann_file', ''))
        if listed or 'share' in dataset:
            return int(listed[1]) if listed else round(100 * dataset['share'])
    return None


def check_benchmark_name(config: Path) -> Iterator[str]:
    """The name of a benchmark's config should describe it."""
    package = PACKAGES.get(config.parent.name) or PACKAGES.get(config.stem.partition('_')[0])
    if package and not importlib.util.find_spec(package):
        print(f'not checked, since {package} is not installed: {config.name}', file=sys.stderr)
        return
    cfg = Config.fromfile(config, import_custom_modules=False)
    backbone, loop = cfg.model.backbone, cfg.train_cfg
    datasets = list(inner_datasets(cfg.train_dataloader.dataset))
    repeats = math.prod(dataset.get('times', 1) for dataset in datasets)
    epochs = loop.max_epochs * repeats if 'max_epochs' in loop else None
    arch = backbone.get('arch')
    true = {
        'depth': backbone.get('depth'),
        'arch': arch.removeprefix('deit-') if isinstance(arch, str) else arch,
        'batch size': cfg.train_dataloader.batch_size,
        'epochs': epochs,
        'schedule, times 12 epochs': epochs / 12 if epochs else None,
        'thousand iterations': loop.max_iters / 1000 if 'max_iters' in loop else None,
        'percent of the labels': labeled_per_cent(datasets),
    }
    said = {part: found[1] for part, regex in PARTS.items() if (found := regex.search(config.stem))}
    said = {part: int(value) if value.isdigit() else value for part, value in said.items()}
    if true['percent of the labels'] is not None:
        said.setdefault('percent of the labels', 100)
    data = re.match(r'[a-z0-9]*', config.stem.rpartition('_')[2])[0]
    said |= {
        'amp': '-amp-' in config.stem,
        'linear': '-linear-' in config.stem,
        'data': BENCHMARK_DATASETS.get(data, f'unknown ({data})'),
    }
    true |= {
        'amp': cfg.optim_wrapper.get('type') == 'AmpOptimWrapper',
        'linear': backbone.get('frozen_stages', -1) > 0,
        'data': datasets[-1]['type'].rpartition('.')[2],
    }
    for part, value in said.items():
        if value != true[part]:
            yield f'{config.name}: {part} {value!r}, but the config has {true[part]!r}'


def check_benchmarks(folder: Path, root: Path) -> Iterator[str]:
    """Check the READMEs and the configs of a folder of benchmarks, which has one folder per task."""
    index, tasks = folder / 'README.md', sorted({path.parent for path in folder.rglob('*.py')})
    where = str(index.relative_to(root))
    if not index.is_file():
        yield f'{where} does not exist'
    else:
        pages = [posixpath.normpath(x) for x in PAGE.findall(index.read_text(encoding='utf-8'))]
        for task in tasks:
            if (page := f'{task.relative_to(folder).as_posix()}/README.md') not in pages:
                yield f'{where}: {page} is not linked'
    for task in tasks:
        yield from check_task(task, root)


def check_task(folder: Path, root: Path) -> Iterator[str]:
    """Check the README and the configs of one task."""
    readme = folder / 'README.md'
    where = str(readme.relative_to(root))
    configs = sorted(folder.glob('*.py'))
    if not readme.is_file():
        yield f'{where} does not exist'
    else:
        text = readme.read_text(encoding='utf-8')
        links = [posixpath.normpath(link) for link in LINK.findall(text)]
        links = [link for link in links if not link.startswith('..')]
        yield from check_counts(links, [path.name for path in configs], where)
        for name, link in NAMED_LINK.findall(text):
            if name != Path(link).stem:
                yield f'{where}: {name} is not the name of {link}'
    for config in configs:
        yield from check_benchmark_name(config)


def check(root: Path) -> list[str]:
    """Check a checkout.

    Args:
        root (Path): Its folder.

    Returns:
        list[str]: The problems, one line each.
    """
    folders = sorted(
        {
            root / 'configs' / path.relative_to(root / 'configs').parts[0]
            for path in (root / 'configs').rglob('*.py')
        }
        - {root / 'configs' / '_base_'}
    )
    problems = [problem for folder in folders for problem in check_folder(folder, root)]
    for benchmarks in sorted((root / 'configs').glob('*/benchmarks')):
        problems += check_benchmarks(benchmarks, root)
    index = yaml.safe_load((root / 'model-index.yml').read_text(encoding='utf-8'))['Import']
    metafiles = [(folder / 'metafile.yml').relative_to(root).as_posix() for folder in folders]
    return sorted([*problems, *check_counts(index, metafiles, 'model-index.yml')])


def main() -> None:
    parser = argparse.ArgumentParser(description='Check the indexes of the configs')
    parser.add_argument('root', nargs='?', type=Path, default=Path(__file__).resolve().parents[1])
    problems = check(parser.parse_args().root.resolve())
    print('\n'.join(problems) or 'every config is listed, once, under a true name')
    sys.exit(bool(problems))


if __name__ == '__main__':
    main()
