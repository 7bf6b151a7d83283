"""Operators on two query sets: gradients apart for each argument, schemas, errors. Oracle and edges: test_ops_*.py."""

import math

import pytest
import torch
from problems import INF, problem

from mi_ext import ops, reference

raw = torch.ops.mi_ext
pytestmark = pytest.mark.usefixtures("one_thread", "parts")
OPERATORS = ["importance_statistics", "importance_fused", "importance_gradient"]
WEIGHTS = [(0.4, 0.7, 1.2), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)]


def doubles(value):
    return torch.tensor(value, dtype=torch.float64)


def arguments(operator, p, on=True):
    """Of a raw operator, by name; `on`: every flag."""
    target, x_label, y_label, v = p.exclusions
    exclusions = {"target": target, "x_label": x_label, "y_label": y_label, "candidate_log_weight": v}
    given = {"x1": p.x, "x2": p.x.flip(0), "y": p.y, "scale1": doubles(p.scale), "scale2": doubles(-0.4)} | exclusions
    if operator == "importance_statistics":
        return given
    flags = {"detach_weights": on, "candidate_gradient": on}
    if operator == "importance_fused":
        external = None if p.external is None else p.external + 1
        positives = {"external_positive1": p.external, "external_positive2": external}
        weights = {"weight1": 0.4, "weight2": 0.7, "weight_joint": 1.2}
        return given | positives | {"log_mass": torch.ones(len(p.x), dtype=torch.float64)} | weights | flags
    names = ("positive1", "positive2", "negative_lse1", "negative_lse2", "joint_lse")
    statistics = dict(zip(names, raw.importance_statistics(**given), strict=True))
    return given | statistics | {f"grad_{name}": torch.ones_like(t) for name, t in statistics.items()} | flags


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("kind", ["targets", "everything", "everything, external"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_opcheck(operator, kind, dtype):
    for on in (True, False):
        torch.library.opcheck(getattr(raw, operator), (), arguments(operator, problem(5, 9, 3, kind, dtype), on))


def separate(kind, n=6, m=11, d=4):
    """Leaves x1, x2, y, scale1, scale2 and, where there is no target, both positives."""
    p = problem(n, m, d, kind)
    leaves = [p.x, torch.randn(n, d, generator=torch.Generator().manual_seed(5), dtype=torch.float64), p.y]
    leaves += [doubles(1.3), doubles(-0.6)]
    leaves += [] if p.external is None else [p.external, p.external.flip(0)]
    return p, [t.clone().requires_grad_() for t in leaves]


@pytest.mark.parametrize("kind", ["plain", "targets", "everything", "everything, external"])
@pytest.mark.parametrize("detach", [True, False], ids=["detached", "flowing"])
@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_each_gradient_of_the_objective(kind, detach, weights):
    """Fused and recomputed, against the reference."""
    p, leaves = separate(kind)
    log_mass = torch.linspace(1, 3, len(p.x), dtype=torch.float64)

    def objective(implementation):
        external = tuple(leaves[5:]) or None
        sides = *leaves[:5], p.exclusions, external, log_mass
        loss, terms = implementation.importance_cross_entropy_sum(*sides, weights, detach)
        assert not terms.requires_grad
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        return loss.detach(), terms, *gradients

    for ours, expected in zip(objective(ops), objective(reference), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        external = tuple(leaves[5:]) or None
        value = ops.importance_cross_entropy_sum(*leaves[:5], p.exclusions, external, log_mass, weights, detach)[0]
    torch.testing.assert_close(value, objective(ops)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["plain", "targets", "everything", "everything, external"])
@pytest.mark.parametrize("detach", [True, False], ids=["detached", "flowing"])
@pytest.mark.parametrize("which", range(5))
def test_each_gradient_of_a_statistic(kind, detach, which):
    """One upstream gradient at a time, the others absent: which 0 and 1 are the positives."""
    p, leaves = separate(kind)
    leaves = leaves[:5]
    if which < 2 and p.exclusions[0] is None:
        assert ops.importance_statistics(*leaves, p.exclusions)[which] is None
        return

    def gradients(implementation):
        t = implementation.importance_statistics(*leaves, p.exclusions, detach)[which]
        total = (torch.linspace(-1, 2, len(t), dtype=torch.float64) * torch.where(t > -INF, t, 0.0)).sum()
        return torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)

    for ours, expected in zip(gradients(ops), gradients(reference), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    if which == 4 and detach:
        assert (gradients(ops)[1] == 0).all() and gradients(ops)[4] == 0


def test_gradcheck():
    p, leaves = separate("everything")
    torch.autograd.gradcheck(lambda *t: ops.importance_statistics(*t, p.exclusions), leaves)


def test_more_candidates_than_are_kept():
    """Beyond 16 MiB of scores a block of queries, they are computed twice."""
    g = torch.Generator().manual_seed(0)
    x1, x2, y = (torch.randn(k, 2, generator=g, dtype=torch.float64).requires_grad_() for k in (3, 3, 15_000))
    sides = x1, x2, y, 1.3, 0.7, (torch.arange(3), None, None, None), None, torch.full((3,), 9.0, dtype=torch.float64)
    found = [
        torch.autograd.grad(f.importance_cross_entropy_sum(*sides, (1.0, 1.0, 1.0))[0], (x1, x2, y))
        for f in (ops, reference)
    ]
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_log_weights_count_once():
    """v_j = log 2 is the candidate twice, in every partition."""
    p = problem(5, 7, 3, "plain")
    doubled = torch.zeros(7, dtype=torch.float64)
    doubled[2] = math.log(2)
    weighted = ops.importance_statistics(p.x, p.x.flip(0), p.y, 1.3, -0.6, (None, None, None, doubled))
    repeated = ops.importance_statistics(p.x, p.x.flip(0), torch.cat([p.y, p.y[2:3]]), 1.3, -0.6, (None,) * 4)
    for one, other in zip(weighted[2:], repeated[2:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def check_minus_infinity_in_one_set(which, value, dtype):
    """A score of −inf stays −inf: that of candidate 4 overflows in set `which` alone, and v_4 = value.

    The log-sum-exp of the other set is then v_4; that of `which` and the joint one leave the candidate out.
    """
    p, huge = problem(1, 40, 3, "plain", dtype), 2.0 ** (600 if dtype == torch.float64 else 100)
    sides = [p.x.clone(), p.x * 0.5, p.y.clone()]
    sides[which][:, 2], sides[1 - which][:, 2] = -huge, 0
    sides[2][:, 2] = 1 / huge
    sides[2][4, 2] = huge
    v = torch.zeros(40, dtype=torch.float64)
    v[4] = value

    def results(implementation, to):
        leaves = [t.to(to).requires_grad_() for t in sides]
        lse = implementation.importance_statistics(*leaves, 1.3, 0.7, (None, None, None, v))[2:]
        dx, dy = torch.autograd.grad(lse[which].sum(), (leaves[which], leaves[2]), retain_graph=True)
        joint = torch.autograd.grad(lse[2].sum(), leaves[which])
        others = torch.arange(40) != 4
        return [dx, dy[others], *joint, *(t.detach() for t in (lse[which], lse[2], lse[1 - which]))]

    *finite, other = truth = results(reference, torch.promote_types(dtype, torch.float32))
    assert all(t.isfinite().all() for t in finite)
    torch.testing.assert_close(other.item(), value, equal_nan=True)
    error = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for ours, expected in zip(results(ops, dtype), truth, strict=True):
        torch.testing.assert_close(ours.double(), expected.double(), rtol=error, atol=error, equal_nan=True)


def check_infinite_log_weight(value, dtype):
    """v_4 = value, and candidate 4 is a negative of every other query: the rest do not know of it."""
    p = problem(20, 40, 3, "plain", dtype)
    v = torch.zeros(40, dtype=torch.float64)
    v[4] = value
    exclusions = (None, torch.arange(20) % 2, 2 - (torch.arange(40) == 4).long(), v)

    def results(implementation, to):
        leaves = [t.detach().to(to).requires_grad_() for t in (p.x, p.x.flip(0), p.y)]
        lse = implementation.importance_statistics(*leaves, 1.3, 0.7, exclusions)[2:]
        return [*lse, *torch.autograd.grad(sum(t.sum() for t in lse), leaves)]

    error = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for ours, expected in zip(results(ops, dtype), results(reference, torch.float64), strict=True):
        torch.testing.assert_close(ours.double(), expected.double(), rtol=error, atol=error, equal_nan=True)


EDGES_OF_FLOATS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)


@EDGES_OF_FLOATS
@pytest.mark.parametrize("value", [INF, math.nan])
@pytest.mark.parametrize("which", range(2))
def test_minus_infinity_in_one_set(which, value, dtype):
    check_minus_infinity_in_one_set(which, value, dtype)


@EDGES_OF_FLOATS
@pytest.mark.parametrize("value", [INF, math.nan])
def test_infinite_log_weight(value, dtype):
    check_infinite_log_weight(value, dtype)


WRONG = [
    ("importance_statistics", {"x2": torch.zeros(4, 3, dtype=torch.float64)}, "x1 and x2 must have the same shape"),
    ("importance_statistics", {"x2": torch.zeros(5, 4, dtype=torch.float64)}, "x1 and x2 must have the same shape"),
    ("importance_statistics", {"x2": torch.zeros(5, 3)}, "must have the same dtype"),
    ("importance_statistics", {"scale2": doubles(0.0)}, "scale must be finite and not 0, but is 0"),
    ("importance_statistics", {"target": torch.tensor([0, 1, 2, 9, 0])}, "target[3] = 9"),
    ("importance_fused", {"log_mass": torch.ones(4, dtype=torch.float64)}, "log_mass must be float64 of shape [5]"),
    ("importance_fused", {"log_mass": torch.ones(5)}, "log_mass must be float64 of shape [5]"),
    ("importance_fused", {"target": None}, "either target or external_positive1 and external_positive2"),
    ("importance_fused", {"external_positive2": doubles([0.0] * 5)}, "either target or external_positive1 and"),
    ("importance_gradient", {"positive2": doubles([0.0] * 6)}, "positive2 must be float64 of shape [5]"),
    ("importance_gradient", {"joint_lse": doubles([0.0] * 6)}, "joint_lse must be float64 of shape [5]"),
    ("importance_gradient", {"grad_joint_lse": doubles([0.0] * 6)}, "grad_joint_lse must be float64 of shape [5]"),
]


@pytest.mark.parametrize("operator,changed,message", WRONG)
def test_errors(operator, changed, message):
    with pytest.raises(RuntimeError) as error:
        getattr(raw, operator)(**arguments(operator, problem(5, 9, 3, "targets")) | changed)
    assert f"mi_ext::{operator}: " in str(error.value) and message in str(error.value)


def test_gradient_of_log_weights_is_an_error():
    p = problem(5, 9, 3, "log-weights")
    p.exclusions[3].requires_grad_()
    with pytest.raises(ValueError, match="candidate_log_weight"):
        ops.importance_statistics(p.x, p.x, p.y, p.scale, p.scale, p.exclusions)
