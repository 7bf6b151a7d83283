"""`RingScores`: candidates that travel from rank to rank."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .. import ops, validation
from ..log_domain import Weight, log_add_exp, log_sum_exp
from ..ops.autograd import double, first_derivative_only
from ..ops.indexing import rows_at
from ..reference import Exclusion
from ..scores import SharedColumnScores
from ..scores.exclusions import Exclusions
from ..scores.source import Statistics
from .ranks import Hop, Ranks


class RingScores(SharedColumnScores):
    """Scores of this rank's n queries with the N candidates of all ranks: s_ij = scale · <x_i, y_j> + bias.

    x [n, d]; y [m, d], this rank's candidates; target int64 [n]: y[target_i] is the positive of query i, arange(n) by
    default; all others, on any rank, are its negatives, but for those of the same label, labels = (of x [n], of y [m]),
    which mean the same on every rank. scale and bias as for `DotScores`. K = N. For both directions of a pair use two:
    RingScores(x, y), RingScores(y, x).

    Reductions over rows are those of `DotScores`, of this rank's rows; T of `log_partition` too; a rank that may have
    no rows needs reduction="sum". The candidates travel once for a value and once for a gradient, theirs behind them:
    2 n N d and 8 n N d flops, and O((n + m) d) memory. There are no statistics of columns (a ValueError) and no
    `ranking`. Raises TypeError or ValueError by argument.
    """

    x: Tensor
    y: Tensor
    scale: Tensor
    bias: Tensor
    _ring: "_Ring"

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        scale: Weight = 1.0,
        bias: Weight | None = None,
        target: Tensor | None = None,
        *,
        labels: tuple[Tensor, Tensor] | None = None,
        group: "dist.ProcessGroup | None" = None,
    ):
        validation.floating_matrix("x", x)
        validation.floating_matrix("y", y, "[m, d]")
        validation.same_width("y", y, x)
        validation.scalar("scale", scale, non_zero=True)
        validation.scalar("bias", 0.0 if bias is None else bias)
        target = validation.target_or_default(target, len(x), len(y), x)
        x_label, y_label = validation.label_pair(labels, len(x), len(y), x)
        dtype = torch.promote_types(x.dtype, y.dtype)
        self.x, self.y = x.to(dtype), validation.distinct(y, x).to(dtype)
        self.scale, self.bias = double(scale, x), double(0.0 if bias is None else bias, x)
        ranks = Ranks.of(group)
        given = {"use of labels": labels is not None}
        rows = ranks.rows("y", self.y, (self.x, self.y, self.scale, self.bias), **given)
        y_label = None if y_label is None else ranks.all_gather(y_label, rows)
        self._ring = _Ring(ranks, rows, target, x_label, y_label)
        exclusions = Exclusions(len(x), sum(rows), x.device, target + sum(rows[: ranks.rank]), x_label, y_label)
        super().__init__(exclusions, dtype)

    def negative_softplus_sum(self) -> Tensor:
        return self._travel(_SoftplusSum).to(self.dtype)

    def clipped_log_partition(self, tau: float) -> Tensor:
        with torch.no_grad():
            parts = [
                ops.dot_clipped_log_partition(self.x, y, self.scale, self.bias, self._ring.exclusions(owner), tau)
                for owner, y in self._ring.round(self.y)
            ]
            return log_sum_exp(torch.stack(parts)).to(self.dtype)

    def _positive(self) -> Tensor:
        return self._keep("positive", self._own_scores)

    def _own_scores(self) -> Tensor:
        positive = rows_at(self.y, self._ring.target)
        return self.scale * (self.x.double() * positive.double()).sum(1) + self.bias

    def _compute_statistics(self, columns: bool) -> Statistics:
        if columns:
            raise self._no_columns("column_negative_lse")
        return self._positive(), self._travel(_LogSumExp) + self.bias, None

    def _travel(self, reduction: "_Reduction") -> Tensor:
        return _Travel.apply(self._ring, reduction, self.x, self.y, self.scale, self.bias)


@dataclass(frozen=True)
class _Ring:
    """Whose candidates are where, and which are negatives: target [n] in this rank's block, y_label [N] of all."""

    ranks: Ranks
    rows: list[int]
    target: Tensor
    x_label: Tensor | None
    y_label: Tensor | None

    def round(self, y: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(a rank, its candidates) for every rank, this one's first; the next travel while these are worked on."""
        size = self.ranks.size
        for step in range(size):
            owner = (self.ranks.rank - step) % size
            hop = None if step + 1 == size else Hop(self.ranks, y, self.rows[owner - 1], tag=0)
            yield owner, y
            if hop is not None:
                y, hop = hop.arrived(), None

    def exclusions(self, owner: int) -> Exclusion:
        target = self.target if owner == self.ranks.rank else None
        if self.y_label is None:
            return target, None, None, None
        start = sum(self.rows[:owner])
        return target, self.x_label, self.y_label[start : start + self.rows[owner]], None


class _LogSumExp:
    """[n]: log Σ over negatives of exp(s_ij), without the bias."""

    fold = staticmethod(log_add_exp)

    @staticmethod
    def value(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, exclusions: Exclusion) -> Tensor:
        return ops.dot_statistics(x, y, scale, exclusions)[1]

    @staticmethod
    def gradient(
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        bias: Tensor,
        exclusions: Exclusion,
        total: Tensor,
        upstream: Tensor,
        candidate_gradient: bool,
    ) -> tuple[Tensor | None, ...]:
        sides = x, y, scale, exclusions, total, upstream
        return *ops.dot_lse_gradient(*sides, candidate_gradient), torch.zeros_like(bias)


class _SoftplusSum:
    """Σ over negatives of softplus(s_ij)."""

    fold = staticmethod(torch.add)

    @staticmethod
    def value(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, exclusions: Exclusion) -> Tensor:
        return ops.dot_softplus_sum(x, y, scale, bias, exclusions)[0]

    @staticmethod
    def gradient(
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        bias: Tensor,
        exclusions: Exclusion,
        total: Tensor,
        upstream: Tensor,
        candidate_gradient: bool,
    ) -> tuple[Tensor | None, ...]:
        leaves = [t.detach().requires_grad_() for t in (x, scale, bias)]
        y = y.detach().requires_grad_(candidate_gradient)
        with torch.enable_grad():
            value = _SoftplusSum.value(leaves[0], y, leaves[1], leaves[2], exclusions)
            leaves.insert(1, y)
            found = iter(torch.autograd.grad(value, [t for t in leaves if t.requires_grad], upstream))
        dx, dy, dscale, dbias = (next(found) if t.requires_grad else None for t in leaves)
        return dx, dy, dscale, dbias


_Reduction = type[_LogSumExp] | type[_SoftplusSum]


class _Travel(torch.autograd.Function):
    """A reduction over all ranks' candidates; for its gradient they travel again, theirs with them, home at last."""

    @staticmethod
    def forward(
        ctx: Any, ring: _Ring, reduction: _Reduction, x: Tensor, y: Tensor, scale: Tensor, bias: Tensor
    ) -> Tensor:
        parts = (reduction.value(x, block, scale, bias, ring.exclusions(owner)) for owner, block in ring.round(y))
        total = functools.reduce(reduction.fold, parts)
        ctx.ring, ctx.reduction = ring, reduction
        ctx.save_for_backward(x, y, scale, bias, total)
        return total

    @staticmethod
    @first_derivative_only("RingScores", "DenseScores of gathered candidates")
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, bias, total = ctx.saved_tensors
        ring, candidate_gradient = ctx.ring, ctx.needs_input_grad[3]
        sums: list[Tensor] = []
        travelling: Hop | None = None
        for owner, candidates in ring.round(y):
            rest = ring.exclusions(owner), total, upstream, candidate_gradient
            dx, dy, *dscalars = ctx.reduction.gradient(x, candidates, scale, bias, *rest)
            sums = [a + b for a, b in zip(sums, (dx, *dscalars), strict=True)] if sums else [dx, *dscalars]
            if candidate_gradient and ring.ranks.size > 1:
                dy = dy if travelling is None else travelling.arrived() + dy
                travelling = Hop(ring.ranks, dy, ring.rows[owner - 1], tag=1)
        dy = dy if travelling is None else travelling.arrived()
        dx, dscale, dbias = sums
        return None, None, dx.to(x.dtype), (dy.to(y.dtype) if candidate_gradient else None), dscale, dbias
