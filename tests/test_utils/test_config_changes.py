# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from mmmokd.utils.config_changes import ABSENT, config_changes, describe_changes

CFG = dict(model=dict(depth=18, heads=[dict(a=1), dict(a=2)]), seed=0, betas=(0.9, 0.99), x=np.nan)


@pytest.mark.parametrize(
    ('new', 'expected'),
    [
        (CFG, []),
        (dict(CFG, betas=[0.9, 0.99]), []),
        (dict(CFG, seed=1), [('seed', 0, 1)]),
        (dict(CFG, model=dict(CFG['model'], depth=50)), [('model.depth', 18, 50)]),
        (
            dict(CFG, model=dict(depth=18, heads=[dict(a=1), dict(a=3, b=4)])),
            [('model.heads.1.a', 2, 3), ('model.heads.1.b', ABSENT, 4)],
        ),
        (dict(CFG, betas=(0.9,)), [('betas', (0.9, 0.99), (0.9,))]),
        ({key: CFG[key] for key in CFG if key != 'seed'}, [('seed', 0, ABSENT)]),
        (dict(CFG, seed=None), [('seed', 0, None)]),
    ],
)
def test_changes(new, expected):
    assert list(config_changes(CFG, new)) == expected


def test_description():
    changes = [('a.b', ABSENT, 'text'), ('c', list(range(99)), 1)]
    lines = describe_changes(changes, 2)
    assert lines[0] == "a.b: (none) -> 'text'"
    assert lines[1].startswith('c: [0, 1, 2') and lines[1].endswith(' ... -> 1')
    assert len(lines[1]) < 80
    assert describe_changes(changes * 2, 3) == [*lines, '... and 2 more']
