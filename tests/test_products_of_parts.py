"""Float32 products by AMX, each number in three bfloat16 parts: when they are used, and how exact they are."""

import math

import pytest
import torch
from problems import ISAS, PARTS, Problem, evaluate, problem

from mi_ext import _C, ops

AMX = [isa for isa in ISAS if isa.endswith("+amx")]
BY_PARTS = [isa for isa in ISAS if isa.endswith(PARTS)]
PLAIN = "x86-64-v4"


def values(p: Problem, isa: str, always: bool) -> dict[str, torch.Tensor]:
    before = _C.isa()
    _C.set_isa(isa)
    _C.split_always(always)
    try:
        return evaluate(ops, "cross-entropy", p)
    finally:
        _C.split_always(False)
        _C.set_isa(before)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name].nan_to_num(nan=7.0), b[name].nan_to_num(nan=7.0)) for name in a)


@pytest.mark.parametrize("isa", AMX)
def test_large_products_are_of_parts(isa):
    """Where n m (d - 48) reaches 2^26; the last digits show who multiplied."""
    large, small = (
        problem(1024, 1024, 112, "targets", torch.float32),
        problem(1024, 1023, 112, "targets", torch.float32),
    )
    assert not same(values(large, isa, False), values(large, PLAIN, False))
    assert same(values(small, isa, False), values(small, PLAIN, False))


@pytest.mark.parametrize("isa", AMX)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2.0**51, 1e30], ids=str)
@pytest.mark.parametrize("of", ["x", "y"])
def test_what_has_no_parts_is_multiplied_as_it_is(isa, value, of):
    """NaN, infinities and what is too large or too small."""
    p = problem(33, 97, 64, "targets", torch.float32)
    getattr(p, of)[5, 3] = value
    assert same(values(p, isa, True), values(p, PLAIN, False))
    tiny = problem(33, 97, 64, "targets", torch.float32)
    getattr(tiny, of).mul_(2.0**-60)
    assert same(values(tiny, isa, True), values(tiny, PLAIN, False))


@pytest.mark.parametrize("isa", BY_PARTS, indirect=True)
@pytest.mark.parametrize("d", [1, 16, 31, 32, 33, 48, 128, 129, 300])
def test_scores_are_no_worse_than_float32(isa, d):
    """One by one, where the judge looks at norms: within 2^-21 Σ |x_k y_k|; 64 roundings can come to 2^-18."""
    generator = torch.Generator().manual_seed(d)
    x, y = (torch.randn(n, d, generator=generator) for n in (37, 101))
    sizes = x.double().abs() @ y.double().abs().T
    truth = x.double() @ y.double().T
    for j in range(0, 101, 5):
        # The log-sum-exp over a single candidate is its score.
        log_weight = torch.full((101,), -math.inf, dtype=torch.float64)
        log_weight[j] = 0
        score = ops.dot_statistics(x, y, torch.tensor(1.0), (None, None, None, log_weight))[1]
        assert ((score - truth[:, j]).abs() <= 2.0**-21 * sizes[:, j]).all()
