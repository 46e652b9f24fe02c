# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import json
import statistics
import sys

import pytest
import torch
from transfer_runs import compare_table, read_initialization, run_once
from weights_testing import write_classifier

from mmmokd.cli.config import load_config

TOOL = (sys.executable, 'tools/benchmarks/benchmark_transfer.py')


@pytest.fixture
def r18_config(tmp_path, tiny_config):
    return write_classifier(tmp_path, tiny_config)


def test_compares_initializations(run, r18_config, mokd, tmp_path):
    path, model = mokd
    out = tmp_path / 'out'
    done = run(*TOOL, r18_config, f'mokd={path}:cnn', '--seeds', 3, '--out', out)
    assert done.returncode == 0, done.stdout
    assert 'matched    120 of 120 weights (100 %)' in done.stdout
    metrics = json.loads((out / 'mokd_seed3' / 'metrics.json').read_text())
    assert json.loads((out / 'results.json').read_text()) == {'mokd': [metrics]}
    assert '| initialization (1 seed) |' in (out / 'results.md').read_text()
    file = out / 'mokd_seed3' / 'epoch_1.pth'
    found = torch.load(file, weights_only=False)['state_dict']['backbone.conv1.weight']
    assert torch.equal(found, model.branches['cnn'].teacher.backbone.conv1.weight)  # lr is 0

    file.unlink()  # if it were run again, it would exist again
    start = read_initialization(f'mokd={path}:cnn', load_config(r18_config))
    assert run_once(start, r18_config, out / 'mokd_seed3', 3, []) == metrics
    assert not file.exists()
    # The same folder does not answer for another branch, config or option.
    for other, options, said in (
        (start._replace(prefix='another'), [], 'another prefix'),
        (start._replace(checkpoint=None), ['a=1'], 'another weights and options'),
    ):
        with pytest.raises(ValueError, match=f'mokd_seed3 holds a run of {said}: remove the fold'):
            run_once(other, r18_config, out / 'mokd_seed3', 3, options)


def test_table():
    accuracies = [80.0, 82.0, 81.0]
    results = {
        'random': [{'top1': a, 'miou': 0.1} for a in accuracies],
        'mokd': [{'top1': a + 5, 'miou': 0.2} for a in accuracies],
    }
    lines = compare_table(results).splitlines()
    assert [cell.strip() for cell in lines[0].strip('|').split('|')] == [
        'initialization (3 seeds)', 'top1', 'miou',
    ]  # fmt: skip
    assert f'86.000 ± {statistics.stdev(accuracies):.3f}' in lines[3]
    assert '0.200 ± 0.000' in lines[3]
    assert 'miou' not in compare_table(results, ['top1'])
    with pytest.raises(ValueError, match='the tests gave no top2, but top1, miou'):
        compare_table(results, ['top2'])
    results['random'][1] = {}
    assert compare_table(results).splitlines()[2].split('|')[2].strip() == '-'
    with pytest.raises(ValueError, match='the tests gave no metric, but none'):
        compare_table({'random': [{}]})


@pytest.mark.parametrize('text', ['mokd', '=random', 'mokd=a.pth', 'a/b=random', 'mokd='])
def test_another_text(text, r18_config):
    cfg = load_config(r18_config)
    with pytest.raises(ValueError, match='is not an initialization: NAME=CHECKPOINT:BRANCH'):
        read_initialization(text, cfg)


def test_random_initialization(r18_config):
    found = read_initialization('a=random', load_config(r18_config))
    assert found.options == {'model.backbone.init_cfg': None}


def test_weights_of_the_student(mokd, r18_config):
    start = read_initialization(f'a={mokd[0]}:cnn:student', load_config(r18_config))
    assert start.options['model.backbone.init_cfg.prefix'] == 'branches.cnn.student.backbone.'
    assert start.options['model.backbone.init_cfg.checkpoint'] == str(mokd[0])
