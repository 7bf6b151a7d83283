"""Log-domain arithmetic with −inf as the unit of log-sum-exp: what takes no part gets a gradient of 0, never NaN.

torch.logsumexp and torch.logaddexp return the right value, −inf, when every term is −inf, but their gradients are then
exp(−inf − (−inf)) = NaN. Here a −inf term is a constant.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

Weight = float | Tensor  # a constant, or a tensor that may ask for a gradient


def log_of(value: Weight) -> Weight:
    """log of a value ≥ 0; a tensor where torch traces a graph that is to serve every number, such as a size."""
    if isinstance(value, Tensor):
        return value.log()
    if torch.compiler.is_compiling():
        return torch.scalar_tensor(value, dtype=torch.float64).log()
    return math.log(value) if value > 0 else -math.inf


def constant_at_minus_infinity(t: Tensor) -> Tensor:
    """The identity; its gradient is 0 where t = −inf, whatever arrives from above (NaN included)."""
    return torch.where(t == -math.inf, -math.inf, t)


def log_sum_exp(t: Tensor, dim: int = 0) -> Tensor:
    """log Σ exp(t) along `dim`; −inf over nothing."""
    if t.shape[dim] == 0:
        return t.sum(dim).fill_(-math.inf)
    return torch.logsumexp(constant_at_minus_infinity(t), dim)


def log_add_exp(a: Tensor, b: Tensor) -> Tensor:
    """log(e^a + e^b)."""
    return torch.logaddexp(constant_at_minus_infinity(a), constant_at_minus_infinity(b))


def softplus(z: Tensor) -> Tensor:
    """log(1 + e^z), exact everywhere: torch's softplus returns z above its threshold, and e^{−40} is no digit of 40."""
    return F.softplus(z, threshold=40.0)


def row_log_partition(positive: Tensor, negative_lse: Tensor, a: Weight, b: Weight) -> Tensor:
    """R_i(a, b) = log(e^{p_i + a} + e^{negative_lse_i + b}); floats or tensors, a = −inf leaves the positive out."""
    negatives = b + negative_lse
    return negatives if _is_minus_infinity(a) else log_add_exp(positive + a, negatives)


def row_cross_entropy(positive: Tensor, negative_lse: Tensor, a: Weight, b: Weight) -> Tensor:
    """R_i(a, b) − p_i = log(e^a + e^{b + negative_lse_i − p_i}), exact down to the smallest loss."""
    excess = constant_at_minus_infinity(b + negative_lse - positive)
    if _is_minus_infinity(a):
        return excess
    return log_add_exp(a.to(excess), excess) if isinstance(a, Tensor) else a + softplus(excess - a)


def log_weighted_mean(joint_lse: Tensor, weight_lse: Tensor) -> Tensor:
    """log Σ_j w_j e^{s_j}, w = softmax(r), from log Σ e^{s + r} and log Σ e^r; −inf without weights."""
    return torch.where(weight_lse == -math.inf, -math.inf, joint_lse - constant_at_minus_infinity(weight_lse))


def free_of(value: Tensor, *cancelled: Weight) -> Tensor:
    """`value`, in which these cancel: a tensor among them gets the gradient 0, which DDP waits for, and not none."""
    for weight in cancelled:
        value = value + 0 * weight if isinstance(weight, Tensor) else value
    return value


def _is_minus_infinity(a: Weight) -> bool:
    return isinstance(a, float) and a == -math.inf
