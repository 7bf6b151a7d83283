"""How float32 scores are rounded: not all of them one way, and not as often as there are features."""

import math

import pytest
import torch

from mi_ext import DotScores

HALF_ULP = 2.0**-24
pytestmark = pytest.mark.usefixtures("isa")


def relative_errors(n: int, d: int, scale: float) -> torch.Tensor:
    x, y = torch.rand(2, n, d, generator=torch.Generator().manual_seed(0))
    truth = scale * (x.double() * y.double()).sum(1)
    return DotScores(x, y, scale).positive.double() / truth - 1


def test_the_scale_is_not_rounded():
    """Of all numbers from 1 to 2, scale log2 e lies as far from the next float32 as it can."""
    between = 1.1015625 + 0.499 * 2.0**-23
    errors = relative_errors(4096, 8, between * math.log(2))
    assert errors.mean().abs() < 0.2 * HALF_ULP


def test_partial_sums_are_short():
    """In one sum of 4096 positive terms roundings come to 15 units, in sums of 64 to 2."""
    assert relative_errors(256, 4096, 1.0).square().mean().sqrt() < 5 * HALF_ULP
