"""Score matrices for tests of bounds, and the two sources that must agree on them."""

import pytest
import torch

from mi_ext import DenseScores, DotScores


def dense(matrix, target=None):
    return DenseScores(matrix, target)


def dot(matrix, target=None):
    """The same scores as products: x = the matrix, y = the unit vectors; −10⁴ stands for −inf, and e^{−10⁴} is 0."""
    return DotScores(matrix.clamp_min(-1e4), torch.eye(matrix.shape[1], dtype=matrix.dtype), target=target)


SOURCES = pytest.mark.parametrize("source", [dense, dot])


def matrix(n=5, m=None, seed=0, spread=1.5):
    g = torch.Generator().manual_seed(seed)
    return spread * torch.randn(n, m or n, generator=g, dtype=torch.float64)


def parts(s):
    """(positives, negatives as a list of rows) of an in-batch matrix."""
    n, m = s.shape
    off = ~torch.eye(n, m, dtype=torch.bool)
    return s.diagonal(), s[off].reshape(n, m - 1)


def close(a, b, tolerance=1e-9):
    a, b = (torch.as_tensor(t, dtype=torch.float64) for t in (a, b))
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
