"""Operators at the edges: nothing to sum, one score above all, huge, tiny and non-finite ones."""

import math
from dataclasses import replace

import pytest
import torch
from problems import (
    CALLS,
    INF,
    LOG_WEIGHT_GRADIENT,
    Problem,
    check,
    evaluate,
    excluded_log_weights,
    from_scores,
    moved,
    problem,
)

from mi_ext import ops, reference

pytestmark = pytest.mark.usefixtures("one_thread", "device", "parts")
FLOATS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
ALL_FLOATS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
EVERY_CALL = pytest.mark.parametrize("call", CALLS)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def without_nan(results):
    for name, value in results.items():
        assert not value.isnan().any(), name


@FLOATS
@EVERY_CALL
@pytest.mark.parametrize("n,m", [(0, 5), (4, 0), (0, 0)])
def test_nothing(call, n, m, dtype):
    target = torch.zeros(0, dtype=torch.int64) if n == 0 and m > 0 else None
    external = None if target is not None else normal(n)
    p = Problem(normal(n, 3).to(dtype), normal(m, 3).to(dtype), 1.3, 0.2, (target, None, None, None), external)
    results = evaluate(ops, call, p)
    for name, expected in evaluate(reference, call, p).items():
        torch.testing.assert_close(results[name].double(), expected.double(), msg=lambda text, name=name: name + text)
    without_nan(results)
    assert all((results[name] == 0).all() for name in results if name in ("dx", "dy", "dscale", "dbias"))


@FLOATS
@EVERY_CALL
@pytest.mark.parametrize("why", ["labels", "log-weights", "only the positive", "labels of some rows"])
def test_everything_excluded(call, why, dtype):
    """−inf, and a gradient of 0, never NaN."""
    n, m = (20, 1) if why == "only the positive" else (20, 33)
    labels = (torch.ones(n, dtype=torch.int64), torch.ones(m, dtype=torch.int64))
    if why == "labels of some rows":
        labels[0][::3] = 0
    exclusions = {
        "labels": (None, *labels, None),
        "labels of some rows": (None, *labels, None),
        "log-weights": (None, None, None, torch.full((m,), -INF, dtype=torch.float64)),
        "only the positive": (torch.zeros(n, dtype=torch.int64), None, None, None),
    }[why]
    external = normal(n) if exclusions[0] is None else None
    p = Problem(normal(n, 5).to(dtype), normal(m, 5, seed=1).to(dtype), 1.3, -0.2, exclusions, external)
    wanted = {"x", "y", "scale", "bias", "external"}
    for asked in (wanted, wanted - {"y"}, wanted | {"v"} if call in LOG_WEIGHT_GRADIENT else wanted):
        results = evaluate(ops, call, p, frozenset(asked))
        without_nan(results)
        if "negative_lse" in results:
            excluded = labels[0] == 1 if why == "labels of some rows" else torch.ones(n, dtype=torch.bool)
            assert (results["negative_lse"][excluded] == -INF).all()
            if exclusions[0] is None:
                assert (results["dx"][excluded] == 0).all()
    if call != "cross-entropy, decoupled":
        check(call, p)


@FLOATS
@pytest.mark.parametrize("asked", [{"x", "y", "scale"}, {"x"}, {"x", "v"}], ids=lambda names: " ".join(sorted(names)))
def test_a_row_without_negatives_pulls_nowhere(asked, dtype):
    """−inf − p_i, where the positive is in no denominator: gradient 0, whichever way the gradient is computed."""
    log_weight = torch.full((4,), -INF, dtype=torch.float64)
    x, y = (moved(normal(rows, 2).to(dtype)).requires_grad_(k in asked) for k, rows in (("x", 3), ("y", 4)))
    exclusions = moved(torch.arange(3)), None, None, moved(log_weight).requires_grad_("v" in asked)
    loss = ops.dot_cross_entropy_sum(x, y, 1.3, exclusions, None, -INF, 0.0)
    assert loss == -INF
    loss.backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


@ALL_FLOATS
@EVERY_CALL
@pytest.mark.parametrize("height", [30.0, 300.0, 3000.0])
@pytest.mark.parametrize("where", [0, 95, 96, 149])
def test_one_dominant_score(call, height, where, dtype):
    """Also when it arrives last: everything that was summed before is then measured against it."""
    s = normal(110, 150)
    s[::2, where] += height
    check(call, from_scores(s, dtype))
    check(call, from_scores(s.T.contiguous(), dtype))
    check(call, from_scores(s, dtype), frozenset({"x", "scale"}))


@ALL_FLOATS
@EVERY_CALL
@pytest.mark.parametrize("step", [50.0, -50.0, 41.5])
def test_references_raised_again_and_again(call, step, dtype):
    """Each column exceeds the last by more than 60 ln 2 = 41.6, the range of a lazy reference, or by just less."""
    s = step * torch.arange(130.0, dtype=torch.float64) + normal(100, 130)
    for p in (from_scores(s, dtype), from_scores(s.T.contiguous(), dtype)):
        check(call, p)
        check(call, p, frozenset({"x"}))


@ALL_FLOATS
@EVERY_CALL
def test_all_equal(call, dtype):
    """Equal terms are all rounded the same way, so over a run of 96 of them, the engine's longest, errors add up."""
    check(call, from_scores(torch.full((97, 101), 3.0), dtype), epsilons=96)
    check(call, from_scores(torch.zeros(97, 101), dtype), epsilons=96)


@ALL_FLOATS
@EVERY_CALL
@pytest.mark.parametrize("scale", [100.0, 1e4, -1.0, -100.0, 1e-6])
def test_scales(call, scale, dtype):
    check(call, problem(70, 90, 20, "targets", dtype, scale))
    check(call, problem(70, 90, 20, "everything, external", dtype, scale), frozenset({"x", "scale", "external"}))


@FLOATS
@pytest.mark.parametrize("margin", [20.0, 46.0, 80.0])
@pytest.mark.parametrize("asked", [{"x", "y"}, {"x"}, {"x", "y", "v"}], ids=lambda names: " ".join(sorted(names)))
def test_tiny_losses(margin, asked, dtype):
    """Loss and gradient of e^{−46} = 1e-20 to 1e-4, where dense torch has 0 from 1e-8 (float32) or 1e-16 on."""
    y = torch.nn.functional.normalize(normal(50, 16), dim=1).to(dtype)
    x = 3 * y
    scale = (margin + math.log(50)) / 3
    v = torch.zeros(50, dtype=torch.float64)
    target = torch.arange(50)
    truth, gradient = tiny_loss(reference, x.double(), y.double(), scale, target, v, asked)
    loss, ours = tiny_loss(ops, moved(x), moved(y), scale, moved(target), moved(v), asked)
    assert 0 < truth.item() < 50 * math.exp(-margin / 4)
    torch.testing.assert_close(loss.cpu(), truth, rtol=1e-4, atol=0)
    for g, expected in zip(ours, gradient, strict=True):
        assert (g.cpu().double() - expected).norm() <= 1e-4 * expected.norm()


def tiny_loss(implementation, x, y, scale, target, v, asked):
    x, y, v = (t.clone().requires_grad_(k in asked) for k, t in (("x", x), ("y", y), ("v", v)))
    loss = implementation.dot_cross_entropy_sum(x, y, scale, (target, None, None, v), None, 0.0, 0.0)
    return loss.detach(), torch.autograd.grad(loss, [t for t in (x, y, v) if t.requires_grad])


SPECIAL = [-INF, INF, math.nan]


@ALL_FLOATS
@EVERY_CALL
@pytest.mark.parametrize("value", SPECIAL)
@pytest.mark.parametrize("side", ["x", "y"])
@pytest.mark.parametrize("kind", ["targets", "everything", "everything, external"])
def test_non_finite_entries(call, value, side, kind, dtype):
    """Statistics follow torch.logsumexp row by row, and what is excluded is not looked at."""
    p = problem(20, 41, 5, kind, dtype)
    getattr(p, side)[3, 2] = value
    getattr(p, side)[17, 4] = value
    if p.exclusions[3] is not None:
        p.exclusions[3][3] = -INF
    ours, truth = (evaluate(f, call, q, frozenset()) for f, q in ((ops, p), (reference, p.to(torch.float64))))
    for name, expected in truth.items():
        message = f"{name}: {ours[name]}, expected {expected}"
        torch.testing.assert_close(ours[name], expected, rtol=1e-5, atol=1e-5, equal_nan=True, msg=message)


@ALL_FLOATS
def test_nan_stays_in_its_row(dtype):
    p = problem(20, 41, 5, "plain", dtype)
    p.x[3, 2] = math.nan
    results = evaluate(ops, "statistics", p)
    others = torch.arange(20) != 3
    assert results["negative_lse"].isnan().tolist() == (~others).tolist()
    assert results["dx"][others].isfinite().all()
    p.y[7, 0] = math.nan
    assert evaluate(ops, "statistics", p)["negative_lse"].isnan().all()


@ALL_FLOATS
@pytest.mark.parametrize("call", [call for call in CALLS if call != "clipped"])
@pytest.mark.parametrize("value", [60.0, 20.0, -100.0])
def test_large_log_weights(call, value, dtype):
    """Up to e^60: in a softplus sum they multiply, and float32 ends at e^88."""
    p = problem(30, 50, 5, "log-weights", dtype)
    p.exclusions[3][::4] = value
    check(call, p)


@ALL_FLOATS
@pytest.mark.parametrize("call", [call for call in CALLS if call != "softplus"])
@pytest.mark.parametrize("value", [INF, math.nan])
def test_log_weights_of_excluded_candidates(call, value, dtype):
    p = problem(30, 50, 5, "targets", dtype)
    check(call, replace(p, exclusions=excluded_log_weights(30, 50, value)))


@ALL_FLOATS
@pytest.mark.parametrize("call", [call for call in CALLS if call.startswith("log-partition")])
@pytest.mark.parametrize("order", ["up", "down", "shuffled"])
@pytest.mark.parametrize("asked", [{"x", "y", "scale", "external"}, {"x"}], ids=lambda names: " ".join(sorted(names)))
def test_global_partition_of_rows_far_apart(call, order, asked, dtype):
    """Log-sum-exps that differ by thousands, over several blocks of queries."""
    height = torch.linspace(-4000, 4000, 400, dtype=torch.float64)
    if order == "down":
        height = height.flip(0)
    elif order == "shuffled":
        height = height[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    check(call, from_scores(normal(400, 30) + height[:, None], dtype), frozenset(asked))


@FLOATS
def test_global_partition_where_only_positives_count(dtype):
    s = normal(200, 200) - 300 + 500 * torch.eye(200)
    check("log-partition", from_scores(s, dtype))


@FLOATS
@pytest.mark.parametrize("tau", [1e-6, 1.0, 1e4, INF])
def test_clips(tau, dtype):
    p = problem(30, 50, 5, "everything", dtype, scale=20.0)
    sides, arguments = (moved(p.x), moved(p.y)), (p.scale, p.bias)
    ours = ops.dot_clipped_log_partition(*sides, *arguments, tuple(map(moved, p.exclusions)), tau)
    truth = reference.dot_clipped_log_partition(p.x.double(), p.y.double(), *arguments, p.exclusions, tau)
    torch.testing.assert_close(ours.cpu(), truth, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0)
