# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import math


def cosine_schedule(step: int, max_steps: int, start: float, end: float) -> float:
    """Cosine from ``start`` towards ``end``: end + (start - end) (1 + cos(pi step / max_steps)) / 2.

    Args:
        step (int): Counted from 0.
        max_steps (int): Steps of the whole schedule; ``end`` is reached one step after the last.
        start (float): Value at step 0.
        end (float): Value at step ``max_steps`` and later.

    Returns:
        float: The value.
    """
    if step >= max_steps:
        return end
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * step / max_steps))


def warmup_cosine_schedule(
    step: int, max_steps: int, warmup_steps: int, start: float, end: float
) -> float:
    """Linear warm-up from 0 to ``start``, then cosine to ``end``, as in DINO.

    The warm-up is ``linspace(0, start, warmup_steps)``: its last step has the full value, as has the
    first step of the cosine.

    Args:
        step (int): Counted from 0.
        max_steps (int): Steps of the whole schedule, warm-up included.
        warmup_steps (int): Steps of the warm-up; 0 for none.
        start (float): Value after the warm-up.
        end (float): Value at step ``max_steps`` and later.

    Returns:
        float: The value.
    """
    if step < warmup_steps:
        return start * step / (warmup_steps - 1) if warmup_steps > 1 else 0.0
    return cosine_schedule(step - warmup_steps, max_steps - warmup_steps, start, end)


def teacher_temp_at(epoch: float, start: float, end: float, warmup_epochs: int) -> float:
    """Teacher temperature: ``linspace(start, end, warmup_epochs)[epoch]``, then ``end``.

    Args:
        epoch (float): Counted from 0; between two epochs the temperature is between theirs.
        start (float): Temperature of epoch 0.
        end (float): Temperature of epoch ``warmup_epochs - 1`` and later.
        warmup_epochs (int): Length of the warm-up; 0 for none.

    Returns:
        float: The temperature.
    """
    if epoch >= warmup_epochs:
        return end
    if warmup_epochs == 1:
        return start
    return start + (end - start) * min(epoch, warmup_epochs - 1) / (warmup_epochs - 1)
