"""Operators on a joint critic: s_ij = <w, relu(a_i + b_j)>, or <w, relu(W1 relu(a_i + b_j) + b1)>.

a [n, h] and b [m, h] are the parts of the first layer that x_i and y_j contribute, its bias in one of them. `network` =
(W1 [h1, h], b1 [h1], w [h1]), or (None, None, w [h]) for one hidden layer, all of the dtype of a and b. At most a tile
of pairs has its hidden units at a time; the gradient makes them again.
"""

import torch
from torch import Tensor

from ..log_domain import log_sum_exp, row_cross_entropy, row_log_partition
from ..reference import Exclusion, Network
from .autograd import Operator, asks_for_gradient, double, first_derivative_only, scaled

_raw = torch.ops.mi_ext
_first_derivative_only = first_derivative_only("JointScores", "DenseScores of the critic's matrix")


def joint_statistics(a: Tensor, b: Tensor, network: Network, exclusions: Exclusion, columns: bool = False):
    """(positive [n] or None, negative_lse [n], column_negative_lse [m] or None), differentiable in a, b and network.

    negative_lse_i = log Σ_{j ∈ N_i} exp(s_ij + v_j);  column_negative_lse_j the same down column j, if `columns`.
    """
    positive, lse, column_lse = _JointStatistics.apply(a, b, *network, *_as_raw(exclusions), columns)
    return (None if exclusions[0] is None else positive), lse, (column_lse if columns else None)


def joint_cross_entropy_sum(a, b, network: Network, exclusions: Exclusion, log_a: float, log_b: float) -> Tensor:
    """Σ_i [log_a + softplus(log_b + negative_lse_i − p_i − log_a)]; Σ_i [log_b + negative_lse_i − p_i] at log_a = −inf.

    p_i is the score with target_i, which is needed.
    """
    if asks_for_gradient(a, b, *network):
        return _JointFused.apply(a, b, *network, *_as_raw(exclusions), log_a, log_b, False)[0]
    positive, lse, _ = joint_statistics(a, b, network, exclusions)
    return row_cross_entropy(positive, lse, log_a, log_b).sum()


def joint_log_partition(a, b, network: Network, exclusions: Exclusion, log_a: float, log_b: float) -> Tensor:
    """log Σ_i (e^{p_i + log_a} + e^{negative_lse_i + log_b})."""
    if asks_for_gradient(a, b, *network):
        return _JointFused.apply(a, b, *network, *_as_raw(exclusions), log_a, log_b, True)[0]
    positive, lse, _ = joint_statistics(a, b, network, exclusions)
    return log_sum_exp(row_log_partition(positive, lse, log_a, log_b))


def joint_softplus_sum(a, b, network: Network, bias, exclusions: Exclusion) -> Tensor:
    """Σ over negatives of e^{v_j} softplus(s_ij + bias), differentiable in a, b, network and bias."""
    bias = double(bias, a)
    gradient = asks_for_gradient(a, b, *network, bias)
    return _JointSoftplusSum.apply(a, b, *network, bias, *_as_raw(exclusions), gradient)[0]


def joint_clipped_log_partition(a, b, network: Network, bias, exclusions: Exclusion, tau: float) -> Tensor:
    """log Σ over negatives of exp(v_j + clamp(s_ij + bias, −tau, tau)), without a gradient."""
    exclusions = _as_raw(exclusions)
    with torch.no_grad():
        return log_sum_exp(_raw.joint_clipped_lse(a, b, *network, double(bias, a), *exclusions, tau))


def joint_matrix(a: Tensor, b: Tensor, network: Network) -> Tensor:
    """[n, m]: the scores themselves, for parts of a matrix; float32 for 16-bit inputs."""
    return _JointMatrix.apply(a, b, *network)


def _as_raw(exclusions: Exclusion) -> Exclusion:
    target, x_label, y_label, log_weight = exclusions
    if asks_for_gradient(log_weight):
        raise ValueError("candidate_log_weight: joint scores have no gradient for it; pass it detached")
    return target, x_label, y_label, None if log_weight is None else log_weight.to(torch.float64)


def _in_dtypes(gradients, inputs):
    return tuple(None if t is None else g.to(t.dtype) for g, t in zip(gradients, inputs, strict=True))


def _scaled(gradients, upstream, inputs):
    return tuple(None if t is None else scaled(g, upstream, t) for g, t in zip(gradients, inputs, strict=True))


class _JointStatistics(Operator):
    raw = "joint_statistics"

    @staticmethod
    def forward(a, b, inner_weight, inner_bias, last_weight, target, x_label, y_label, log_weight, columns):
        exclusions = (target, x_label, y_label, log_weight)
        return _raw.joint_statistics(a, b, inner_weight, inner_bias, last_weight, *exclusions, columns)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:9], *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    @_first_derivative_only
    def backward(ctx, *upstream):
        *inputs, positive, lse, column_lse = ctx.saved_tensors
        if all(g is None for g in upstream):
            return (None,) * 10
        statistics = positive, lse, column_lse
        upstream = [s.new_zeros(s.shape) if g is None else g for g, s in zip(upstream, statistics, strict=True)]
        gradients = _raw.joint_gradient(*inputs, lse, column_lse, *upstream)
        return *_in_dtypes(gradients, inputs[:5]), None, None, None, None, None


class _JointFused(Operator):
    """Outputs (loss, da, db, dW1, db1, dw): the gradients of the loss come with it and are kept."""

    raw = "joint_fused"

    @staticmethod
    def forward(a, b, inner_weight, inner_bias, last_weight, target, x_label, y_label, log_weight, log_a, log_b, whole):
        exclusions = (target, x_label, y_label, log_weight)
        return _raw.joint_fused(a, b, inner_weight, inner_bias, last_weight, *exclusions, log_a, log_b, whole)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:5], *output[1:])

    @staticmethod
    @_first_derivative_only
    def backward(ctx, upstream, *_):
        saved = ctx.saved_tensors
        if upstream is None:
            return (None,) * 12
        return *_scaled(saved[5:], upstream, saved[:5]), *(None,) * 7


class _JointSoftplusSum(Operator):
    """Outputs (value, da, db, dW1, db1, dw, dbias): the gradients of the value come with it and are kept."""

    raw = "joint_softplus_sum"

    @staticmethod
    def forward(a, b, inner_weight, inner_bias, last_weight, bias, target, x_label, y_label, log_weight, gradient):
        exclusions = (target, x_label, y_label, log_weight)
        return _raw.joint_softplus_sum(a, b, inner_weight, inner_bias, last_weight, bias, *exclusions, gradient)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:6], *output[1:])

    @staticmethod
    @_first_derivative_only
    def backward(ctx, upstream, *_):
        saved = ctx.saved_tensors
        if upstream is None or saved[6].shape != saved[0].shape:  # no gradient was asked for
            return (None,) * 11
        return *_scaled(saved[6:], upstream, saved[:6]), *(None,) * 5


class _JointMatrix(Operator):
    raw = "joint_matrix"

    @staticmethod
    def forward(a, b, inner_weight, inner_bias, last_weight):
        return _raw.joint_matrix(a, b, inner_weight, inner_bias, last_weight)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    @_first_derivative_only
    def backward(ctx, upstream):
        inputs = ctx.saved_tensors
        return _in_dtypes(_raw.joint_matrix_gradient(*inputs, upstream), inputs)
