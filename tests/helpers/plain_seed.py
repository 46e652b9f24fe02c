# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The loss of SEED over lists of numbers."""

from mokd_testing import slow_cross_entropy, slow_softmax


def slow_seed_loss(student, teacher, queue, pairs, teacher_temp=1e-4):
    """The loss of the paper: the teacher's own embedding is one of those compared with.

    student (V, B, C), teacher (G, B, C) and queue (K, C) are L2-normalized, as nested lists.
    """

    def cosines(z, own):
        return [sum(x * y for x, y in zip(z, d, strict=True)) for d in (own, *queue)]

    terms = []
    for v, g in pairs:
        for z_s, z_t in zip(student[v], teacher[g], strict=True):
            target = slow_softmax([x / teacher_temp for x in cosines(z_t, z_t)])
            terms.append(slow_cross_entropy(target, cosines(z_s, z_t), 0.2))
    return sum(terms) / len(terms)
