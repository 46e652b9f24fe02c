# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch
import torch.nn.functional as F
from torch import Tensor

from .soft_cross_entropy import at_least_float32


def cosines(embeddings: Tensor, others: Tensor) -> Tensor:
    """Cosine between every two embeddings, in float32 at least, also under autocast.

    Args:
        embeddings (Tensor): Shape (..., C), of any length.
        others (Tensor): Shape (K, C), of any length.

    Returns:
        Tensor: Shape (..., K).
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        embeddings, others = (
            F.normalize(at_least_float32(x), dim=-1) for x in (embeddings, others)
        )
        return embeddings @ others.t()


def contrastive_cosines(queries: Tensor, keys: Tensor, negatives: Tensor) -> Tensor:
    """Cosines of queries with a key of their own and with the rows of a queue.

    In float32 at least, also under autocast: a temperature of 0.07 or less magnifies what half
    precision rounds.

    Args:
        queries (Tensor): Shape (..., C).
        keys (Tensor): Each query's own key, shape (..., C).
        negatives (Tensor): Rows of length 1, of :class:`~mmmokd.models.utils.EmbeddingQueue`, shape
            (K, C).

    Returns:
        Tensor: Shape (..., 1 + K): the own key's first, then the queue's.

    Example:
        >>> queries, keys = torch.rand(4, 128), torch.rand(4, 128)
        >>> contrastive_cosines(queries, keys, EmbeddingQueue(100, dict(keys=128))['keys']).shape
        torch.Size([4, 101])
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries = F.normalize(at_least_float32(queries), dim=-1)
        keys = F.normalize(at_least_float32(keys), dim=-1)
        own = (queries * keys).sum(dim=-1, keepdim=True)
        return torch.cat([own, queries @ negatives.t()], dim=-1)


def info_nce(cosines: Tensor, temperature: float) -> Tensor:
    """InfoNCE: cross-entropy with the own key as the class, of `MoCo
    <https://arxiv.org/abs/1911.05722>`_ (equation 1).

    Args:
        cosines (Tensor): Of :func:`contrastive_cosines`, shape (..., 1 + K).
        temperature (float): T.

    Returns:
        Tensor: Scalar, the mean over all queries.
    """
    return -F.log_softmax(at_least_float32(cosines) / temperature, dim=-1)[..., 0].mean()


def similarity_kl(
    student: Tensor, teacher: Tensor, temperature: float, softening: float = 1.0
) -> Tensor:
    """KL divergence of a student's distribution over keys from a teacher's.

    KL(softmax(t / (T S)) || softmax(s / (T S))) S^2, as in `Distilling the knowledge in a neural
    network <https://arxiv.org/abs/1503.02531>`_ with a temperature S on logits s / T: the factor
    keeps the gradient's size.

    Args:
        student (Tensor): Cosines, shape (..., K).
        teacher (Tensor): Cosines, shape (..., K); no gradient flows to them.
        temperature (float): T, by which cosines are logits.
        softening (float): S. Defaults to 1.0.

    Returns:
        Tensor: Scalar, the sum over keys and the mean over all queries.
    """
    scale = temperature * softening
    log_probs = F.log_softmax(at_least_float32(student) / scale, dim=-1)
    targets = F.log_softmax(at_least_float32(teacher.detach()) / scale, dim=-1)
    divergence = F.kl_div(log_probs, targets, reduction='none', log_target=True)
    return divergence.sum(dim=-1).mean() * softening**2
