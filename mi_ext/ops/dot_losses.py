"""Whole losses on products of embeddings, each one node of torch's graph: s_ij = scale · <x_i, y_j>, as in `dot`.

What follows the walk is a few numbers a row, which as nodes of their own take longer than the walk of a small batch.
"""

import math

import torch
from torch import Tensor

from ..log_domain import log_sum_exp, softplus
from ..reference import Exclusion
from .autograd import Operator, asks_for_gradient, double
from .cuda import tf32
from .dot import (
    as_raw,
    dot_scores_have_one,
    dot_statistics,
    fused_gradient,
    fusible,
    softplus_arguments,
    softplus_gradient,
    statistics_gradient,
)

_raw = torch.ops.mi_ext


def dot_logistic_loss(x, y, scale, bias, exclusions: Exclusion) -> Tensor:
    """1/n [Σ_i softplus(−p_i) + `dot_softplus_sum`], p_i including the bias; target is needed. Errors as there."""
    return _DotLogisticLoss.apply(*softplus_arguments(x, y, scale, bias, exclusions))[0]


def dot_symmetric_cross_entropy(x, y, scale, exclusions: Exclusion) -> Tensor:
    """½ mean_i [softplus(negative_lse_i − p_i) + softplus(column_negative_lse_i − p_i)] of n = m; target is needed."""
    return _DotSymmetric.apply(x, y, double(scale, x), *as_raw(exclusions))[0]


def dot_mean_less_exponential(x, y, scale, exclusions: Exclusion, b: float) -> Tensor:
    """mean p − exp(log Σ_i e^{b + negative_lse_i}); target is needed."""
    if fusible(x, y, scale, exclusions, None):
        arguments = (*as_raw(exclusions), b, asks_for_gradient(y))
        return _DotMeanLessExponential.apply(x, y, double(scale, x), *arguments)[0]
    positive, lse, _ = dot_statistics(x, y, scale, exclusions)
    return positive.mean() - log_sum_exp(b + lse).exp()


class _DotSymmetric(Operator):
    """Outputs (mean softplus(excess), positive, negative_lse, column_negative_lse, excess [2, n]).

    excess = (negative_lse, column_negative_lse) − positive.
    """

    @staticmethod
    def forward(x, y, scale, target, x_label, y_label, log_weight):
        statistics = _raw.dot_statistics(x, y, scale, target, x_label, y_label, log_weight, True, tf32(x))
        excess = torch.stack(statistics[1:]) - statistics[0]
        return softplus(excess).mean(), *statistics, excess

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    @dot_scores_have_one
    def backward(ctx, upstream, *_):
        if upstream is None:
            return (None,) * 7
        *saved, excess = ctx.saved_tensors
        weight = excess.sigmoid() * (upstream / excess.numel())
        return statistics_gradient(ctx, saved, (-weight.sum(0), *weight.unbind()))


class _DotMeanLessExponential(Operator):
    """Outputs (mean p − e^T, dx, dy, dscale, e^T): the gradients are those of T = log Σ_i e^{b + negative_lse_i}."""

    @staticmethod
    def forward(x, y, scale, target, x_label, y_label, log_weight, b, candidate_gradient):
        arguments = (target, x_label, y_label, log_weight, None, -math.inf, b, True, candidate_gradient, tf32(x))
        total, positive, *gradients, _ = _raw.dot_fused(x, y, scale, *arguments)
        exponential = total.exp()
        return positive.mean() - exponential, *gradients, exponential

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:4], *output[1:])

    @staticmethod
    @dot_scores_have_one
    def backward(ctx, upstream, *_):
        if upstream is None:
            return (None,) * 9
        *saved, exponential = ctx.saved_tensors
        n = saved[0].shape[0]
        gradients = fused_gradient(ctx, saved, -upstream * exponential, (upstream / n).expand(n))
        return *gradients, None, None, None, None, None, None


class _DotLogisticLoss(Operator):
    """Outputs (1/n [Σ_i softplus(−p_i) + value], dx, dy, dscale, dbias, positive): the gradients are the value's.

    value = Σ over negatives of e^{v_j} softplus(s_ij).
    """

    @staticmethod
    def forward(x, y, scale, bias, target, x_label, y_label, log_weight, query_gradient, candidate_gradient):
        arguments = (target, x_label, y_label, log_weight, query_gradient, candidate_gradient, tf32(x))
        value, positive, *gradients = _raw.dot_softplus_sum(x, y, scale, bias, *arguments)
        return (value + softplus(-positive).sum()) / x.shape[0], *gradients, positive

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:3], inputs[4], *output[1:])

    @staticmethod
    @dot_scores_have_one
    def backward(ctx, upstream, *_):
        if upstream is None:
            return (None,) * 10
        *saved, positive = ctx.saved_tensors
        upstream = upstream / positive.shape[0]
        gradients = softplus_gradient(ctx, saved, upstream, (-positive).sigmoid() * -upstream)
        return *gradients, None, None, None, None, None, None
