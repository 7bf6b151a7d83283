"""Operators on scores of each query's own negatives: s_ik = scale · <x_i, y_ik>, x [n, d], k < m.

y_ik = y[index_ik] with `index` int64 [n, m] into a bank y [V, d], or, where `index` is None, the negatives themselves,
y [n, m, d]. No array of n·m·d elements is made, and none of n·m unless the bank asks for a gradient: then queries are
sorted by bank row, in blocks of about max(2^20, V) pairs; on a GPU, where scores are kept for the gradient of the
negatives, in blocks of about 2^22. On a CPU a bank of more than 8 MB is read block by block, for at most 2^20 pairs at
once, sorted in 2 bytes each. Positives p [n] (float64) come from outside.

An index outside the bank is an error on the CPU. Nothing waits for a GPU to look at it: there its score is NaN, and so
are the query's log-sum-exp and whatever needs it.
"""

import torch
from torch import Tensor

from ..log_domain import log_sum_exp, row_cross_entropy, row_log_partition
from .autograd import Operator, asks_for_gradient, double, first_derivative_only, scaled

_first_derivative_only = first_derivative_only("GatheredScores", "DenseScores of the gathered matrix")
_raw = torch.ops.mi_ext


def gathered_negative_lse(x, y, index, scale) -> Tensor:
    """[n]: log Σ_k exp(s_ik), float64, differentiable in x, y and scale."""
    return _GatheredLse.apply(x, y, index, double(scale, x))


def gathered_cross_entropy_sum(x, y, index, scale, positive, a: float, b: float) -> Tensor:
    """Σ_i [a + softplus(b + negative_lse_i − p_i − a)]; for a = −inf Σ_i [b + negative_lse_i − p_i]."""
    if asks_for_gradient(x, y, scale, positive):
        return _GatheredFused.apply(x, y, index, double(scale, x), positive, a, b, False, asks_for_gradient(y))[0]
    return row_cross_entropy(positive, gathered_negative_lse(x, y, index, scale), a, b).sum()


def gathered_log_partition(x, y, index, scale, positive, a: float, b: float) -> Tensor:
    """T = log Σ_i (e^{p_i + a} + e^{negative_lse_i + b})."""
    if asks_for_gradient(x, y, scale, positive):
        return _GatheredFused.apply(x, y, index, double(scale, x), positive, a, b, True, asks_for_gradient(y))[0]
    return log_sum_exp(row_log_partition(positive, gathered_negative_lse(x, y, index, scale), a, b))


def gathered_softplus_sum(x, y, index, scale, bias) -> Tensor:
    """Σ_ik softplus(s_ik + bias), differentiable in x, y, scale and bias."""
    scale, bias = double(scale, x), double(bias, x)
    query_gradient, candidate_gradient = asks_for_gradient(x, scale, bias), asks_for_gradient(y)
    return _GatheredSoftplusSum.apply(x, y, index, scale, bias, query_gradient, candidate_gradient)[0]


def gathered_clipped_log_partition(x, y, index, scale, bias, tau: float) -> Tensor:
    """log Σ_ik exp(clamp(s_ik + bias, −tau, tau)), without a gradient."""
    with torch.no_grad():
        return log_sum_exp(_raw.gathered_clipped_lse(x, y, index, double(scale, x), double(bias, x), tau))


class _GatheredLse(Operator):
    raw = "gathered_lse"

    @staticmethod
    def forward(x, y, index, scale):
        return _raw.gathered_lse(x, y, index, scale)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    @_first_derivative_only
    def backward(ctx, upstream):
        x, y, index, scale, negative_lse = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1]
        dx, dy, dscale = _raw.gathered_gradient(x, y, index, scale, negative_lse, upstream, wanted)
        return dx.to(x.dtype), (dy.to(y.dtype) if wanted else None), None, dscale


class _GatheredFused(Operator):
    """Outputs (loss, dx, dy, dscale, dpositive): the gradients of the loss come with it and are kept.

    A bank that asks for no gradient is not kept: it may be updated before the backward pass.
    """

    raw = "gathered_fused"

    @staticmethod
    def forward(x, y, index, scale, positive, a, b, is_global, dy_wanted):
        return _raw.gathered_fused(x, y, index, scale, positive, a, b, is_global, dy_wanted)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], inputs[1] if inputs[8] else None, *output[1:])

    @staticmethod
    @_first_derivative_only
    def backward(ctx, upstream, *_):
        x, y, dx, dy, dscale, dpositive = ctx.saved_tensors
        if upstream is None:
            return (None,) * 9
        dy = None if y is None else scaled(dy, upstream, y)
        dpositive = dpositive * upstream if ctx.needs_input_grad[4] else None
        return scaled(dx, upstream, x), dy, None, dscale * upstream, dpositive, None, None, None, None


class _GatheredSoftplusSum(Operator):
    """Outputs (value, dx, dy, dscale, dbias): the gradients of the value come with it and are kept."""

    raw = "gathered_softplus_sum"

    @staticmethod
    def forward(x, y, index, scale, bias, query_gradient, candidate_gradient):
        return _raw.gathered_softplus_sum(x, y, index, scale, bias, query_gradient, candidate_gradient)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], inputs[1] if inputs[6] else None, *output[1:])

    @staticmethod
    @_first_derivative_only
    def backward(ctx, upstream, *_):
        x, y, dx, dy, dscale, dbias = ctx.saved_tensors
        if upstream is None:
            return (None,) * 7
        dy = None if y is None else scaled(dy, upstream, y)
        if dx.shape != x.shape:  # not asked for, nor are those of scale and bias
            return None, dy, None, None, None, None, None
        return scaled(dx, upstream, x), dy, None, dscale * upstream, dbias * upstream, None, None
