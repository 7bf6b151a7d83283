"""Ranks of the positives and entropies of the weights of s_ij = scale · <x_i, y_j>."""

import torch

from ..reference import Exclusion
from .autograd import double
from .cuda import tf32

_raw = torch.ops.mi_ext


def dot_ranking(x, y, scale, exclusions: Exclusion, external_positive=None):
    """(positive [n] or None, negative_lse [n], entropy [n], rank int64 [n]), without gradients.

    entropy_i of softmax(s_ij + v_j) over N_i; rank_i = #{j ∈ N_i : s_ij ≥ p_i}, −inf never counted, all m counted for a
    NaN p_i. Without a target, external_positive [n, d] holds the positives. p_i and s_ij come from the same arithmetic:
    a candidate equal to the positive is exactly a tie.
    """
    with torch.no_grad():
        log_weight = None if exclusions[3] is None else exclusions[3].to(torch.float64)
        given = *exclusions[:3], log_weight, external_positive, tf32(x)
        results = _raw.dot_ranking(x, y, double(scale, x), *given)
    return (None if exclusions[0] is None else results[0]), *results[1:]
