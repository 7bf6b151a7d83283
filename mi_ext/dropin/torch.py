"""`torch.nn.functional.linear_cross_entropy` (torch 2.13), and InfoNCE as proposed for torch (pull request 195380).

from mi_ext.dropin.torch import InfoNCELoss, info_nce_loss, linear_cross_entropy
"""

import functools
import math

import torch
from torch import Tensor, nn

from ..losses.base import unit_vectors
from ..scores import DotScores
from ._base import in_peer_dtype, inverse
from ._linear import check_classes, class_scores, mean, per_row, total


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: object = None,
) -> Tensor:
    """cross_entropy(input @ linear_weightᵀ + linear_bias, target) without the logits.

        loss_i = Σ_c q_ic v_c (log Σ_k e^{s_ik} − s_ic),    s_ic = <x_i, w_c> + b_c

    with q_ic the target's probability of class c, 1 for the class of an integer target; label smoothing ε makes it
    (1 − ε) q_ic + ε/C; v = `weight` [C], 1 by default. input [N, d] or [d]; linear_weight [C, d] or [C, d_1 … d_K, d];
    linear_bias [C] or [C, d_1 … d_K]; target int64 [N] or [N, d_1 … d_K], or probabilities [N, C] or [N, C, d_1 … d_K].
    "mean" divides by the sum of the weights of the classes that are not ignored, NaN if all are, and for probabilities
    by the number of rows. `options` is accepted and not needed: nothing N×C is kept, but for given probabilities.

    Minimise; nats. Does not normalise; the target's class is in the denominator. The result has the dtype of input,
    under autocast at least float32. Errors are torch's: RuntimeError, ValueError, and IndexError for a class that does
    not exist.
    """
    _check(input, linear_weight, linear_bias, weight, reduction, label_smoothing)
    n_classes, *positions = linear_weight.shape[:-1]
    soft = target.shape == (*input.shape[:-1], n_classes, *positions)
    if soft and ignore_index is not None:
        raise RuntimeError("ignore_index: target holds probabilities, of which none can be ignored; leave it out")
    ignore_index = -100 if ignore_index is None else ignore_index
    if not soft:
        target = _index_target(input, target, positions, n_classes, ignore_index)
    several = math.prod(positions)
    x = input.reshape(-1, input.shape[-1])
    classifiers = linear_weight.reshape(n_classes, several, -1).unbind(1)
    biases = [None] * several if linear_bias is None else linear_bias.reshape(n_classes, several).unbind(1)
    targets = target.reshape(len(x), n_classes if soft else 1, several).unbind(2)
    v = torch.ones(n_classes, dtype=torch.float64, device=x.device) if weight is None else weight.double()
    plain = not soft and weight is None and label_smoothing == 0

    losses = []
    for w, b, t in zip(classifiers, biases, targets, strict=True):
        if soft:
            losses.append(_soft_rows(x, w, b, t, v, label_smoothing))
        elif plain and reduction != "none":
            losses.append(total(x, w, b, t.squeeze(1), ignore_index).double())
        else:
            rows = functools.partial(_rows, w=w, b=b, v=v, smoothing=label_smoothing)
            losses.append(per_row(x, t.squeeze(1), ignore_index, rows))
    inputs = (input, target) if soft else (input,)
    if reduction == "none":
        return in_peer_dtype(torch.stack(losses, 1).reshape((*input.shape[:-1], *positions)), *inputs)
    loss = torch.stack(losses).sum()
    if reduction == "mean":
        loss = mean(loss, v.new_tensor(len(x) * several) if soft else _mass(target, v, ignore_index))
    return in_peer_dtype(loss, *inputs)


def info_nce_loss(
    query: Tensor,
    positive_key: Tensor,
    negative_keys: Tensor | None = None,
    temperature: float = 0.07,
    reduction: str = "mean",
) -> Tensor:
    """−log [e^{p_i} / Σ_k e^{s_ik}], scores cosines over the temperature; one direction, query to key.

    query, positive_key [N, D]: positive_key_i belongs to query_i. Without negative_keys the other positive keys are the
    negatives (K = N); with negative_keys [M, D] those alone, for every query (K = M + 1).

    Minimise; nats. Normalises all three. The positive is in the denominator. reduction "none" [N], "mean" or "sum"; the
    result has the dtype of query, under autocast at least float32. ValueError on shapes that do not fit. As proposed in
    torch's pull request 195380.
    """
    for name, t in (("query", query), ("positive_key", positive_key), ("negative_keys", negative_keys)):
        if t is not None and t.dim() != 2:
            raise ValueError(f"{name}: expected two dimensions, got shape {tuple(t.shape)}")
    if query.shape != positive_key.shape:
        raise ValueError(f"positive_key: expected the shape of query, {tuple(query.shape)}, got {positive_key.shape}")
    query, positive_key, scale = unit_vectors(query), unit_vectors(positive_key), inverse(temperature)
    if negative_keys is None:
        scores = DotScores(query, positive_key, scale)
    else:
        scores = DotScores(query, unit_vectors(negative_keys), scale, positive=positive_key)
    return in_peer_dtype(scores.cross_entropy(reduction=reduction), query)


class InfoNCELoss(nn.Module):
    """`info_nce_loss` as a module: forward(query [N, D], positive_key [N, D], negative_keys=None or [M, D])."""

    def __init__(self, temperature: float = 0.07, reduction: str = "mean") -> None:
        super().__init__()
        self.temperature = temperature
        self.reduction = reduction

    def forward(self, query: Tensor, positive_key: Tensor, negative_keys: Tensor | None = None) -> Tensor:
        return info_nce_loss(query, positive_key, negative_keys, self.temperature, self.reduction)


def _rows(x: Tensor, target: Tensor, w: Tensor, b: Tensor | None, v: Tensor, smoothing: float) -> Tensor:
    """float64 [n]: [(1−ε) v_t + ε/C Σ v] CE_i + ε/C Σ_c v_c (s_it − s_ic), CE_i the cross-entropy, for classes t."""
    scores = class_scores(x, w, b, target).double()
    share = smoothing / len(w)
    loss = ((1 - smoothing) * v[target] + share * v.sum()) * scores.cross_entropy(reduction="none")
    if smoothing == 0:
        return loss
    return loss + share * (v.sum() * scores.positive - _weighted_scores(x, w, b, v.expand(1, -1)))


def _soft_rows(x: Tensor, w: Tensor, b: Tensor | None, q: Tensor, v: Tensor, smoothing: float) -> Tensor:
    """float64 [n]: Σ_c q_ic v_c (log Σ_k e^{s_ik} − s_ic), q smoothed."""
    q = ((1 - smoothing) * q + smoothing / len(w)) * v
    any_class = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    log_partition = class_scores(x, w, b, any_class).double().log_partition()
    return q.sum(1) * log_partition - _weighted_scores(x, w, b, q)


def _weighted_scores(x: Tensor, w: Tensor, b: Tensor | None, q: Tensor) -> Tensor:
    """float64 [n]: Σ_c q_ic s_ic = <x_i, Σ_c q_ic w_c> + Σ_c q_ic b_c, q [n, C] or [1, C]."""
    wide = torch.promote_types(w.dtype, torch.float32)
    scores = (x.double() * (q.to(wide) @ w.to(wide)).double()).sum(1)
    return scores if b is None else scores + q.double() @ b.double()


def _mass(target: Tensor, v: Tensor, ignore_index: int) -> Tensor:
    valid = target != ignore_index
    return torch.where(valid, v[torch.where(valid, target, 0)], 0.0).sum()


def _check(
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    weight: Tensor | None,
    reduction: str,
    smoothing: float,
) -> None:
    if input.dim() not in (1, 2):
        raise RuntimeError(f"input: expected one or two dimensions, got shape {tuple(input.shape)}")
    if linear_weight.dim() < 2:
        raise RuntimeError(f"linear_weight: expected two dimensions or more, got shape {tuple(linear_weight.shape)}")
    if input.shape[-1] != linear_weight.shape[-1]:
        expected = f"the width of input, d = {input.shape[-1]}, last"
        raise RuntimeError(f"linear_weight: expected {expected}, got shape {tuple(linear_weight.shape)}")
    if input.dim() == 1 and linear_weight.dim() > 2:
        raise RuntimeError("input: expected [N, d], since linear_weight has several positions; got one dimension")
    if linear_bias is not None and linear_bias.shape != linear_weight.shape[:-1]:
        expected = f"shape {tuple(linear_weight.shape[:-1])}"
        raise RuntimeError(f"linear_bias: expected {expected}, got {tuple(linear_bias.shape)}")
    if weight is not None and weight.shape != linear_weight.shape[:1]:
        expected = f"one weight for each of {len(linear_weight)} classes"
        raise RuntimeError(f"weight: expected {expected}, got shape {tuple(weight.shape)}")
    if not 0 <= smoothing <= 1:
        raise RuntimeError(f"label_smoothing: expected a number in [0, 1], got {smoothing}")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction: expected 'none', 'mean' or 'sum', got {reduction!r}")


def _index_target(input: Tensor, target: Tensor, positions: list[int], n_classes: int, ignore_index: int) -> Tensor:
    expected = (*input.shape[:-1], *positions)
    if target.shape != expected:
        raise ValueError(
            f"target: expected classes of shape {expected}, or probabilities with the {n_classes} classes second, got "
            f"shape {tuple(target.shape)}"
        )
    if target.dtype not in (torch.int64, torch.uint8):
        raise RuntimeError(f"target: expected classes as int64, got {target.dtype}")
    check_classes("target", target, n_classes, ignore_index)
    return target.long()
