"""Rows by index, and sums by index.

An index may be out of range: on the CPU that is an error, on a GPU looking at it would mean waiting. Kernels make the
positive of such a row NaN; PyTorch's indexing would end the use of the device, so it never sees one.
"""

import math

import torch
from torch import Tensor


def checked(target: Tensor) -> bool:
    """Whether what is out of range was refused before, or will be by the next operator."""
    return target.device.type == "cpu"


def within(target: Tensor, m: int) -> Tensor:
    """int64 [n]: indices in [0, m), the nearest ones for those that are not."""
    return target if checked(target) else target.clamp(0, m - 1)


def rows_at(y: Tensor, target: Tensor) -> Tensor:
    """y[target], NaN where that does not exist."""
    if checked(target):
        return y[target]
    outside = (target < 0) | (target >= y.shape[0])
    return torch.where(outside[:, None], math.nan, y[within(target, y.shape[0])])


def summed_at(n: int, index: Tensor, rows: Tensor) -> Tensor:
    """[n, …]: Σ of the rows k with index_k = i for each i, in a fixed order; index_add on a GPU has none."""
    return rows.new_zeros(n, *rows.shape[1:]).index_put((index,), rows, accumulate=True)
