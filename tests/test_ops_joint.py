"""The joint operators against the dense reference in float64, and at the edges."""

import math
from dataclasses import replace

import pytest
import torch
from joint_problems import (
    CALLS,
    EXCLUSIONS,
    INF,
    NAMES,
    SHAPES,
    SMALL_SHAPES,
    check,
    evaluate,
    expected,
    from_scores,
    normal,
    problem,
)
from problems import DTYPES, LAYOUTS, excluded_log_weights, laid_out, wide

from mi_ext import _C, ops, reference

one_thread = pytest.mark.usefixtures("one_thread")
LAYERS = pytest.mark.parametrize("layers", [1, 2], ids=["one layer", "two layers"])
FLOATS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
EVERY_CALL = pytest.mark.parametrize("call", CALLS)
COMPLETE = [isa for isa in _C.available_isas() if not isa.endswith(("+bf16", "+amx"))]
WITH_GRADIENT = [call for call in CALLS if call != "clipped"]


@one_thread
@EVERY_CALL
@LAYERS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("isa", COMPLETE, indirect=True)
def test_values_and_gradients(call, layers, dtype, isa):
    """16-bit inputs are widened and then take the way of float32."""
    for k, shape in enumerate(SHAPES if dtype == wide(dtype) else SMALL_SHAPES):
        e = expected(call, shape, layers, EXCLUSIONS[k % len(EXCLUSIONS)], dtype)
        e.judge(evaluate(ops, call, e.problem))


@one_thread
@EVERY_CALL
@LAYERS
@pytest.mark.parametrize("kind", EXCLUSIONS)
def test_exclusions(call, layers, kind):
    for dtype in (torch.float64, torch.float32):
        check(call, problem(33, 61, 20, layers, kind, dtype))


@one_thread
@EVERY_CALL
@FLOATS
def test_units_that_round(call, dtype):
    """One layer of any numbers: a_i + b_j is compared, not computed, so its sign is exact in every dtype."""
    for h in (40, 300):
        p = problem(40, 70, h, 1, "everything", dtype)
        check(call, replace(p, **{k: normal(*t.shape, seed=h).to(dtype) for k, t in (("a", p.a), ("b", p.b))}))


@EVERY_CALL
@LAYERS
def test_threads(call, layers, threads):
    check(call, problem(1, 300, 9, layers, "everything", torch.float64))
    check(call, problem(100, 20, 9, layers, "everything", torch.float32))


@EVERY_CALL
@LAYERS
def test_repeatable(call, layers, threads):
    p = problem(70, 130, 33, layers, "everything", torch.float32)
    first, again = evaluate(ops, call, p), evaluate(ops, call, p)
    assert all(torch.equal(first[name], again[name]) for name in first)


@one_thread
@EVERY_CALL
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(call, layout):
    for name in ("a", "b", "inner_weight"):
        if layout.startswith("expanded") and name == "inner_weight":
            continue
        p = problem(13, 29, 20, 2, "everything", torch.float32)
        check(call, replace(p, **{name: laid_out(getattr(p, name), layout)}), epsilons=16)


@one_thread
@pytest.mark.parametrize("call", ["cross-entropy", "log-partition"])
def test_more_candidates_than_a_block_can_keep(call):
    """Beyond 64 MiB of scores a block of queries, the fused gradient takes two walks."""
    check(call, problem(2, 400_000, 3, 1), epsilons=4096)  # of sums over as many candidates


# Edges --------------------------------------------------------------------------------------------------------------


@one_thread
@FLOATS
@EVERY_CALL
@LAYERS
@pytest.mark.parametrize("n,m", [(0, 5), (0, 0)])
def test_nothing(call, layers, n, m, dtype):
    p = problem(1, 5, 3, layers, dtype=dtype)
    p = replace(p, a=p.a[:n], b=p.b[:m], exclusions=(torch.zeros(n, dtype=torch.int64), None, None, None))
    results = evaluate(ops, call, p)
    for name, value in evaluate(reference, call, p).items():
        torch.testing.assert_close(results[name].double(), value.double(), msg=lambda text, name=name: name + text)


@one_thread
@LAYERS
@pytest.mark.parametrize("call", [call for call in CALLS if call not in ("softplus", "matrix")])
@pytest.mark.parametrize("value", [INF, math.nan])
def test_log_weights_of_excluded_candidates(call, value, layers):
    p = problem(20, 41, 9, layers, dtype=torch.float32)
    check(call, replace(p, exclusions=excluded_log_weights(20, 41, value)))


@one_thread
@FLOATS
@pytest.mark.parametrize("call", WITH_GRADIENT)
@LAYERS
@pytest.mark.parametrize("why", ["labels", "log-weights", "only the positive", "labels of some rows"])
def test_everything_excluded(call, layers, why, dtype):
    """−inf, and a gradient of 0 from the negatives, never NaN."""
    p = problem(20, 1 if why == "only the positive" else 33, 5, layers, dtype=dtype)
    labels = torch.ones(20, dtype=torch.int64), torch.ones(len(p.b), dtype=torch.int64)
    labels[0][:: 3 if why == "labels of some rows" else 100] = 0 if why == "labels of some rows" else 1
    v = torch.full((len(p.b),), -INF, dtype=torch.float64)
    target = p.exclusions[0]
    exclusions = {"only the positive": (target, None, None, None), "log-weights": (target, None, None, v)}
    p = replace(p, exclusions=exclusions.get(why, (target, *labels, None)))
    results = evaluate(ops, call, p)
    for name, value in results.items():
        assert not value.isnan().any(), name
    if "negative_lse" in results:
        excluded = labels[0] == 1 if why == "labels of some rows" else torch.ones(20, dtype=torch.bool)
        assert (results["negative_lse"][excluded] == -INF).all()
    if call != "cross-entropy, decoupled":
        check(call, p)


@one_thread
@FLOATS
@EVERY_CALL
@pytest.mark.parametrize("height", [30.0, 3000.0])
@pytest.mark.parametrize("where", [0, 149])
def test_one_dominant_score(call, height, where, dtype):
    s = normal(20, 150)
    s[::2, where] += height
    check(call, from_scores(s, dtype))
    check(call, from_scores(s.T.contiguous(), dtype))


@one_thread
@FLOATS
@EVERY_CALL
@pytest.mark.parametrize("step", [50.0, -50.0, 41.5])
def test_references_raised_again_and_again(call, step, dtype):
    """Rows, or columns, that exceed the last by about 60 ln 2 = 41.6, the range of a slot's reference."""
    s = step * torch.arange(130.0, dtype=torch.float64) + normal(20, 130)
    check(call, from_scores(s, dtype))
    check(call, from_scores(s.T.contiguous(), dtype))


@one_thread
@FLOATS
@EVERY_CALL
@LAYERS
@pytest.mark.parametrize("scale", [1e4, 1e-6, 0.0])
def test_scales(call, layers, scale, dtype):
    """All equal scores, at scale 0, are rounded the same way each."""
    check(call, problem(33, 61, 20, layers, "targets", dtype, scale), epsilons=0 if scale else 96)


@one_thread
@FLOATS
@pytest.mark.parametrize("margin", [20.0, 46.0, 80.0])
def test_tiny_losses(margin, dtype):
    """Losses from 1e-4 to 1e-20, where dense torch has 0 from 1e-8 (float32) or 1e-16 on."""
    p = from_scores(margin * torch.eye(50, dtype=torch.float64) + normal(50, 50), dtype)
    ours, truth = (evaluate(f, "cross-entropy", q) for f, q in ((ops, p), (reference, p.to(torch.float64))))
    assert 0 < truth["loss"] < 50 * math.exp(-margin / 2)
    for name in ("loss", "da", "db"):
        assert (ours[name] - truth[name]).norm() <= 1e-4 * truth[name].norm(), name


@one_thread
@FLOATS
@EVERY_CALL
@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("layers,value", [(1, INF), (1, -INF), (1, math.nan), (2, -INF), (2, math.nan)])
def test_non_finite_entries(call, layers, name, value, dtype):
    """Statistics follow torch.logsumexp row by row, and what is excluded is not looked at.

    Not +inf with two layers: times weights of both signs it is NaN or not by the order of the sum.
    """
    p = problem(20, 41, 9, layers, "everything", dtype)
    tensor = getattr(p, name).clone()
    tensor[3, 2], tensor[17, 4] = value, value
    p = replace(p, **{name: tensor})
    ours, truth = (evaluate(f, call, q, False) for f, q in ((ops, p), (reference, p.to(torch.float64))))
    for key, expected_value in truth.items():
        torch.testing.assert_close(ours[key].double(), expected_value, rtol=1e-5, atol=1e-5, equal_nan=True)


@one_thread
@FLOATS
@LAYERS
def test_nan_stays_in_its_row(layers, dtype):
    p = problem(60, 41, 9, layers, dtype=dtype)
    a = p.a.clone()
    a[3, 2] = math.nan
    results = evaluate(ops, "statistics", replace(p, a=a))
    others = torch.arange(60) != 3
    assert results["negative_lse"].isnan().tolist() == (~others).tolist()
    assert results["da"][others].isfinite().all()


def test_names_cover_the_network():
    assert set(NAMES) == set(problem(2, 2, 2, 2).tensors)
