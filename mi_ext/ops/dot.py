"""Operators on products of embeddings: s_ij = scale · <x_i, y_j>, x [n, d] queries, y [m, d] candidates."""

import torch
from torch import Tensor

from ..log_domain import log_sum_exp, row_cross_entropy, row_log_partition
from ..reference import Exclusion
from .autograd import Operator, asks_for_gradient, cast, double, first_derivative_only, scaled
from .cuda import tf32
from .indexing import rows_at
from .linear import kept_gradient

_raw = torch.ops.mi_ext
dot_scores_have_one = first_derivative_only("DotScores", "DenseScores(scale * x @ y.T)")


def dot_statistics(x, y, scale, exclusions: Exclusion, columns: bool = False):
    """(positive [n] or None, negative_lse [n], column_negative_lse [m] or None), differentiable in x, y, scale, v.

    negative_lse_i = log Σ_{j ∈ N_i} exp(s_ij + v_j);  column_negative_lse_j the same down column j, if `columns`.
    """
    positive, lse, column_lse = _DotStatistics.apply(x, y, double(scale, x), *as_raw(exclusions), columns)
    return (None if exclusions[0] is None else positive), lse, (column_lse if columns else None)


def dot_cross_entropy_sum(x, y, scale, exclusions: Exclusion, external_positive, a: float, b: float) -> Tensor:
    """Σ_i [a + softplus(b + negative_lse_i − p_i − a)]; for a = −inf Σ_i [b + negative_lse_i − p_i].

    p_i is the score with target_i, or external_positive [n] (float64) where there is no target.
    """
    if fusible(x, y, scale, exclusions, external_positive):
        arguments = (*as_raw(exclusions), external_positive, a, b, False, asks_for_gradient(y))
        return _DotFused.apply(x, y, double(scale, x), *arguments)[0]
    positive, lse, _ = dot_statistics(x, y, scale, exclusions)
    return row_cross_entropy(external_positive if positive is None else positive, lse, a, b).sum()


def dot_log_partition(x, y, scale, exclusions: Exclusion, external_positive, a: float, b: float):
    """(T, positive [n] or None), T = log Σ_i (e^{p_i + a} + e^{negative_lse_i + b}); both differentiable."""
    if fusible(x, y, scale, exclusions, external_positive):
        arguments = (*as_raw(exclusions), external_positive, a, b, True, asks_for_gradient(y))
        total, positive = _DotFused.apply(x, y, double(scale, x), *arguments)[:2]
        return total, (None if exclusions[0] is None else positive)
    positive, lse, _ = dot_statistics(x, y, scale, exclusions)
    rows = row_log_partition(external_positive if positive is None else positive, lse, a, b)
    return log_sum_exp(rows), positive


def dot_softplus_sum(x, y, scale, bias, exclusions: Exclusion):
    """(Σ over negatives of e^{v_j} softplus(s_ij + bias), positive including the bias or None).

    Differentiable in x, y, scale and bias; a log-weight v that asks for a gradient is a ValueError.
    """
    value, positive, *_ = _DotSoftplusSum.apply(*softplus_arguments(x, y, scale, bias, exclusions))
    return value, (None if exclusions[0] is None else positive)


def dot_clipped_log_partition(x, y, scale, bias, exclusions: Exclusion, tau: float) -> Tensor:
    """log Σ over negatives of exp(v_j + clamp(s_ij + bias, −tau, tau)), without a gradient."""
    with torch.no_grad():
        scalars = double(scale, x), double(bias, x)
        return log_sum_exp(_raw.dot_clipped_lse(x, y, *scalars, *as_raw(exclusions), tau, tf32(x)))


def dot_lse_gradient(x, y, scale, exclusions: Exclusion, lse, upstream, candidate_gradient: bool):
    """(dx, dy or None, dscale) of Σ_i upstream_i lse_i, where y is some of the candidates that lse [n] is a sum over.

    A pair's weight is upstream_i exp(s_ij + v_j − lse_i): a block of candidates needs nothing of the others but lse.
    """
    unused = lse.new_zeros(0 if exclusions[0] is None else len(x))
    statistics, upstreams = (unused, lse, lse[:0]), (unused, upstream, lse[:0])
    sides = x, y, double(scale, x), *as_raw(exclusions)
    dx, dy, dscale = _raw.dot_gradient(*sides, *statistics, *upstreams, candidate_gradient, tf32(x))
    return dx, (dy if candidate_gradient else None), dscale


def as_raw(exclusions: Exclusion) -> Exclusion:
    target, x_label, y_label, log_weight = exclusions
    return target, x_label, y_label, None if log_weight is None else log_weight.to(torch.float64)


def softplus_arguments(x, y, scale, bias, exclusions: Exclusion):
    if asks_for_gradient(exclusions[3]):
        raise ValueError("candidate_log_weight: a softplus sum has no gradient for it; pass it detached")
    scale, bias = double(scale, x), double(bias, x)
    return x, y, scale, bias, *as_raw(exclusions), asks_for_gradient(x, scale, bias), asks_for_gradient(y)


def fusible(x, y, scale, exclusions, external_positive) -> bool:
    """A gradient is asked for, and of nothing that only the recomputed way knows."""
    return asks_for_gradient(x, y, scale, external_positive) and not asks_for_gradient(exclusions[3])


class _DotStatistics(Operator):
    raw = "dot_statistics"

    @staticmethod
    def forward(x, y, scale, target, x_label, y_label, log_weight, columns):
        return _raw.dot_statistics(x, y, scale, target, x_label, y_label, log_weight, columns, tf32(x))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:7], *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    @dot_scores_have_one
    def backward(ctx, *upstream):
        if all(g is None for g in upstream):
            return (None,) * 8
        saved = ctx.saved_tensors
        upstream = [s.new_zeros(s.shape) if g is None else g for g, s in zip(upstream, saved[7:], strict=True)]
        return *statistics_gradient(ctx, saved, upstream), None


def statistics_gradient(ctx, saved, upstream):
    """Of x, y, scale and the exclusions, which were saved, and the statistics after them."""
    x, y, scale, target, x_label, y_label, log_weight, *statistics = saved
    exclusions = (target, x_label, y_label, log_weight)
    arguments = (*exclusions, *statistics, *upstream, ctx.needs_input_grad[1], tf32(x))
    dx, dy, dscale = _raw.dot_gradient(x, y, scale, *arguments)
    dv = _log_weight_gradient(x, y, scale, exclusions, statistics, upstream) if ctx.needs_input_grad[6] else None
    return cast(dx, x.dtype), cast(dy, y.dtype) if ctx.needs_input_grad[1] else None, dscale, None, None, None, dv


def _log_weight_gradient(x, y, scale, exclusions, statistics, upstream) -> Tensor:
    """dv_j = Σ_i w_ij: the gradient of a further feature of y that multiplies a 1 in every x, over scale."""
    x_one = torch.cat([x, x.new_ones(x.shape[0], 1)], dim=1)
    y_zero = torch.cat([y, y.new_zeros(y.shape[0], 1)], dim=1)
    no_positive = torch.zeros_like(upstream[0])
    arguments = (*exclusions, *statistics, no_positive, *upstream[1:], True, tf32(x))
    _, dy, _ = _raw.dot_gradient(x_one, y_zero, scale, *arguments)
    return dy[:, -1].double() / scale


class _DotFused(Operator):
    """Outputs (loss, positive, dx, dy, dscale, dpositive): the gradients of the loss come with it and are kept."""

    raw = "dot_fused"

    @staticmethod
    def forward(x, y, scale, target, x_label, y_label, log_weight, external_positive, a, b, is_global, dy_wanted):
        exclusions = (target, x_label, y_label, log_weight)
        return _raw.dot_fused(x, y, scale, *exclusions, external_positive, a, b, is_global, dy_wanted, tf32(x))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:4], *output[2:])

    @staticmethod
    @dot_scores_have_one
    def backward(ctx, upstream, grad_positive, *_):
        *saved, dpositive = ctx.saved_tensors
        if upstream is None:
            upstream = torch.zeros((), dtype=torch.float64, device=dpositive.device)
        dexternal = dpositive * upstream if ctx.needs_input_grad[7] else None
        gradients = fused_gradient(ctx, saved, upstream, grad_positive)
        return *gradients, *(None,) * 4, dexternal, *(None,) * 4


def fused_gradient(ctx, saved, upstream, grad_positive):
    """(dx, dy, dscale) by `_DotFused`, from the gradients of its loss and the positives'; None where not asked for."""
    x, y, scale, target, dx, dy, dscale = saved
    grad_positive = None if target is None else grad_positive
    gradients = _total_gradient(x, y, scale, target, dx, dy, upstream, grad_positive)
    if not ctx.needs_input_grad[2]:
        return *gradients, None
    return *gradients, _scale_gradient(x, y, target, dscale, upstream, grad_positive)


def _total_gradient(x, y, scale, target, dx, dy, upstream, grad_positive):
    """(dx, dy) from those that came with the loss, and from the positives' gradient; None where not asked for."""
    if grad_positive is None:
        return scaled(dx, upstream, x), scaled(dy, upstream, y)
    return kept_gradient(x, y, scale, target, dx, dy, upstream, grad_positive)


def _scale_gradient(x, y, target, dscale, upstream, grad_positive):
    """The same of scale."""
    if grad_positive is None:
        return dscale * upstream
    wide = torch.promote_types(x.dtype, torch.float32)
    products = torch.linalg.vecdot(cast(x, wide), cast(rows_at(y, target), wide))
    return dscale * upstream + (grad_positive * products).sum()


class _DotSoftplusSum(Operator):
    """Outputs (value, positive, dx, dy, dscale, dbias): the gradients of the value come with it and are kept."""

    raw = "dot_softplus_sum"

    @staticmethod
    def forward(x, y, scale, bias, target, x_label, y_label, log_weight, query_gradient, candidate_gradient):
        wanted = query_gradient, candidate_gradient
        return _raw.dot_softplus_sum(x, y, scale, bias, target, x_label, y_label, log_weight, *wanted, tf32(x))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:3], inputs[4], *output[2:])

    @staticmethod
    @dot_scores_have_one
    def backward(ctx, upstream, grad_positive, *_):
        saved = ctx.saved_tensors
        if upstream is None:
            upstream = torch.zeros_like(saved[-1])
        return *softplus_gradient(ctx, saved, upstream, grad_positive), None, None, None, None, None, None


def softplus_gradient(ctx, saved, upstream, grad_positive):
    """(dx, dy, dscale, dbias) by `_DotSoftplusSum`, as `fused_gradient`."""
    x, y, scale, target, dx, dy, dscale, dbias = saved
    grad_positive = None if target is None else grad_positive
    gradients = _total_gradient(x, y, scale, target, dx, dy, upstream, grad_positive)
    query_gradient = dx.shape == x.shape  # without it there is none of scale and bias either
    wants_scale, wants_bias = (query_gradient and wanted for wanted in ctx.needs_input_grad[2:4])
    dscale = _scale_gradient(x, y, target, dscale, upstream, grad_positive) if wants_scale else None
    dbias = dbias * upstream if wants_bias else None
    if wants_bias and grad_positive is not None:
        dbias = dbias + grad_positive.sum()
    return *gradients, dscale, dbias
