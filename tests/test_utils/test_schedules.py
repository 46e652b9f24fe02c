# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from mmmokd.utils.schedules import cosine_schedule, warmup_cosine_schedule


def schedule_of_dino(base, final, total, warmup):
    """All values at once, as DINO makes them."""
    warm = np.linspace(0, base, warmup)
    steps = np.arange(total - warmup)
    cosine = final + 0.5 * (base - final) * (1 + np.cos(np.pi * steps / len(steps)))
    return np.concatenate((warm, cosine))


@pytest.mark.parametrize(('base', 'final'), [(0.1, 0.0048), (0.04, 0.4), (0.996, 1.0), (0, 1)])
@pytest.mark.parametrize(('total', 'warmup'), [(30, 0), (30, 7), (11, 1), (8, 7), (100, 10)])
def test_warm_up_and_cosine(base, final, total, warmup):
    expected = schedule_of_dino(base, final, total, warmup)
    found = [warmup_cosine_schedule(step, total, warmup, base, final) for step in range(total)]
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)
    if not warmup:
        found = [cosine_schedule(step, total, base, final) for step in range(total)]
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_beyond_the_end():
    assert cosine_schedule(0, 0, 0.1, 0.2) == 0.2
    assert cosine_schedule(11, 10, 0.1, 0.2) == 0.2
    assert warmup_cosine_schedule(12, 10, 3, 0.1, 0.2) == 0.2
    assert [warmup_cosine_schedule(s, 3, 3, 0.1, 0.2) for s in range(5)] == [0, 0.05, 0.1, 0.2, 0.2]
