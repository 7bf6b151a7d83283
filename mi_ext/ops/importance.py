"""Operators on two query sets with the same candidates and positives.

    s'_ij = scale1 · <x1_i, y_j>,   s''_ij = scale2 · <x2_i, y_j>      x1, x2 [n, d], y [m, d]
    a'_i = log Σ_{j ∈ N_i} exp(s'_ij + v_j),   a''_i of s''_ij + v_j,   a*_i of s'_ij + s''_ij + v_j

v_j enters each sum once: e^{v_j} says how often candidate j counts, whatever its score.
"""

import torch

from ..log_domain import log_weighted_mean, row_cross_entropy
from ..reference import Exclusion
from .autograd import (
    Operator,
    asks_for_gradient,
    double,
    first_derivative_only,
    no_gradient_in_exported_graphs,
    scaled,
)
from .cuda import tf32

_raw = torch.ops.mi_ext
_first_derivative_only = first_derivative_only("DotScores", "DenseScores(scale * x @ y.T)")
no_gradient_in_exported_graphs("importance_statistics")  # which is not told of detach_weights


def importance_statistics(x1, x2, y, scale1, scale2, exclusions: Exclusion, detach_weights: bool = False):
    """(p', p'' [n] or None, a', a'', a* [n]), differentiable in x1, x2, y, scale1 and scale2.

    detach_weights: the gradient of a* goes through s' alone. A v that asks for a gradient is a ValueError.
    """
    _check_log_weight(exclusions)
    scales = double(scale1, x1), double(scale2, x1)
    p1, p2, *lse = _ImportanceStatistics.apply(x1, x2, y, *scales, *_as_raw(exclusions), detach_weights)
    return (*((None, None) if exclusions[0] is None else (p1, p2)), *lse)


def importance_cross_entropy_sum(
    x1, x2, y, scale1, scale2, exclusions: Exclusion, external, log_mass, weights, detach_weights: bool = True
):
    """(Σ_k w_k T_k, (T_1, T_2, T_3) detached [3]) with the sums over rows

        T_1 = Σ softplus(a' − p'),   T_2 = Σ softplus(a'' − p''),   T_3 = Σ softplus(log_mass + a* − a'' − p')

    external: (p', p'') [n] float64 where there is no target, else None. log_mass [n] float64: log M_i. weights: three
    floats w_k. detach_weights: no gradient to s'' from T_3. A v that asks for a gradient is a ValueError.
    """
    _check_log_weight(exclusions)
    external1, external2 = external or (None, None)
    if asks_for_gradient(x1, x2, y, scale1, scale2, external1, external2):
        scales = double(scale1, x1), double(scale2, x1)
        constants = (log_mass, *weights, detach_weights, asks_for_gradient(y))
        sides = (*_as_raw(exclusions), external1, external2)
        return _ImportanceFused.apply(x1, x2, y, *scales, *sides, *constants)[:2]
    p1, p2, lse1, lse2, joint = importance_statistics(x1, x2, y, scale1, scale2, exclusions)
    p1, p2 = (external1, external2) if p1 is None else (p1, p2)
    rows: tuple = (p1, lse1, 0.0), (p2, lse2, 0.0), (p1, log_weighted_mean(joint, lse2), log_mass)
    terms = torch.stack([row_cross_entropy(p, lse, 0.0, mass).sum() for p, lse, mass in rows])
    return sum(w * t for w, t in zip(weights, terms, strict=True) if w != 0), terms


def _check_log_weight(exclusions: Exclusion) -> None:
    if asks_for_gradient(exclusions[3]):
        raise ValueError("candidate_log_weight: importance partitions have no gradient for it; pass it detached")


def _as_raw(exclusions: Exclusion) -> Exclusion:
    target, x_label, y_label, log_weight = exclusions
    return target, x_label, y_label, None if log_weight is None else log_weight.to(torch.float64)


class _ImportanceStatistics(Operator):
    @staticmethod
    def forward(x1, x2, y, scale1, scale2, target, x_label, y_label, log_weight, detach_weights):
        exclusions = (target, x_label, y_label, log_weight)
        return _raw.importance_statistics(x1, x2, y, scale1, scale2, *exclusions, tf32(x1))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:9], *output)
        ctx.detach_weights = inputs[9]
        ctx.set_materialize_grads(False)

    @staticmethod
    @_first_derivative_only
    def backward(ctx, *upstream):
        inputs, statistics = ctx.saved_tensors[:9], ctx.saved_tensors[9:]
        x1, x2, y = inputs[:3]
        upstream = [y.new_empty(0, dtype=torch.float64) if u is None else u for u in upstream]
        wanted = ctx.needs_input_grad[2]
        flags = ctx.detach_weights, wanted, tf32(x1)
        dx1, dx2, dy, *dscale = _raw.importance_gradient(*inputs, *statistics, *upstream, *flags)
        gradients = dx1.to(x1.dtype), dx2.to(x2.dtype), dy.to(y.dtype) if wanted else None, *dscale
        return *gradients, None, None, None, None, None


class _ImportanceFused(Operator):
    """Outputs (loss, terms, dx1, dx2, dy, dscale1, dscale2, dpositive1, dpositive2): gradients come with the loss."""

    raw = "importance_fused"

    @staticmethod
    def forward(
        x1, x2, y, scale1, scale2, target, x_label, y_label, v, external1, external2, log_mass, w1, w2, w3, *flags
    ):
        exclusions = (target, x_label, y_label, v)
        given = (external1, external2, log_mass, w1, w2, w3, *flags, tf32(x1))
        return _raw.importance_fused(x1, x2, y, scale1, scale2, *exclusions, *given)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:3], *output[2:])

    @staticmethod
    @_first_derivative_only
    def backward(ctx, upstream, *_):
        if upstream is None:
            return (None,) * len(ctx.needs_input_grad)
        *sides, dx1, dx2, dy, dscale1, dscale2, dpositive1, dpositive2 = ctx.saved_tensors
        kept = (scaled(g, upstream, t) for g, t in zip((dx1, dx2, dy), sides, strict=True))
        external = [g * upstream if ctx.needs_input_grad[k] else None for k, g in ((9, dpositive1), (10, dpositive2))]
        rest = [None] * (len(ctx.needs_input_grad) - 11)
        return *kept, dscale1 * upstream, dscale2 * upstream, None, None, None, None, *external, *rest
