"""Walks over joint scores at the edges: nothing to sum, one score above all, huge and non-finite ones."""

import math
from dataclasses import replace

import pytest
import torch
from joint_problems import CALLS, INF, Expected, check, evaluate, from_scores, normal, problem
from problems import excluded_log_weights

from mi_ext import ops, reference

pytestmark = pytest.mark.usefixtures("joint_walks")
LAYERS = pytest.mark.parametrize("layers", [1, 2], ids=["one layer", "two layers"])
SOME_CALLS = pytest.mark.parametrize("call", ["statistics with columns", "cross-entropy", "log-partition", "softplus"])


@LAYERS
@pytest.mark.parametrize("call", CALLS)
def test_nothing(call, layers):
    p = problem(1, 5, 3, layers, dtype=torch.float32)
    p = replace(p, a=p.a[:0], exclusions=(torch.zeros(0, dtype=torch.int64), None, None, None))
    results = evaluate(ops, call, p)
    for name, value in evaluate(reference, call, p).items():
        torch.testing.assert_close(results[name].double(), value.double(), msg=lambda text, name=name: name + text)


@LAYERS
def test_no_candidates(layers, joint_walks):
    p = problem(4, 5, 3, layers, dtype=torch.float32)
    tensors = p.a, p.b[:0], p.inner_weight, p.inner_bias, p.last_weight
    _, lse, column_lse = joint_walks.joint_statistics(*tensors, None, None, None, None, True)
    assert (lse == -INF).all() and len(column_lse) == 0
    none, rows = torch.empty(0, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    da, *_ = joint_walks.joint_gradient(*tensors, None, None, None, None, lse, none, none, rows, none)
    assert (da == 0).all()


@LAYERS
@SOME_CALLS
@pytest.mark.parametrize("why", ["labels", "log-weights"])
def test_everything_excluded(call, layers, why):
    """−inf, and a gradient of 0 from the negatives, never NaN."""
    p = problem(7, 9, 5, layers, dtype=torch.float32)
    labels = torch.ones(7, dtype=torch.int64), torch.ones(9, dtype=torch.int64)
    v = torch.full((9,), -INF, dtype=torch.float64)
    excluded = (None, None, v) if why == "log-weights" else (*labels, None)
    p = replace(p, exclusions=(p.exclusions[0], *excluded))
    results = evaluate(ops, call, p)
    assert not any(value.isnan().any() for value in results.values())
    if "negative_lse" in results:
        assert (results["negative_lse"] == -INF).all() and (results["column_negative_lse"] == -INF).all()
    Expected.of(call, p).judge(results)


@pytest.mark.parametrize("height,dtype", [(30.0, torch.float32), (3000.0, torch.float32), (3000.0, torch.float64)])
@pytest.mark.parametrize("call", ["statistics with columns", "cross-entropy"])
def test_one_dominant_score(call, height, dtype):
    s = normal(20, 70)
    s[::2, 64] += height
    check(call, from_scores(s, dtype))


@pytest.mark.parametrize("margin", [20.0, 80.0])
def test_tiny_losses(margin):
    """Down to 1e-20, where dense float32 has 0."""
    p = from_scores(margin * torch.eye(30, dtype=torch.float64) + normal(30, 30), torch.float32)
    ours, truth = (evaluate(f, "cross-entropy", q) for f, q in ((ops, p), (reference, p.to(torch.float64))))
    assert 0 < truth["loss"] < 30 * math.exp(-margin / 2)
    for name in ("loss", "da", "db"):
        assert (ours[name] - truth[name]).norm() <= 1e-4 * truth[name].norm(), name


@SOME_CALLS
@pytest.mark.parametrize("scale", [1e4, 0.0])
def test_scales(call, scale):
    check(call, problem(9, 40, 5, 1, "targets", torch.float32, scale), epsilons=0 if scale else 96)


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("layers,value", [(1, INF), (1, -INF), (1, math.nan), (2, -INF), (2, math.nan)])
def test_non_finite_entries(name, layers, value):
    """Statistics follow torch.logsumexp row by row, and what is excluded is not looked at."""
    p = problem(20, 41, 9, layers, "everything", torch.float64 if math.isnan(value) else torch.float32)
    tensor = getattr(p, name).clone()
    tensor[3, 2], tensor[17, 4] = value, value
    p = replace(p, **{name: tensor})
    for call in ("statistics with columns", "softplus"):
        ours, truth = (evaluate(f, call, q, False) for f, q in ((ops, p), (reference, p.to(torch.float64))))
        for key, expected in truth.items():
            torch.testing.assert_close(ours[key].double(), expected, rtol=1e-5, atol=1e-5, equal_nan=True)


@LAYERS
@pytest.mark.parametrize("call", [call for call in CALLS if call not in ("softplus", "matrix")])
@pytest.mark.parametrize("value", [INF, math.nan])
def test_log_weights_of_excluded_candidates(call, value, layers):
    p = problem(20, 41, 9, layers, dtype=torch.float32)
    check(call, replace(p, exclusions=excluded_log_weights(20, 41, value)))


@LAYERS
def test_nan_stays_in_its_row(layers):
    p = problem(20, 41, 9, layers, dtype=torch.float32)
    p.a[3, 2] = math.nan
    results = evaluate(ops, "statistics", p)
    others = torch.arange(20) != 3
    assert results["negative_lse"].isnan().tolist() == (~others).tolist()
    assert results["da"][others].isfinite().all()


def test_a_target_outside_the_candidates_has_no_positive(joint_walks):
    p = problem(5, 7, 3, 1, dtype=torch.float32)
    tensors = p.a, p.b, None, None, p.last_weight
    target = torch.tensor([0, 7, -1, 2**40, 6])
    positive, lse, _ = joint_walks.joint_statistics(*tensors, target, None, None, None, False)
    assert positive.isnan().tolist() == [False, True, True, True, False]
    assert lse.isfinite().all()
    loss, *_ = joint_walks.joint_fused(*tensors, target, None, None, None, 0.0, 0.0, False)
    assert loss.isnan()
