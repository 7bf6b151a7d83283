"""Pairs of rows given by their indices, or by equal labels: O(pairs) memory, never all n×m of them."""

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..ops.indexing import summed_at

_BLOCK_ENTRIES = 1 << 22


def equal_pairs(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(i, j), all pairs with a_i = b_j, in the order of i, then j."""
    ordered, place = b.sort(stable=True)
    start, stop = (torch.searchsorted(ordered, a.contiguous(), right=right) for right in (False, True))
    count = stop - start
    i = torch.arange(len(a), device=a.device).repeat_interleave(count)
    before = count.cumsum(0) - count
    return i, place[torch.arange(len(i), device=a.device) + (start - before)[i]]


def pair_scores(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """float64 [P]: <x_i, y_j>. Vectors of a block of pairs are gathered at a time, and again in the backward pass."""
    size = max(1, _BLOCK_ENTRIES // max(1, x.shape[1]))

    def block(i: Tensor, j: Tensor) -> Tensor:
        return (x[i].double() * y[j].double()).sum(1)

    pairs = zip(i.split(size), j.split(size), strict=True)
    return torch.cat([checkpoint(block, *pair, use_reentrant=False, preserve_rng_state=False) for pair in pairs])


def grouped_log_sum_exp(scores: Tensor, group: Tensor, n: int) -> Tensor:
    """[n]: log Σ e^score over the scores of each group, −inf over none."""
    none = scores.new_full((n,), -math.inf)
    largest = none.scatter_reduce(0, group, scores.detach(), "amax")
    total = summed_at(n, group, torch.exp(scores - largest[group]))
    return torch.where(total > 0, largest + torch.where(total > 0, total, 1).log(), none)


def row_sums_of_equal(a: Tensor, b: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """([n, d]: Σ of y_j over j with b_j = a_i, [n]: how many), in O((n + m) d)."""
    ordered, _ = b.sort()
    place = torch.searchsorted(ordered, b.contiguous())  # the first place of each value stands for it
    sums = summed_at(len(y) + 1, place, y)  # the last one for what is beyond all values
    start, stop = (torch.searchsorted(ordered, a.contiguous(), right=right) for right in (False, True))
    count = stop - start
    return torch.where(count[:, None] > 0, sums[start], 0.0), count
