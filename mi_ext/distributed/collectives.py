"""All ranks' rows on every rank, and sums over ranks, with gradients."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .. import validation
from .ranks import Ranks


def gather(x: Tensor, group: "dist.ProcessGroup | None" = None) -> tuple[Tensor, int]:
    """(rows of all ranks [N, d], the index of this rank's first row): x [n, d], n may differ from rank to rank.

    Differentiable: a row's gradient is the sum of what all ranks' losses give it. Row i of this rank is row start + i.
    """
    validation.floating_matrix("x", x)
    ranks = Ranks.of(group)
    rows = ranks.rows("x", x, (x,))
    everything = x if ranks.size == 1 else _Gather.apply(x, ranks, rows)
    return everything, sum(rows[: ranks.rank])


def sum_gradient(t: Tensor, group: "dist.ProcessGroup | None" = None) -> Tensor:
    """t, whose gradient will be the sum of all ranks' gradients: of a parameter that no other code averages."""
    ranks = Ranks.of(group)
    return t if ranks.size == 1 else _SumGradient.apply(t, ranks)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks, rows: list[int]) -> Tensor:
        ctx.ranks, ctx.rows = ranks, rows
        return ranks.all_gather(x, rows)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        return ctx.ranks.reduce_scatter(upstream, ctx.rows), None, None


class _SumGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return t.view_as(t)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        total = upstream.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.ranks.group)
        return total, None
