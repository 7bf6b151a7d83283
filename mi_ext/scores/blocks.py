"""Blocks of columns for what is computed densely, a part at a time."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..ops.autograd import asks_for_gradient

_BLOCK_ENTRIES = 1 << 20


def column_blocks(n: int, m: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive blocks of columns with about 2^20 scores each."""
    width, start = max(1, _BLOCK_ENTRIES // max(n, 1)), 0
    while start < m:  # by comparisons, not a range or min: one graph serves all sizes that have as many blocks
        stop = start + width
        if stop > m:
            stop = m
        yield start, stop
        start += width


def recomputed(block: Callable[[int, int], Tensor], start: int, stop: int) -> Tensor:
    """block(start, stop), computed again for its gradient, so that the scores of one block exist at a time.

    RuntimeError for a gradient through a transform of torch.func, within which nothing can be computed again.
    """
    if torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is None:
        return checkpoint(block, start, stop, use_reentrant=False)
    result = block(start, stop)
    if asks_for_gradient(result):
        raise RuntimeError(
            "mi_ext: interpolated, and a softplus sum with a gradient to its candidate_log_weight, compute scores "
            "again for a gradient, which torch.func cannot; use torch.autograd.grad or backward(), outside of vmap too"
        )
    return result
