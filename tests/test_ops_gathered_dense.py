"""Gathered scores whose index names a good part of the bank: all are computed, each counted as often as it is named."""

from dataclasses import replace

import pytest
import torch
from gathered_problems import CALLS, DENSE, Gathered, check, evaluate, expected, gathered
from problems import DTYPES, INF, wide

from mi_ext import ops, reference

one_thread = pytest.mark.usefixtures("one_thread")
EVERY_CALL = pytest.mark.parametrize("call", CALLS)
NAN = float("nan")
X = frozenset({"x", "scale"})


@one_thread
@EVERY_CALL
@pytest.mark.parametrize("kind", ["bank", "skewed bank"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_gradients(call, kind, dtype, isa):
    """A row named thousands of times is added up one by one by the truth: in float64 that is the less exact."""
    epsilons = 1000 if (kind, dtype) == ("skewed bank", torch.float64) else 0
    for shape in DENSE if dtype == wide(dtype) else DENSE[:3:2]:
        e = expected(call, shape, kind, dtype)
        e.judge(evaluate(ops, call, e.problem), epsilons)


@pytest.mark.parametrize("kind", ["bank", "skewed bank"])
def test_threads(kind, threads):
    """Rows of the bank are shared out. Two runs agree to the last bit."""
    for call in ("negative_lse", "log-partition", "softplus", "clipped"):
        e = expected(call, (40, 2000, 70, 1000), kind, torch.float32)
        ours, again = (evaluate(ops, call, e.problem) for _ in range(2))
        e.judge(ours)
        assert all(torch.equal(ours[name], again[name]) for name in ours)


@one_thread
@pytest.mark.parametrize("call", ["cross-entropy", "softplus", "clipped"])
@pytest.mark.parametrize("kind", ["bank", "skewed bank"])
def test_more_negatives_than_are_counted_together(call, kind, isa):
    """More than 2^16, and of a row more than the 255 that a counter holds."""
    check(call, gathered(3, 70_000, 8, 97, kind, torch.float32))


@one_thread
@EVERY_CALL
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_duplicate_counts_twice(call, dtype):
    """Every row twice in the index: sums are twice as large, so log-sum-exps higher by log 2."""
    p = gathered(16, 150, 24, 110, dtype=dtype)
    check(call, replace(p, index=p.index.repeat(1, 2)))


@one_thread
@EVERY_CALL
@pytest.mark.parametrize("scale", [100.0, 1e4, -1.0])
def test_scales(call, scale):
    """References of the log-sum-exps are raised on the way."""
    check(call, gathered(20, 400, 20, 150, dtype=torch.float32, scale=scale))


@one_thread
def test_the_largest_score_comes_last(isa):
    p = gathered(20, 400, 20, 300, dtype=torch.float32)
    y = p.y * torch.linspace(0.01, 40, 300)[:, None]
    for call in ("negative_lse", "cross-entropy"):
        check(call, replace(p, y=y))


@one_thread
@pytest.mark.parametrize("call", ["negative_lse", "cross-entropy", "softplus"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_row_that_no_query_names_has_no_influence(call, value, isa):
    p = gathered(20, 400, 20, 150, dtype=torch.float32)
    p.index.clamp_(max=148)
    spoilt = replace(p, y=p.y.clone())
    spoilt.y[149, 3] = value
    clean, ours = evaluate(ops, call, p), evaluate(ops, call, spoilt)
    for name in clean:
        torch.testing.assert_close(ours[name], clean[name], rtol=1e-4, atol=1e-4)
    assert (ours["dy"][149] == 0).all()


@one_thread
@pytest.mark.parametrize("call", ["negative_lse", "softplus", "cross-entropy"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("side", ["x", "y"])
def test_non_finite_entries(call, value, side):
    """As torch.logsumexp; what does not meet them stays as it was."""
    p = gathered(20, 400, 20, 150, dtype=torch.float32)
    p.index[:10].clamp_(max=139)
    getattr(p, side)[15 if side == "x" else 145, 2] = value
    ours, truth = (evaluate(f, call, q, frozenset()) for f, q in ((ops, p), (reference, p.to(torch.float64))))
    torch.testing.assert_close(ours["value"], truth["value"], rtol=1e-5, atol=1e-5, equal_nan=True)
    if call == "negative_lse":
        half = Gathered(p.x[:10], p.y, p.index[:10], p.scale, p.bias, p.positive[:10])
        torch.testing.assert_close(evaluate(ops, call, p, X)["dx"][:10].isfinite().all(), torch.tensor(True))
        assert evaluate(ops, call, half, X)["value"].isfinite().all()


@one_thread
def test_an_upstream_gradient_that_is_not_finite_stays_with_its_query():
    p = gathered(20, 100, 20, 150, dtype=torch.float32)
    p.index[0] %= 10
    p.index[1:] = p.index[1:] % 140 + 10
    y = p.y.clone().requires_grad_()
    upstream = torch.ones(20, dtype=torch.float64)
    upstream[0] = INF
    (dy,) = torch.autograd.grad(ops.gathered_negative_lse(p.x, y, p.index, p.scale), y, upstream)
    assert dy[10:].isfinite().all() and not dy[:10].isfinite().all()
