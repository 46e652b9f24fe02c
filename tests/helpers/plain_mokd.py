# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""MOKD's parts and losses written out plainly, one view, one crop, one query at a time.

Only the backbones' modules are called; everything behind them is computed from weights, by formulas
that autograd can differentiate. Slow, and as near to the paper's text as it gets.
"""

import math

import torch
from torch.nn import functional as F


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def layer_norm(x, weights, name, eps=1e-6):
    centered = x - x.mean(dim=-1, keepdim=True)
    variance = centered.square().mean(dim=-1, keepdim=True)
    return centered / (variance + eps).sqrt() * weights[f'{name}.weight'] + weights[f'{name}.bias']


def linear(x, weights, name):
    return x @ weights[f'{name}.weight'].T + weights[f'{name}.bias']


def prototypes(x, weights):
    """The weight-normalized linear layer."""
    gain = weights['last_layer.parametrizations.weight.original0']
    direction = weights['last_layer.parametrizations.weight.original1']
    lengths = direction.square().sum(dim=1, keepdim=True).sqrt()
    return x @ (gain * direction / lengths).T


def projector(x, weights):
    """(B, C) to (B, K); three linears, of which the last is the bottleneck."""
    x = gelu(linear(x, weights, 'mlp.0'))
    x = gelu(linear(x, weights, 'mlp.2'))
    x = linear(x, weights, 'mlp.4')
    return prototypes(x / x.square().sum(dim=1, keepdim=True).sqrt(), weights)


def project_map(feature_map, weights):
    """The 1x1 convolution, where there is one: (B, C, h, w) to (B, D, h, w)."""
    if 'projection.weight' not in weights:
        return feature_map
    kernel = weights['projection.weight'][:, :, None, None]
    return F.conv2d(feature_map, kernel, weights['projection.bias'])


def resized_pos_embed(weights, made_for, wanted, offset=0.1):
    """(1, m * m, D) to (1, D, n, n), with the scale factor (n + 0.1) / m."""
    embed = weights['pos_embed'].reshape(1, made_for, made_for, -1).permute(0, 3, 1, 2)
    if made_for == wanted:
        return embed
    return F.interpolate(embed, scale_factor=(wanted + offset) / made_for, mode='bicubic')


def attention(x, weights, name, num_heads):
    batch, tokens, width = x.shape
    size = width // num_heads
    q, k, v = linear(x, weights, f'{name}.qkv').split(width, dim=-1)
    heads = []
    for h in range(num_heads):
        part = slice(h * size, (h + 1) * size)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(size)
        scores = (scores - scores.amax(dim=-1, keepdim=True)).exp()
        heads.append(scores / scores.sum(dim=-1, keepdim=True) @ v[..., part])
    return linear(torch.cat(heads, dim=-1), weights, f'{name}.proj')


def search_head(tokens, weights, query=None, num_heads=6, num_layers=3):
    """Embedded tokens (B, N, D), optionally one query (B, D) a map, to (B, K)."""
    if query is not None:
        tokens = torch.cat((query[:, None], tokens), dim=1)
    for i in range(num_layers):
        block = f'blocks.{i}'
        tokens = tokens + attention(
            layer_norm(tokens, weights, f'{block}.ln1'), weights, f'{block}.attn', num_heads
        )
        hidden = linear(
            layer_norm(tokens, weights, f'{block}.ln2'), weights, f'{block}.ffn.layers.0.0'
        )
        tokens = tokens + linear(gelu(hidden), weights, f'{block}.ffn.layers.1')
    if query is not None:
        tokens = tokens[:, 1:]
    return prototypes(layer_norm(tokens, weights, 'norm').mean(dim=1), weights)


def run_network(network, view):
    """One view through a student or teacher: m, t, embedded tokens and query."""
    output = network.backbone(view)[-1]
    if output.dim() == 3:  # a class token, then the patch tokens
        side = math.isqrt(output.shape[1] - 1)
        pooled = output[:, 0]
        feature_map = output[:, 1:].transpose(1, 2).reshape(len(view), -1, side, side)
    else:
        pooled, feature_map = output.mean(dim=(2, 3)), output
    weights = dict(network.search_head.named_parameters())
    projected = project_map(feature_map, weights)
    query = projected.mean(dim=(2, 3)) if 'projection.weight' in weights else pooled
    embedded = projected + resized_pos_embed(
        weights, network.search_head.grid_size[0], projected.shape[-1]
    )
    tokens = embedded.flatten(2).transpose(1, 2)
    return dict(
        m=projector(pooled, dict(network.projector.named_parameters())),
        t=search_head(tokens, weights),
        tokens=tokens.detach(),
        query=query.detach(),
    )


def cross_entropy(target, student, student_temp):
    """One sample: - sum_k target_k log softmax(student / T_s)_k."""
    scaled = student / student_temp
    scaled = scaled - scaled.detach().max()
    return -(target * (scaled - scaled.exp().sum().log())).sum()


def sharpened(teacher, teacher_temp, center=0.0):
    scaled = (teacher - center) / teacher_temp
    scaled = (scaled - scaled.max()).exp()
    return scaled / scaled.sum()


def view_loss(students, teachers, center, student_temp, teacher_temp):
    """CE(s, t): lists of (B, K), a view each, and the center (K,)."""
    terms = [
        cross_entropy(sharpened(target, teacher_temp, center), sample, student_temp)
        for g, teacher in enumerate(teachers)
        for v, student in enumerate(students)
        if v != g
        for sample, target in zip(student, teacher, strict=True)
    ]
    return sum(terms) / len(terms)


def search_loss(local_logits, queries, first_tokens, weights, student_temp, teacher_temp):
    """L_ct: lists over local crops, and the map's tokens (B, N, D); one query at a time."""
    terms = []
    for logits, query in zip(local_logits, queries, strict=True):
        for b, sample in enumerate(logits):
            searched = search_head(first_tokens[b : b + 1], weights, query[b : b + 1])[0].detach()
            terms.append(cross_entropy(sharpened(searched, teacher_temp), sample, student_temp))
    return sum(terms) / len(terms)


def losses(model, views, num_globals, centers, temps, cross_weights):
    """Loss terms by MOKD's names, and the teachers' logits by branch.

    ``centers[branch]`` has 'sm', 'st' and, for each peer, ('cm', peer), each of shape (K,).
    ``temps[branch][term]`` is (T_s, T_t), ``cross_weights[branch]`` the cross terms' weight, for all
    other branches or by peer.
    """
    students = {n: [run_network(b.student, v) for v in views] for n, b in model.branches.items()}
    with torch.no_grad():
        teachers = {
            n: [run_network(b.teacher, v) for v in views[:num_globals]]
            for n, b in model.branches.items()
        }
    found = {}
    for i in model.branches:
        own, center, temp = students[i], centers[i], temps[i]
        m, t = [s['m'] for s in own], [s['t'] for s in own]
        target_m, target_t = [x['m'] for x in teachers[i]], [x['t'] for x in teachers[i]]
        found[f'{i}.loss_sm'] = view_loss(m, target_m, center['sm'], *temp['sm'])
        found[f'{i}.loss_st'] = view_loss(t, target_t, center['st'], *temp['st'])
        weights = cross_weights[i]
        if not isinstance(weights, dict):
            weights = {j: weights for j in model.branches if j != i}
        for j, weight in weights.items():
            target_m = [x['m'] for x in teachers[j]]
            found[f'{i}.loss_cm.{j}'] = weight * view_loss(
                m, target_m, center['cm', j], *temp['cm']
            )
            found[f'{i}.loss_ct.{j}'] = weight * search_loss(
                t[num_globals:],
                [s['query'] for s in own[num_globals:]],
                teachers[j][0]['tokens'],
                dict(model.branches[j].teacher.search_head.named_parameters()),
                *temp['ct'],
            )
    return found, teachers
