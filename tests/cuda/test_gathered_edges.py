"""Walks over gathered scores at the edges: nothing to sum, huge and non-finite scores, an index outside the bank."""

import math

import pytest
import torch
from gathered_problems import Gathered, check, evaluate, gathered
from problems import INF

from mi_ext import ops, reference

pytestmark = pytest.mark.usefixtures("gathered_walks")
FLOATS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
CALLS = pytest.mark.parametrize("call", ["negative_lse", "cross-entropy", "log-partition", "softplus", "clipped"])
NAN = math.nan


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def from_scores(s, dtype=torch.float64, bank=True):
    """The problem with these scores: x = the scores, and the unit vectors as a bank or as negatives."""
    n, m = s.shape
    unit = torch.eye(m, dtype=dtype)
    y, index = (unit, torch.arange(m).expand(n, m)) if bank else (unit.expand(n, m, m), None)
    return Gathered(s.to(dtype), y, index, 1.0, 0.0, normal(n))


@CALLS
@pytest.mark.parametrize("n,m,rows", [(0, 5, 7), (4, 0, 7), (0, 5, 0)])
def test_nothing(call, n, m, rows):
    for kind in ("bank", "negatives"):
        p = gathered(n, m, 3, 7, kind, torch.float32)
        if rows == 0 and kind == "bank":
            p = Gathered(p.x, p.y[:0], p.index, p.scale, p.bias, p.positive)
        results = evaluate(ops, call, p)
        for name, truth in evaluate(reference, call, p).items():
            torch.testing.assert_close(results[name].double(), truth.double(), msg=lambda text, name=name: name + text)


@FLOATS
@pytest.mark.parametrize("height,where", [(30.0, 0), (3000.0, 31), (30.0, 69), (3000.0, 69)])
def test_one_dominant_score(height, where, dtype):
    """Also when it arrives last: everything that was summed before is then measured against it."""
    s = normal(5, 70)
    s[::2, where] += height
    for call in ("negative_lse", "cross-entropy"):
        check(call, from_scores(s, dtype, bank=where == 0))


@FLOATS
@pytest.mark.parametrize("step", [50.0, -50.0, 41.5])
def test_references_raised_again_and_again(step, dtype):
    check("cross-entropy", from_scores(step * torch.arange(70.0, dtype=torch.float64) + normal(3, 70), dtype))


@FLOATS
@pytest.mark.parametrize("scale", [100.0, 1e4, -1.0, 1e-6])
def test_scales(scale, dtype):
    for call in ("negative_lse", "softplus"):
        check(call, gathered(5, 70, 20, 50, "bank", dtype, scale))


@FLOATS
def test_all_equal(dtype):
    check("cross-entropy", from_scores(torch.full((3, 70), 3.0, dtype=torch.float64), dtype), epsilons=70)


@CALLS
@pytest.mark.parametrize("value", [-INF, INF, NAN])
@pytest.mark.parametrize("side", ["x", "y"])
def test_non_finite_entries(call, value, side):
    """As torch.logsumexp, row by row, wherever in a row they stand."""
    p = gathered(20, 21, 5, 60, "bank", torch.float32)
    getattr(p, side)[3, 2] = value
    getattr(p, side)[17, 4] = value
    ours, truth = (evaluate(f, call, q, frozenset()) for f, q in ((ops, p), (reference, p.to(torch.float64))))
    torch.testing.assert_close(ours["value"], truth["value"], rtol=1e-5, atol=1e-5, equal_nan=True)


@FLOATS
def test_nan_stays_in_its_row(dtype):
    p = gathered(20, 21, 5, 60, "negatives", dtype)
    p.y[3, 20, 4] = NAN
    results = evaluate(ops, "negative_lse", p)
    others = torch.arange(20) != 3
    assert results["value"].isnan().tolist() == (~others).tolist()
    assert results["dx"][others].isfinite().all() and results["dx"][3].isnan().all()
    assert results["dy"][others].isfinite().all()


@pytest.mark.parametrize("upstream", [0.0, 1.0])
@pytest.mark.parametrize("bank", [True, False])
def test_minus_infinity_scores_pull_nowhere(upstream, bank):
    """Every score of a row −inf: the row is empty, and its gradient 0."""
    x, y = torch.zeros(2, 4, dtype=torch.float64), normal(2, 20, 4)
    x[1, 0], y[1] = 1e300, torch.tensor([-1e300, 0, 0, 0], dtype=torch.float64)
    index = torch.arange(40).reshape(2, 20) if bank else None
    x, y = x.requires_grad_(), (y.flatten(0, 1) if bank else y).requires_grad_()
    lse = ops.gathered_negative_lse(x, y, index, 1.0)
    dx, dy = torch.autograd.grad(lse, (x, y), torch.tensor([1.0, upstream], dtype=torch.float64))
    dy = dy.reshape(2, 20, 4)
    assert lse[1] == -INF and (dx[1] == 0).all() and (dy[1] == 0).all() and (dx[0] != 0).all()


@pytest.mark.parametrize("outside", [7, -1, 2**40, -(2**63), 2**32 + 3])
def test_an_index_outside_the_bank_makes_its_row_nan(outside):
    """No number comes out of it, none of another row changes, and no row of the bank gets a wrong one."""
    p = gathered(5, 40, 6, 7, "bank", torch.float32)
    truth = evaluate(ops, "negative_lse", p)
    p.index[3, 37] = outside
    results = evaluate(ops, "negative_lse", p)
    others = torch.arange(5) != 3
    assert results["value"][3].isnan() and torch.equal(results["value"][others], truth["value"][others])
    assert results["dx"][3].isnan().all() and torch.equal(results["dx"][others], truth["dx"][others])
    touched = torch.zeros(7, dtype=torch.bool)
    touched[p.index[3][p.index[3].clamp(0, 6) == p.index[3]]] = True
    assert results["dy"].isnan().any(1).tolist() == touched.tolist()
    for call in ("cross-entropy", "log-partition", "softplus", "clipped"):
        assert evaluate(ops, call, p, frozenset())["value"].isnan()


def test_an_index_into_no_bank():
    p = gathered(3, 5, 4, 7, "bank", torch.float32)
    p = Gathered(p.x, p.y[:0], p.index, p.scale, p.bias, p.positive)
    results = evaluate(ops, "negative_lse", p)
    assert results["value"].isnan().all() and results["dx"].isnan().all()
