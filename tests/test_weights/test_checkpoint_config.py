# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
from mmengine.config import Config

from mmmokd.weights.checkpoint_config import read_config_text

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / 'configs' / 'mokd').glob('*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=[path.stem for path in CONFIGS])
def test_reads_what_mmengine_dumps(path):
    cfg = Config.fromfile(path)
    assert read_config_text(cfg.pretty_text) == cfg.to_dict()


@pytest.mark.parametrize(
    'text',
    [
        "a = __import__('os').getcwd()",
        'a = dict(b=open)',
        'import os',
        'a.b = 1',
        'a = [x for x in (1,)]',
        'a = dict([(1, 2)])',
        'a = (',
        'a = ' + '(' * 300 + ')' * 300,
    ],
)
def test_runs_nothing(text):
    with pytest.raises(ValueError, match='the config in the checkpoint|malformed node'):
        read_config_text(text)
