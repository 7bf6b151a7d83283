"""The oracle: the operations of `mi_ext.ops`, with the same signatures, in plain torch on the explicit score matrix.

    s_ij = scale · <x_i, y_j>            rows = queries x [n, d], columns = candidates y [m, d], natural-log domain
    N_i  = {j : j ≠ target_i, x_label_i ≠ y_label_j, v_j > −inf}                         the negatives of row i
    a_i  = log Σ_{j ∈ N_i} exp(s_ij + v_j)                                               `negative_lse`
    c_j  = log Σ_{i : j ∈ N_i} exp(s_ij + v_j)                                           `column_negative_lse`

`exclusions` = (target [n], x_label [n], y_label [m], candidate_log_weight v [m]), each None or a tensor. Everything is
computed in the dtype of x and y and is differentiable any number of times: float64 inputs give the truth, float32 or
bfloat16 inputs what dense torch would give. A row without negatives has a_i = −inf, gradient 0; NaN stays in its row.
"""

import math

import torch
from torch import Tensor

from .log_domain import (
    constant_at_minus_infinity,
    log_add_exp,
    log_sum_exp,
    log_weighted_mean,
    row_cross_entropy,
    row_log_partition,
    softplus,
)

Exclusion = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def negative_mask(n: int, m: int, exclusions: Exclusion, device: torch.device) -> Tensor:
    """Bool [n, m]: True where candidate j is a negative of query i."""
    target, x_label, y_label, log_weight = exclusions
    keep = torch.ones(n, m, dtype=torch.bool, device=device)
    if target is not None:
        keep = keep & (torch.arange(m, device=device) != target[:, None])
    if x_label is not None:
        keep = keep & (x_label[:, None] != y_label)
    if log_weight is not None:
        keep = keep & (log_weight != -math.inf)
    return keep


def weighted_negatives(scores: Tensor, exclusions: Exclusion) -> Tensor:
    """[n, m]: s_ij + v_j on negatives, −inf elsewhere. Scaling precedes the mask, so no 0 · inf reaches the scale.

    A score of −inf stays −inf, whatever v_j.
    """
    keep = negative_mask(scores.shape[0], scores.shape[1], exclusions, scores.device)
    log_weight = exclusions[3]
    if log_weight is None:
        return torch.where(keep, scores, -math.inf)
    return torch.where(keep & (scores != -math.inf), scores + log_weight.to(scores.dtype), -math.inf)


def positives(scores: Tensor, target: Tensor | None) -> Tensor | None:
    """[n]: s_{i, target_i}."""
    return None if target is None else scores.gather(1, target[:, None]).squeeze(1)


def statistics(scores: Tensor, exclusions: Exclusion, columns: bool = False):
    """(positive [n] or None, negative_lse [n], column_negative_lse [m] or None) of a given score matrix."""
    negatives = weighted_negatives(scores, exclusions)
    return (
        positives(scores, exclusions[0]),
        log_sum_exp(negatives, 1),
        log_sum_exp(negatives, 0) if columns else None,
    )


def softplus_sum(scores: Tensor, exclusions: Exclusion) -> Tensor:
    """Σ over negatives of e^{v_j} softplus(s_ij)."""
    keep = negative_mask(scores.shape[0], scores.shape[1], exclusions, scores.device)
    terms = softplus(torch.where(keep, scores, -math.inf))
    if exclusions[3] is not None:
        terms = exclusions[3].to(scores.dtype).exp() * terms
    return terms.sum()


def clipped_log_partition(scores: Tensor, exclusions: Exclusion, tau: float) -> Tensor:
    """log Σ over negatives of exp(v_j + clamp(s_ij, −tau, tau))."""
    return log_sum_exp(weighted_negatives(scores.clamp(-tau, tau), exclusions).flatten())


def _dot_scores(x: Tensor, y: Tensor, scale, bias=0.0) -> Tensor:
    return scale * (x @ y.T) + bias


def dot_statistics(x, y, scale, exclusions, columns=False):
    """(positive, negative_lse, column_negative_lse); the first None without a target, the last unless columns=True."""
    return statistics(_dot_scores(x, y, scale), exclusions, columns)


def dot_cross_entropy_sum(x, y, scale, exclusions, external_positive, a, b):
    """Σ_i [a + softplus(b + lse_i − p_i − a)], or Σ_i [b + lse_i − p_i] when a = −inf."""
    positive, lse, _ = dot_statistics(x, y, scale, exclusions)
    excess = constant_at_minus_infinity(b + lse - (external_positive if positive is None else positive))
    return (excess if a == -math.inf else a + softplus(excess - a)).sum()


def dot_log_partition(x, y, scale, exclusions, external_positive, a, b):
    """(log Σ_i exp logaddexp(p_i + a, b + lse_i), positive or None)."""
    positive, lse, _ = dot_statistics(x, y, scale, exclusions)
    p = external_positive if positive is None else positive
    rows = b + lse if a == -math.inf else log_add_exp(p + a, b + lse)
    return log_sum_exp(rows), positive


def dot_softplus_sum(x, y, scale, bias, exclusions):
    """(Σ over negatives of e^{v_j} softplus(s_ij + bias), positive including the bias or None)."""
    scores = _dot_scores(x, y, scale, bias)
    return softplus_sum(scores, exclusions), positives(scores, exclusions[0])


def dot_clipped_log_partition(x, y, scale, bias, exclusions, tau):
    """log Σ over negatives of exp(v_j + clamp(s_ij + bias, −tau, tau)); by contract without a gradient."""
    with torch.no_grad():
        return clipped_log_partition(_dot_scores(x, y, scale, bias), exclusions, tau)


def gathered_scores(x: Tensor, y: Tensor, index: Tensor | None, scale, bias=0.0) -> Tensor:
    """[n, m]: scale · <x_i, y_ik> + bias; y_ik = y[index_ik] of a bank y [V, d], or y [n, m, d] where index is None."""
    negatives = y if index is None else y[index]
    return scale * (negatives @ x[:, :, None]).squeeze(2) + bias


def gathered_negative_lse(x, y, index, scale):
    """[n]: log Σ_k exp(s_ik)."""
    return log_sum_exp(gathered_scores(x, y, index, scale), 1)


def gathered_cross_entropy_sum(x, y, index, scale, positive, a, b):
    """Σ_i [a + softplus(b + lse_i − p_i − a)], or Σ_i [b + lse_i − p_i] when a = −inf."""
    excess = constant_at_minus_infinity(b + gathered_negative_lse(x, y, index, scale) - positive)
    return (excess if a == -math.inf else a + softplus(excess - a)).sum()


def gathered_log_partition(x, y, index, scale, positive, a, b):
    """log Σ_i exp logaddexp(p_i + a, b + lse_i)."""
    negatives = b + gathered_negative_lse(x, y, index, scale)
    return log_sum_exp(negatives if a == -math.inf else log_add_exp(positive + a, negatives))


def gathered_softplus_sum(x, y, index, scale, bias):
    """Σ_ik softplus(s_ik + bias)."""
    return softplus(gathered_scores(x, y, index, scale, bias)).sum()


def gathered_clipped_log_partition(x, y, index, scale, bias, tau):
    """log Σ_ik exp(clamp(s_ik + bias, −tau, tau)); by contract without a gradient."""
    with torch.no_grad():
        return log_sum_exp(gathered_scores(x, y, index, scale, bias).clamp(-tau, tau).flatten())


Network = tuple[Tensor | None, Tensor | None, Tensor]


def joint_matrix(a: Tensor, b: Tensor, network: Network) -> Tensor:
    """[n, m]: <w, relu(a_i + b_j)>, or <w, relu(W1 relu(a_i + b_j) + b1)>; `network` = (W1, b1, w), W1 and b1 or None.

    Every hidden unit of every pair at once: memory n·m·h.
    """
    inner_weight, inner_bias, last_weight = network
    hidden = (a[:, None, :] + b).relu()
    if inner_weight is not None and inner_bias is not None:
        hidden = (hidden @ inner_weight.T + inner_bias).relu()
    return hidden @ last_weight


def joint_statistics(a, b, network, exclusions, columns=False):
    """(positive, negative_lse, column_negative_lse), as of dot_statistics."""
    return statistics(joint_matrix(a, b, network), exclusions, columns)


def joint_cross_entropy_sum(a, b, network, exclusions, log_a, log_b):
    """Σ_i [log_a + softplus(log_b + lse_i − p_i − log_a)], or Σ_i [log_b + lse_i − p_i] when log_a = −inf."""
    positive, lse, _ = joint_statistics(a, b, network, exclusions)
    return row_cross_entropy(positive, lse, log_a, log_b).sum()


def joint_log_partition(a, b, network, exclusions, log_a, log_b):
    """log Σ_i exp logaddexp(p_i + log_a, log_b + lse_i)."""
    positive, lse, _ = joint_statistics(a, b, network, exclusions)
    return log_sum_exp(row_log_partition(positive, lse, log_a, log_b))


def joint_softplus_sum(a, b, network, bias, exclusions):
    """Σ over negatives of e^{v_j} softplus(s_ij + bias)."""
    return softplus_sum(joint_matrix(a, b, network) + bias, exclusions)


def joint_clipped_log_partition(a, b, network, bias, exclusions, tau):
    """log Σ over negatives of exp(v_j + clamp(s_ij + bias, −tau, tau)); by contract without a gradient."""
    with torch.no_grad():
        return clipped_log_partition(joint_matrix(a, b, network) + bias, exclusions, tau)


def importance_partitions(scores1, scores2, exclusions, detach_weights=False):
    """(p', p'' or None, a', a'', a*) of two given score matrices; v enters each log-sum-exp once."""
    target = exclusions[0]
    joint = scores1 + (scores2.detach() if detach_weights else scores2)
    lse = (log_sum_exp(weighted_negatives(s, exclusions), 1) for s in (scores1, scores2, joint))
    return positives(scores1, target), positives(scores2, target), *lse


def importance_statistics(x1, x2, y, scale1, scale2, exclusions, detach_weights=False):
    """(p', p'' or None, a', a'', a*) of s' = scale1 <x1_i, y_j> and s'' = scale2 <x2_i, y_j>."""
    scores = _dot_scores(x1, y, scale1), _dot_scores(x2, y, scale2)
    return importance_partitions(*scores, exclusions, detach_weights)


def importance_cross_entropy_sum(
    x1, x2, y, scale1, scale2, exclusions, external, log_mass, weights, detach_weights=True
):
    """(Σ_k w_k T_k, the T_k detached [3]): see `mi_ext.ops.importance_cross_entropy_sum`."""
    p1, p2, lse1, lse2, joint = importance_statistics(x1, x2, y, scale1, scale2, exclusions, detach_weights)
    p1, p2 = external if p1 is None else (p1, p2)
    log_mean = log_weighted_mean(joint, lse2.detach() if detach_weights else lse2)
    rows = (
        row_cross_entropy(p1, lse1, 0.0, 0.0),
        row_cross_entropy(p2, lse2, 0.0, 0.0),
        row_cross_entropy(p1, log_mean, 0.0, log_mass),
    )
    terms = torch.stack([row.sum() for row in rows])
    return sum(w * t for w, t in zip(weights, terms, strict=True) if w != 0), terms.detach()


def ranking(scores: Tensor, exclusions: Exclusion, external: Tensor | None = None):
    """(positive [n] or None, negative_lse, entropy, rank int64) of a given score matrix; external [n]: positives."""
    positive, lse, _ = statistics(scores, exclusions)
    keep = negative_mask(scores.shape[0], scores.shape[1], exclusions, scores.device)
    unweighted = torch.where(keep, scores, -math.inf)
    given = external if positive is None else positive
    assert given is not None  # a target or an external positive
    threshold = given.clamp_min(torch.finfo(scores.dtype).min)
    rank = (~(unweighted < threshold[:, None])).sum(1)
    negatives = weighted_negatives(scores, exclusions)
    log_weights = torch.where(negatives == -math.inf, 0.0, negatives - lse[:, None])
    entropy = -(torch.where(negatives == -math.inf, 0.0, log_weights.exp()) * log_weights).sum(1)
    return positive, lse, torch.where(lse == -math.inf, -math.inf, entropy), rank


def dot_ranking(x, y, scale, exclusions, external_positive=None):
    """`ranking` of s_ij = scale <x_i, y_j>; external_positive [n, d]."""
    external = None if external_positive is None else scale * (x * external_positive).sum(1)
    return ranking(_dot_scores(x, y, scale), exclusions, external)


def gathered_ranking(x, y, index, scale, positive):
    """(negative_lse, entropy, rank) of s_ik; positive [n, d]."""
    return ranking(gathered_scores(x, y, index, scale), (None,) * 4, scale * (x * positive).sum(1))[1:]


def joint_ranking(a, b, network, exclusions):
    """`ranking` of a joint critic's scores."""
    return ranking(joint_matrix(a, b, network), exclusions)
