"""Walks at the edges: nothing to sum, one score above all, huge and non-finite ones."""

import math
from dataclasses import replace

import pytest
import torch
from problems import CALLS, INF, Problem, check, evaluate, excluded_log_weights, from_scores, problem

from mi_ext import ops, reference

pytestmark = pytest.mark.usefixtures("walks")
FLOATS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@FLOATS
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("n,m", [(0, 5), (4, 0)])
def test_nothing(call, n, m, dtype):
    target = torch.zeros(0, dtype=torch.int64) if n == 0 else None
    external = None if target is not None else normal(n)
    p = Problem(normal(n, 3).to(dtype), normal(m, 3).to(dtype), 1.3, 0.2, (target, None, None, None), external)
    results = evaluate(ops, call, p)
    for name, expected in evaluate(reference, call, p).items():
        torch.testing.assert_close(results[name].double(), expected.double(), msg=lambda text, name=name: name + text)


@FLOATS
@pytest.mark.parametrize("call", ["statistics with columns", "cross-entropy", "log-partition", "softplus"])
@pytest.mark.parametrize("why", ["labels", "log-weights", "only the positive"])
def test_everything_excluded(call, why, dtype):
    """−inf, and a gradient of 0, never NaN."""
    n, m = (20, 1) if why == "only the positive" else (20, 33)
    exclusions = {
        "labels": (None, torch.ones(n, dtype=torch.int64), torch.ones(m, dtype=torch.int64), None),
        "log-weights": (None, None, None, torch.full((m,), -INF, dtype=torch.float64)),
        "only the positive": (torch.zeros(n, dtype=torch.int64), None, None, None),
    }[why]
    external = normal(n) if exclusions[0] is None else None
    p = Problem(normal(n, 5).to(dtype), normal(m, 5, seed=1).to(dtype), 1.3, -0.2, exclusions, external)
    results = evaluate(ops, call, p)
    for name, value in results.items():
        assert not value.isnan().any(), name
    if "negative_lse" in results:
        assert (results["negative_lse"] == -INF).all()
    if exclusions[0] is None:
        assert (results["dx"] == 0).all()
    check(call, p)


@FLOATS
@pytest.mark.parametrize("height", [10.0, 100.0, 1000.0])
@pytest.mark.parametrize("call", ["statistics", "cross-entropy"])
def test_scores_that_rise_from_tile_to_tile(call, height, dtype):
    """References of running sums follow only where they have to."""
    n, m, d = 20, 270, 128
    x, y = 0.1 * normal(n, d), normal(m, d, seed=1)
    x[:, 0], y[:, 0] = 1, height * (torch.arange(m) // 90)
    check(call, Problem(x.to(dtype), y.to(dtype), 1.0, 0.0, (torch.arange(n), None, None, None), None))


@FLOATS
@pytest.mark.parametrize("height", [30.0, 300.0, 3000.0])
@pytest.mark.parametrize("where", [0, 64, 70])
def test_one_dominant_score(height, where, dtype):
    s = normal(20, 71)
    s[::2, where] += height
    for call in ("statistics with columns", "cross-entropy"):
        check(call, from_scores(s, dtype))


@FLOATS
@pytest.mark.parametrize("scale", [100.0, 1e4, -1.0, -100.0])
@pytest.mark.parametrize("call", ["statistics with columns", "cross-entropy", "softplus"])
def test_scales(call, scale, dtype):
    check(call, problem(20, 90, 16, "targets", dtype, scale))


@FLOATS
def test_all_equal(dtype):
    check("statistics with columns", from_scores(torch.full((17, 71), 3.0), dtype), epsilons=96)


@FLOATS
@pytest.mark.parametrize("value", [-INF, INF, math.nan])
def test_special_values_stay_in_their_rows(value, dtype):
    """Of x: as torch.logsumexp, whatever the other rows hold."""
    x, y = normal(20, 3).to(dtype), normal(70, 3, seed=1).abs().to(dtype)
    x[5, 1] = value
    exclusions = (None, None, None, None)
    ours = ops.dot_statistics(x, y, 1.3, exclusions)[1]
    truth = reference.dot_statistics(x.double(), y.double(), 1.3, exclusions)[1]
    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-5, equal_nan=True)


@FLOATS
def test_an_excluded_candidate_may_hold_anything(dtype):
    x, y = normal(20, 3).to(dtype), normal(70, 3, seed=1).to(dtype)
    log_weight = torch.zeros(70, dtype=torch.float64)
    log_weight[7] = -INF
    y[7] = math.nan
    lse = ops.dot_statistics(x, y, 1.3, (None, None, None, log_weight))[1]
    value, _ = ops.dot_softplus_sum(x, y, 1.3, 0.1, (None, None, None, log_weight))
    keep = torch.arange(70) != 7
    truth = reference.dot_statistics(x.double(), y[keep].double(), 1.3, (None, None, None, None))[1]
    torch.testing.assert_close(lse, truth, rtol=1e-5, atol=1e-5)
    assert value.isfinite()


def test_a_target_outside_the_candidates_has_no_positive(walks):
    x, y = normal(5, 3).float(), normal(7, 3, seed=1).float()
    target = torch.tensor([0, 7, -1, 2**40, 6])
    one = torch.ones((), dtype=torch.float64)
    positive, lse, _ = walks.dot_statistics(x, y, one, target, None, None, None, False)
    assert positive.isnan().tolist() == [False, True, True, True, False]
    assert lse.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_small_weights_are_not_flushed(dtype, walks):
    """float16 has no number below 6e-8; the weights of 600 candidates, times 1e-6, lie there."""
    x, y = (normal(8, 16) / 4).to(dtype), (normal(600, 16, seed=1) / 4).to(dtype)
    upstream = torch.full((8,), 1e-6, dtype=torch.float64)
    a, b = x.double().requires_grad_(), y.double().requires_grad_()
    lse = reference.dot_statistics(a, b, 1.0, (None, None, None, None))[1]
    truth = torch.autograd.grad((upstream * lse).sum(), (a, b))
    none = torch.empty(0, dtype=torch.float64)
    statistics = none, lse.detach(), none, none, upstream, none
    one = torch.ones((), dtype=torch.float64)
    ours = walks.dot_gradient(x, y, one, None, None, None, None, *statistics, True)
    for gradient, expected in zip(ours, truth, strict=False):
        assert (gradient - expected).norm() <= torch.finfo(dtype).eps * expected.norm()


@FLOATS
@pytest.mark.parametrize("call", [call for call in CALLS if call != "softplus"])
@pytest.mark.parametrize("value", [INF, math.nan])
def test_log_weights_of_excluded_candidates(call, value, dtype):
    p = problem(20, 70, 5, "targets", dtype)
    check(call, replace(p, exclusions=excluded_log_weights(20, 70, value)))
