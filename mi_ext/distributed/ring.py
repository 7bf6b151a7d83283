"""`RingScores`: candidates that travel from rank to rank."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops, validation
from ..log_domain import log_add_exp, log_sum_exp
from ..ops.autograd import double, first_derivative_only
from ..scores import SharedColumnScores
from ..scores.exclusions import Exclusions
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

    def __init__(self, x, y, scale=1.0, bias=None, target=None, *, labels=None, group=None):
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
        positive = self.y[self._ring.target]
        return self.scale * (self.x.double() * positive.double()).sum(1) + self.bias

    def _compute_statistics(self, columns: bool):
        if columns:
            raise self._no_columns("column_negative_lse")
        return self._positive(), self._travel(_LogSumExp) + self.bias, None

    def _travel(self, reduction) -> Tensor:
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

    def exclusions(self, owner: int):
        target = self.target if owner == self.ranks.rank else None
        if self.y_label is None:
            return target, None, None, None
        start = sum(self.rows[:owner])
        return target, self.x_label, self.y_label[start : start + self.rows[owner]], None


class _LogSumExp:
    """[n]: log Σ over negatives of exp(s_ij), without the bias."""

    fold = staticmethod(log_add_exp)

    @staticmethod
    def value(x, y, scale, bias, exclusions):
        return ops.dot_statistics(x, y, scale, exclusions)[1]

    @staticmethod
    def gradient(x, y, scale, bias, exclusions, total, upstream, candidate_gradient):
        sides = x, y, scale, exclusions, total, upstream
        return *ops.dot_lse_gradient(*sides, candidate_gradient), torch.zeros_like(bias)


class _SoftplusSum:
    """Σ over negatives of softplus(s_ij)."""

    fold = staticmethod(torch.add)

    @staticmethod
    def value(x, y, scale, bias, exclusions):
        return ops.dot_softplus_sum(x, y, scale, bias, exclusions)[0]

    @staticmethod
    def gradient(x, y, scale, bias, exclusions, total, upstream, candidate_gradient):
        leaves = [t.detach().requires_grad_() for t in (x, scale, bias)]
        y = y.detach().requires_grad_(candidate_gradient)
        with torch.enable_grad():
            value = _SoftplusSum.value(leaves[0], y, *leaves[1:], exclusions)
            leaves.insert(1, y)
            found = iter(torch.autograd.grad(value, [t for t in leaves if t.requires_grad], upstream))
        dx, dy, dscale, dbias = (next(found) if t.requires_grad else None for t in leaves)
        return dx, dy, dscale, dbias


class _Travel(torch.autograd.Function):
    """A reduction over all ranks' candidates; for its gradient they travel again, theirs with them, home at last."""

    @staticmethod
    def forward(ctx, ring, reduction, x, y, scale, bias):
        total = None
        for owner, candidates in ring.round(y):
            part = reduction.value(x, candidates, scale, bias, ring.exclusions(owner))
            total = part if total is None else reduction.fold(total, part)
        ctx.ring, ctx.reduction = ring, reduction
        ctx.save_for_backward(x, y, scale, bias, total)
        return total

    @staticmethod
    @first_derivative_only("RingScores", "DenseScores of gathered candidates")
    def backward(ctx, upstream):
        x, y, scale, bias, total = ctx.saved_tensors
        ring, candidate_gradient = ctx.ring, ctx.needs_input_grad[3]
        sums, travelling = None, None
        for owner, candidates in ring.round(y):
            rest = ring.exclusions(owner), total, upstream, candidate_gradient
            dx, dy, *dscalars = ctx.reduction.gradient(x, candidates, scale, bias, *rest)
            sums = [dx, *dscalars] if sums is None else [a + b for a, b in zip(sums, (dx, *dscalars), strict=True)]
            if candidate_gradient and ring.ranks.size > 1:
                dy = dy if travelling is None else travelling.arrived() + dy
                travelling = Hop(ring.ranks, dy, ring.rows[owner - 1], tag=1)
        dy = dy if travelling is None else travelling.arrived()
        dx, dscale, dbias = sums
        return None, None, dx.to(x.dtype), (dy.to(y.dtype) if candidate_gradient else None), dscale, dbias
