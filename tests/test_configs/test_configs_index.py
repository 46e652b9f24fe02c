# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The indexes of the configs: READMEs, metafiles, model-index.yml."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from config_testing import no_memory
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmmokd.registry import MODELS

ROOT = Path(__file__).parents[2]
CHECK = ROOT / '.dev_scripts' / 'check_metafile.py'
METAFILE = ROOT / 'configs' / 'mokd' / 'metafile.yml'
PAPER = 'mokd_resnet50_vit-small-p16_16xb16-amp-coslr-100e_in1k'
LISTED = {
    model['Name']: model
    for path in (ROOT / 'configs').glob('*/metafile.yml')
    for model in yaml.safe_load(path.read_text())['Models']
}


def test_every_config_is_listed():
    done = subprocess.run([sys.executable, str(CHECK)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


check, check_benchmarks = map(runpy.run_path(str(CHECK)).get, ('check', 'check_benchmarks'))


def test_check_finds_what_is_wrong(tmp_path):
    for name in ('configs', 'model-index.yml'):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    mokd = tmp_path / 'configs' / 'mokd'
    linear = mokd / 'benchmarks' / 'classification' / 'resnet50_8xb128-linear-coslr-100e_in1k.py'
    text = linear.read_text()
    shutil.rmtree(mokd / 'benchmarks')
    linear.parent.mkdir(parents=True)
    linear.write_text(text)
    metafile = mokd / 'metafile.yml'
    text = metafile.read_text()
    entry = text[text.index(f'  - Name: {PAPER}\n') :].split('  - Name: ')[1]
    twice = text + '  - Name: ' + entry
    metafile.write_text(twice.replace('Epochs: 200', 'Epochs: 100', 1))
    for unlisted in ('mokd_resnet18_1xb32-amp-coslr-7e_cifar10', 'other', 'byol/byol_r18'):
        config = mokd.parent / unlisted if '/' in unlisted else mokd / unlisted
        config.parent.mkdir(exist_ok=True)
        config.with_suffix('.py').write_text(f"_base_ = '../mokd/{PAPER}.py'\n")
    readme = mokd / 'README.md'
    readme.write_text(readme.read_text() + '\n[other](other.py) [gone](./gone.py)\n')
    metafile.write_text(metafile.read_text() + MISNAMED)

    cifar = 'mokd_resnet18_resnet50_1xb256-amp-coslr-200e_cifar10.py'  # the first one of 200
    misnamed = 'mokd_resnet18_1xb32-amp-coslr-7e_cifar10.py'
    assert check(tmp_path) == sorted(
        [
            f'configs/mokd/metafile.yml: configs/mokd/{PAPER}.py is listed 2 times',
            f'{cifar}: Epochs in the metafile 100, but the config has 200',
            'configs/mokd/metafile.yml: configs/mokd/other.py is not listed',
            'configs/mokd/README.md: gone.py is listed and does not exist',
            f'configs/mokd/README.md: {misnamed} is not listed',
            f"{misnamed}: data 'CIFAR10', but the config has 'ImageNet'",
            f'{misnamed}: batch size 32, but the config has 16',
            f'{misnamed}: epochs 7, but the config has 100',
            f'{misnamed}: models 1, but the config has 2',
            f'{misnamed}: Batch Size in the metafile None, but the config has 16',
            f'{misnamed}: Epochs in the metafile None, but the config has 100',
            'configs/mokd/metafile.yml: a is not the name of '
            'configs/mokd/mokd_resnet18_1xb32-amp-coslr-7e_cifar10.py',
            'configs/mokd/metafile.yml: a is in nothing, which does not exist',
            'configs/mokd/benchmarks/README.md does not exist',
            'configs/mokd/benchmarks/classification/README.md does not exist',
            'configs/byol/README.md does not exist',
            'configs/byol/metafile.yml does not exist',
            'model-index.yml: configs/byol/metafile.yml is not listed',
        ]
    )


def test_check_finds_what_is_wrong_with_benchmarks(tmp_path):
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    benchmarks = tmp_path / 'configs' / 'mokd' / 'benchmarks'
    folder, index = benchmarks / 'classification', benchmarks / 'README.md'
    for other in {path for path in benchmarks.iterdir() if path.is_dir()} - {folder}:
        shutil.rmtree(other)
    readme, page = folder / 'README.md', 'classification/README.md'
    text = readme.read_text()
    name, twice = 'resnet34_8xb128-linear-coslr-100e_in1k', 'vit-base-p16_8xb128-coslr-100e_in1k'
    row = next(line for line in text.splitlines() if f'[`{twice}`]' in line)
    readme.write_text(f'{text.replace(f"[`{name}`]", "[`other`]")}\n{row}\n[gone](./gone.py)\n')
    index.write_text(index.read_text().replace(page, 'gone.md'))
    linear = 'resnet50_8xb128-linear-coslr-100e_in1k'
    misnamed = 'vit-tiny-p16_8xb64-amp-coslr-20e_other'
    (folder / f'{misnamed}.py').write_text(f"_base_ = './{linear}.py'\n")
    share = 'resnet50_1xb256-coslr-20k_cifar10-1pct.py'
    (folder / share).write_text((folder / share).read_text().replace('share=0.01', 'share=0.1'))

    where = f'configs/mokd/benchmarks/{page}'
    assert sorted(check_benchmarks(benchmarks, tmp_path)) == sorted(
        [
            f'configs/mokd/benchmarks/README.md: {page} is not linked',
            f'{where}: {misnamed}.py is not listed',
            f'{where}: {twice}.py is listed 2 times',
            f'{where}: gone.py is listed and does not exist',
            f'{where}: other is not the name of ./{name}.py',
            f"{misnamed}.py: arch 'tiny', but the config has None",
            f'{misnamed}.py: amp True, but the config has False',
            f'{misnamed}.py: batch size 64, but the config has 128',
            f"{misnamed}.py: data 'unknown (other)', but the config has 'ImageNet'",
            f'{misnamed}.py: epochs 20, but the config has 100',
            f'{misnamed}.py: linear False, but the config has True',
            f'{share}: percent of the labels 1, but the config has 10',
        ]
    )


def test_recipes_in_the_table_of_benchmarks():
    """Schedule, learning rate, the batch size it is for, and layer decay."""
    readme = METAFILE.parent / 'benchmarks' / 'classification' / 'README.md'
    rows = re.findall(r'^\| \[`.*\]\(\./(.*\.py)\) \|(.*) \|$', readme.read_text(), re.M)
    assert len(rows) == len(list(readme.parent.glob('*.py')))
    for path, row in rows:
        cfg = Config.fromfile(readme.parent / path)
        loop, wrapper = cfg.train_cfg, cfg.optim_wrapper
        by_epoch = loop.by_epoch
        length = f'{loop.max_epochs} epochs' if by_epoch else f'{loop.max_iters:,} iterations'
        rate = f'{wrapper.optimizer.lr:g} / {cfg.auto_scale_lr.base_batch_size}'
        decay = wrapper.get('paramwise_cfg', {}).get('layer_decay_rate', 1.0)
        rate += f', layer decay {decay}' if decay != 1.0 else ''
        assert row.split(' | ')[-2:] == [length, rate.replace('e-0', 'e-')], path


MISNAMED = """  - Name: a
    In Collection: nothing
    Config: configs/mokd/mokd_resnet18_1xb32-amp-coslr-7e_cifar10.py
"""


@pytest.mark.parametrize('name', LISTED)
def test_parameters_in_the_tables(name):
    cfg = Config.fromfile(ROOT / LISTED[name]['Config'])
    init_default_scope('mmpretrain')
    counts = []
    for branch in filter(None, cfg.model.branches.values()):
        with no_memory():
            backbone = MODELS.build(branch.backbone)
        counts.append(sum(param.numel() for param in backbone.parameters()))
    assert LISTED[name]['Metadata']['Parameters'] == sum(counts)
    readme = (ROOT / LISTED[name]['Config']).with_name('README.md')
    (row,) = re.findall(rf'^\| \[`{name}`\].*$', readme.read_text(), re.M)
    assert row.strip(' |').split(' | ')[2] == ', '.join(f'{count / 1e6:.2f}' for count in counts)
