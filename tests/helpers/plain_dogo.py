# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""The formulas of Distill on the Go, number by number."""


def plain_nt_xent(first, second, temperature):
    """Equation 1 of SimCLR (arXiv 2002.05709), feature by feature, and its mean over all."""
    features = [*first, *second]
    half = len(first)

    def similarity(x, y):
        return (x * y).sum() / (x.norm() * y.norm()) / temperature

    total = 0.0
    for i, x in enumerate(features):
        partner = features[(i + half) % (2 * half)]
        others = [similarity(x, y).exp() for k, y in enumerate(features) if k != i]
        total -= (similarity(x, partner).exp() / sum(others)).log()
    return total / len(features)


def plain_similarity_kl(student, teacher, temperature):
    """Equations 2 and 3 of DoGo (arXiv 2104.09866), with its released code's mean over elements."""

    def probabilities(rows, columns, i):
        cosines = [(rows[i] * y).sum() / (rows[i].norm() * y.norm()) for y in columns]
        weights = [(cosine / temperature).exp() for cosine in cosines]
        return [weight / sum(weights) for weight in weights]

    batch, total = len(student[0]), 0.0
    for i in range(batch):
        own, target = probabilities(*student, i), probabilities(*teacher, i)
        total += sum(q * (q / p).log() for p, q in zip(own, target, strict=True))
    return total / batch**2


def plain_simsiam(projected, predicted):
    """Half the sum of both negative cosines, equations 1 and 2 of SimSiam (arXiv 2011.10566)."""
    total = 0.0
    for p, z in ((predicted[0], projected[1]), (predicted[1], projected[0])):
        for x, y in zip(p, z.detach(), strict=True):
            total -= (x * y).sum() / (x.norm() * y.norm()) / len(p) / 2
    return total
