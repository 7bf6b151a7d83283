"""Losses of all pairs with equal labels, summed with their gradient, in O((n + m) d) memory for any number of pairs."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .. import validation
from ..log_domain import softplus
from ..ops.autograd import Operator, asks_for_gradient, first_derivative_only, scaled

_ROWS, _COLUMNS = 128, 8192  # of a block of scores


def equal_pair_loss(
    x: Tensor, y: Tensor, negative_lse: Tensor, labels: Tensor, ref_labels: Tensor, own: Tensor | None
) -> Tensor:
    """Σ log(1 + exp(negative_lse_i − <x_i, y_j>)) over the pairs with label_i = ref_label_j and j ≠ own_i, float64.

    x [n, d], y [m, d] and negative_lse float64 [n] get gradients; own int64 [n] or None.
    """
    gradient = asks_for_gradient(x, y, negative_lse)
    ref_labels = validation.distinct(ref_labels, labels)
    return _EqualPairLoss.apply(x, validation.distinct(y, x), negative_lse, labels, ref_labels, own, gradient)[0]


@torch.library.custom_op("mi_ext::equal_pair_loss", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def _walk(
    x: Tensor,
    y: Tensor,
    negative_lse: Tensor,
    labels: Tensor,
    ref_labels: Tensor,
    own: Tensor | None,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows and columns in the order of their labels, so that the pairs of a block of rows lie in a run of columns.

    One operator for torch.compile and export, whose shapes do not depend on how many pairs there are. It waits for a
    GPU, to know its blocks, which the capture of a CUDA graph forbids: hence its tag.
    """
    row, column = labels.argsort(), ref_labels.argsort()
    label, ref_label = labels[row], ref_labels[column]
    wide = torch.promote_types(x.dtype, torch.float32)
    x, y, lse = x[row].to(wide), y[column].to(wide), negative_lse[row, None].to(wide)
    loss, dx, dy, dlse = lse.new_zeros((), dtype=torch.float64), *map(torch.zeros_like, (x, y, lse))
    with torch.autocast(x.device.type, enabled=False):
        for rows, columns in _blocks(label, ref_label):
            pairs = label[rows, None] == ref_label[columns]
            if own is not None:
                pairs &= column[columns] != own[row[rows], None]
            excess = torch.where(pairs, lse[rows] - x[rows] @ y[columns].T, -torch.inf)
            loss += softplus(excess).sum(dtype=torch.float64)
            if gradient:
                weight = excess.sigmoid()
                dx[rows] -= weight @ y[columns]
                dy[columns] -= weight.T @ x[rows]
                dlse[rows] += weight.sum(1, keepdim=True)
    if not gradient:
        return loss, x.new_zeros(0), y.new_zeros(0), loss.new_zeros(0)
    dx, dy, dlse = (torch.empty_like(t).index_copy_(0, order, t) for t, order in ((dx, row), (dy, column), (dlse, row)))
    return loss, dx, dy, dlse[:, 0].double()


@_walk.register_fake
def _(
    x: Tensor, y: Tensor, negative_lse: Tensor, labels: Tensor, ref_labels: Tensor, own: Tensor | None, gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    wide = torch.promote_types(x.dtype, torch.float32)
    dx, dy = (t.new_empty(t.shape if gradient else 0, dtype=wide) for t in (x, y))
    return negative_lse.new_empty(()), dx, dy, negative_lse.new_empty(negative_lse.shape if gradient else 0)


class _EqualPairLoss(Operator):
    """Outputs (loss, dx, dy, dlse): the gradients of the loss come with it and are kept."""

    raw = "equal_pair_loss"

    @staticmethod
    def forward(
        x: Tensor,
        y: Tensor,
        negative_lse: Tensor,
        labels: Tensor,
        ref_labels: Tensor,
        own: Tensor | None,
        gradient: bool,
    ) -> tuple[Tensor, ...]:
        return _walk(x, y, negative_lse, labels, ref_labels, own, gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:3], *output[1:])

    @staticmethod
    @first_derivative_only("NTXentLoss", "the loss of a score matrix")
    def backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if upstream is None:
            return (None,) * 7
        inputs, gradients = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
        return *(scaled(g, upstream, t) for g, t in zip(gradients, inputs, strict=True)), None, None, None, None


def _blocks(label: Tensor, ref_label: Tensor) -> Iterator[tuple[slice, slice]]:
    """Blocks of sorted rows and columns in which all pairs with equal labels are."""
    n = len(label)
    start = torch.arange(0, n, _ROWS, device=label.device)
    low = torch.searchsorted(ref_label, label[start]).tolist()
    high = torch.searchsorted(ref_label, label[(start + _ROWS - 1).clamp_max(n - 1)], right=True).tolist()
    for k, (first, last) in enumerate(zip(low, high, strict=True)):
        for column in range(first, last, _COLUMNS):
            yield slice(k * _ROWS, (k + 1) * _ROWS), slice(column, min(column + _COLUMNS, last))
