"""Ranks of the positives and entropies of the weights, for every kind of scores; without gradients.

    rank_i = #{j ∈ N_i : s_ij ≥ p_i}      −inf never counts, all m count for a NaN p_i
    entropy_i                             of softmax(s_ij + v_j) over N_i, −inf without negatives

p_i and s_ij come from the same arithmetic: a candidate equal to the positive is exactly a tie.
"""

import torch

from ..reference import Exclusion, Network
from .autograd import double
from .cuda import tf32

_raw = torch.ops.mi_ext


def dot_ranking(x, y, scale, exclusions: Exclusion, external_positive=None):
    """(positive [n] or None, negative_lse [n], entropy [n], rank int64 [n]) of s_ij = scale · <x_i, y_j>.

    Without a target, external_positive [n, d] holds the positives.
    """
    with torch.no_grad():
        results = _raw.dot_ranking(x, y, double(scale, x), *_as_raw(exclusions), external_positive, tf32(x))
    return (None if exclusions[0] is None else results[0]), *results[1:]


def gathered_ranking(x, y, index, scale, positive):
    """(negative_lse [n], entropy [n], rank int64 [n]) of s_ik = scale · <x_i, y_ik>; positive [n, d] of x's dtype."""
    with torch.no_grad():
        return _raw.gathered_ranking(x, y, index, double(scale, x), positive)


def joint_ranking(a, b, network: Network, exclusions: Exclusion):
    """(positive [n], negative_lse [n], entropy [n], rank int64 [n]) of a joint critic; target is needed."""
    with torch.no_grad():
        return _raw.joint_ranking(a, b, *network, *_as_raw(exclusions))


def _as_raw(exclusions: Exclusion) -> Exclusion:
    return *exclusions[:3], None if exclusions[3] is None else exclusions[3].to(torch.float64)
