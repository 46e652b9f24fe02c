# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import json
import re
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

ANALYZE = Path(__file__).resolve().parents[2] / 'tools' / 'analysis_tools' / 'analyze_locality.py'


@pytest.fixture
def analyze(monkeypatch, capfd):
    """Runs the command in this process, which spares the seconds of its imports."""

    def analyze(*arguments):
        monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '0')
        monkeypatch.setattr(sys, 'argv', [str(ANALYZE), *map(str, arguments)])
        status = 0
        try:
            runpy.run_path(str(ANALYZE), run_name='__main__')
        except SystemExit as end:
            status = end.code
        return status, ''.join(capfd.readouterr())

    return analyze


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Six images of noise in class folders, which the config's pipeline makes 64 x 64."""
    folder, rng = tmp_path_factory.mktemp('noise'), np.random.default_rng(0)
    for number in range(6):
        file = folder / 'ab'[number % 2] / f'{number}.png'
        file.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(file), rng.integers(0, 256, (70, 80, 3), dtype=np.uint8))
    return folder


def test_a_pair_and_both_alone(analyze, mokd_config, mokd_checkpoint, folder, tmp_path):
    """A run's own checkpoint, and one of each of its branches: as in docs/useful_tools."""
    weights = torch.load(mokd_checkpoint, weights_only=False)['state_dict']
    for branch in ('cnn', 'vit'):
        kept = {key: value for key, value in weights.items() if f'branches.{branch}.' in key}
        torch.save(dict(state_dict=kept), tmp_path / f'{branch}.pth')
    command = (
        *(mokd_config, f'together={mokd_checkpoint}'),
        *(f'alone={tmp_path / "cnn.pth"}', f'alone={tmp_path / "vit.pth"}'),
        *('--data', folder, '--out', tmp_path / 'out', '--num-images', '5'),
        *('--networks', 'teacher', 'student'),
        *('--cfg-options', 'model.branches.vit.backbone.arch.num_layers=4'),
    )
    status, printed = analyze(*command)
    assert status == 0, printed
    assert (tmp_path / 'out' / 'locality.md').read_text() in printed
    assert '| 4     | alone      |' in printed
    found = json.loads((tmp_path / 'out' / 'locality.json').read_text())
    assert (found['num_images'], found['image_size']) == (5, [64, 64])
    together, alone = (found['results'][name] for name in ('together', 'alone'))
    assert list(together) == [
        f'{branch}.{network}' for branch in ('cnn', 'vit') for network in ('teacher', 'student')
    ]
    assert alone == together
    (vit,) = alone['vit.teacher']
    assert np.shape(vit['attention_distance']['pixels']) == (4, 2)
    assert [vit] != alone['vit.student']
    cka = np.array(found['linear_cka']['values'])
    np.testing.assert_allclose(np.diag(cka[:4, 4:]), 1)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['CHECKPOINT'], 'has no validation images .* --data FOLDER'),
        (['CHECKPOINT', '--data', 'FOLDER'], r'epoch_1.pth \(vit.teacher\) has .* no place for'),
        (['CHECKPOINT', 'nowhere.pth', '--data', 'FOLDER'], 'nowhere.pth does not exist'),
        (['CHECKPOINT', '--data', 'nowhere'], 'nowhere'),
        (['CHECKPOINT', '--num-images', '3'], '--num-images must be at least 4, but is 3'),
        (['CHECKPOINT', '--batch-size', '0'], '--batch-size must be at least 1, but is 0'),
    ],
)
def test_a_mistake_is_one_line(
    analyze, mokd_config, mokd_checkpoint, folder, tmp_path, arguments, message
):
    """``mokd_config`` has another number of blocks than the checkpoint."""
    words = dict(CHECKPOINT=mokd_checkpoint, FOLDER=folder)
    arguments = [words.get(each, each) for each in arguments]
    status, printed = analyze(mokd_config, *arguments, '--out', tmp_path / 'out')
    assert status == 2
    (line,) = [line for line in printed.splitlines() if 'error: ' in line]
    assert re.search(message, line), line
    assert not list(tmp_path.glob('out/*'))
