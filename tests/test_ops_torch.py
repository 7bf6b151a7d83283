"""Operators as citizens of torch: schemas, fakes, gradients, torch.compile, errors."""

import math

import pytest
import torch
from problems import CALLS, INF, evaluate, problem
from test_importance_ops import OPERATORS as ON_TWO_QUERY_SETS

from mi_ext import DotScores, bounds, losses, ops

raw = torch.ops.mi_ext
pytestmark = pytest.mark.usefixtures("one_thread")
OPERATORS = ["dot_statistics", "dot_clipped_lse", "dot_fused", "dot_gradient", "dot_softplus_sum", "dot_ranking"]


def doubles(value):
    return torch.tensor(value, dtype=torch.float64)


def arguments(operator, p, on=True):
    """Of a raw operator, by name; `on`: every flag."""
    target, x_label, y_label, v = p.exclusions
    given = {"x": p.x, "y": p.y, "scale": doubles(p.scale)}
    exclusions = {"target": target, "x_label": x_label, "y_label": y_label, "candidate_log_weight": v}
    if operator == "dot_statistics":
        return given | exclusions | {"columns": on}
    if operator == "dot_clipped_lse":
        return given | {"bias": doubles(0.3)} | exclusions | {"clip": 2.0}
    if operator == "dot_softplus_sum":
        return given | {"bias": doubles(0.3)} | exclusions | {"query_gradient": on, "candidate_gradient": on}
    if operator == "dot_ranking":
        return given | exclusions | {"external_positive": p.x.flip(0) if target is None else None}
    if operator == "dot_fused":
        weights = {"positive_log_weight": 0.1, "negative_log_weight": -0.2, "global_partition": on}
        return given | exclusions | {"external_positive": p.external} | weights | {"candidate_gradient": on}
    names = ("positive", "negative_lse", "column_negative_lse")
    statistics = dict(zip(names, raw.dot_statistics(p.x, p.y, doubles(p.scale), *p.exclusions, on), strict=True))
    upstream = {f"grad_{name}": torch.ones_like(t) for name, t in statistics.items()}
    return given | exclusions | statistics | upstream | {"candidate_gradient": on}


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("kind", ["targets", "everything", "everything, external"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_opcheck(operator, kind, dtype):
    for on in (True, False):
        p = problem(5, 9, 3, kind, dtype)
        torch.library.opcheck(getattr(raw, operator), (), arguments(operator, p, on))


def test_opcheck_covers_every_operator():
    schemas = [
        schema.name
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith(("mi_ext::dot_", "mi_ext::importance_"))
    ]
    assert sorted(schemas) == sorted(f"mi_ext::{operator}" for operator in OPERATORS + ON_TWO_QUERY_SETS)


@pytest.mark.parametrize("call", [call for call in CALLS if call != "clipped"])
@pytest.mark.parametrize("kind", ["plain", "targets", "labels", "everything", "everything, external"])
@pytest.mark.parametrize("candidates", [True, False], ids=["dx and dy", "dx"])
def test_gradcheck(call, kind, candidates):
    p = problem(4, 6, 3, kind)
    inputs = {"x": p.x, "scale": doubles(p.scale)} | ({"y": p.y} if candidates else {})
    inputs |= {"bias": doubles(p.bias)} if call == "softplus" else {}
    inputs |= {"external": p.external} if call.split(",")[0] in ("cross-entropy", "log-partition") else {}
    inputs = {k: t.clone().requires_grad_() for k, t in inputs.items() if t is not None}

    def function(*values):
        leaves = {"x": p.x, "y": p.y, "scale": p.scale, "bias": p.bias, "external": p.external, "v": p.exclusions[3]}
        results = CALLS[call](ops, p, leaves | dict(zip(inputs, values, strict=True)))
        return tuple(torch.where(t > -INF, t, 0.0) for t in results.values() if t is not None)

    torch.autograd.gradcheck(function, list(inputs.values()))


@pytest.mark.parametrize("call", [call for call in CALLS if call != "clipped"])
@pytest.mark.parametrize("depends", [True, False], ids=["variable upstream", "constant upstream"])
def test_second_derivative_is_an_error(call, depends):
    """Never silence: a gradient penalty without its gradient would train something else."""
    p = problem(4, 6, 3)
    x, y = p.x.requires_grad_(), p.y.requires_grad_()
    leaves = {"x": x, "y": y, "scale": p.scale, "bias": p.bias, "external": None, "v": None}
    result = next(t for name, t in CALLS[call](ops, p, leaves).items() if name != "positive")
    upstream = torch.ones_like(result, requires_grad=depends)
    (gradient,) = torch.autograd.grad((upstream * result).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="twice|second derivative"):
        (gradient.square().sum() + x.sum()).backward()  # x.sum(): a term that has a gradient, whatever becomes of ours


@pytest.mark.parametrize("call", [call for call in CALLS if call != "clipped"])
def test_no_grad_is_the_same_value(call):
    p = problem(7, 19, 5, "everything", torch.float32)
    with_gradients, without = evaluate(ops, call, p), evaluate(ops, call, p, frozenset())
    for name, value in without.items():
        torch.testing.assert_close(value, with_gradients[name], rtol=1e-6, atol=1e-6)


BOUNDS = {
    "infonce": bounds.infonce,
    "ml_cpc": lambda scores: bounds.ml_cpc(scores, 0.5),
    "nwj": bounds.nwj,
    "donsker_varadhan": bounds.donsker_varadhan,
    "jensen_shannon": bounds.jensen_shannon,
    "smile": lambda scores: bounds.smile(scores, 1.0),
    "tuba": lambda scores: bounds.tuba(scores, torch.zeros(scores.n_queries)),
}


def objectives():
    for name, bound in BOUNDS.items():
        yield name, lambda x, y, bound=bound: bound(DotScores(x, y, 3.0, 0.2))
    for loss in (losses.InfoNCE(), losses.NTXent(), losses.CLIP(), losses.SigLIP(), losses.DCL(), losses.MLCPC()):
        yield type(loss).__name__, loss
    moco = losses.MoCo()
    yield "MoCo", lambda x, y: moco(x, y, y.flip(0))


OBJECTIVES = dict(objectives())


def value_and_gradients(objective, x, y):
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    value = objective(x, y)
    return value.detach(), *torch.autograd.grad(value, (x, y), allow_unused=True, materialize_grads=True)


def check_compiled(objective, compiled, n):
    x, y, *_ = torch.randn(2, n, 6, generator=torch.Generator().manual_seed(n))
    for ours, expected in zip(value_and_gradients(compiled, x, y), value_and_gradients(objective, x, y), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compile(name, dynamic):
    """One graph without a break, traced with its backward pass."""
    torch._dynamo.reset()
    compiled = torch.compile(OBJECTIVES[name], fullgraph=True, dynamic=dynamic, backend="aot_eager")
    check_compiled(OBJECTIVES[name], compiled, 8)


@pytest.mark.parametrize("name", ["InfoNCE", "CLIP", "SigLIP", "MoCo"])
def test_a_dynamic_graph_serves_every_n(name):
    torch._dynamo.reset()
    compiled = torch.compile(OBJECTIVES[name], fullgraph=True, dynamic=True, backend="eager")
    check_compiled(OBJECTIVES[name], compiled, 8)
    with torch._dynamo.config.patch(error_on_recompile=True):
        check_compiled(OBJECTIVES[name], compiled, 13)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compile_to_code(dynamic):
    torch._dynamo.reset()
    objective = losses.InfoNCE()
    compiled = torch.compile(objective, fullgraph=True, dynamic=dynamic)
    check_compiled(objective, compiled, 8)


LONG = torch.zeros(5, dtype=torch.int64)
WRONG = {
    "target must be int64 of shape [5]": {"target": torch.zeros(4, dtype=torch.int64)},
    "target must be int64 ": {"target": torch.zeros(5, dtype=torch.int32)},
    "target[3] = 9": {"target": torch.tensor([0, 1, 2, 9, 0])},
    "target[0] = -1": {"target": torch.tensor([-1, 1, 2, 3, 0])},
    "x_label must be int64 of shape [5]": {"x_label": torch.zeros(6, dtype=torch.int64), "y_label": LONG},
    "y_label must be int64 of shape [9]": {"x_label": LONG, "y_label": torch.zeros(6, dtype=torch.int64)},
    "x_label and y_label come together": {"x_label": LONG, "y_label": None},
    "candidate_log_weight must be float64 of shape [9]": {"candidate_log_weight": torch.zeros(9)},
    "scale must be finite and not 0, but is 0": {"scale": doubles(0.0)},
    "scale must be finite and not 0, but is nan": {"scale": doubles(math.nan)},
    "scale must be finite and not 0, but is inf": {"scale": doubles(INF)},
    "scale must be a 0-dim float64 tensor": {"scale": torch.tensor(1.0)},
    "must agree in d": {"y": torch.zeros(9, 4, dtype=torch.float64)},
    "x and y must have the same dtype": {"y": torch.zeros(9, 3)},
    "but d = 0": {k: torch.zeros(n, 0, dtype=torch.float64) for k, n in (("x", 5), ("y", 9))},
    "x must be float32, float64, bfloat16 or float16": {
        k: torch.zeros(n, 3, dtype=torch.int64) for k, n in (("x", 5), ("y", 9))
    },
}


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("message", WRONG)
def test_errors_name_operator_and_argument(operator, message):
    given = arguments(operator, problem(5, 9, 3, "targets")) | WRONG[message]
    with pytest.raises(RuntimeError) as error:
        getattr(raw, operator)(**given)
    assert f"mi_ext::{operator}: " in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "operator,changed,message",
    [
        ("dot_clipped_lse", {"clip": 0.0}, "clip must be positive"),
        ("dot_clipped_lse", {"clip": math.nan}, "clip must be positive"),
        ("dot_clipped_lse", {"bias": torch.tensor(0.0)}, "bias must be a 0-dim float64"),
        ("dot_softplus_sum", {"bias": doubles([0.0])}, "bias must be a 0-dim float64"),
        ("dot_fused", {"target": None}, "either target or external_positive"),
        ("dot_fused", {"external_positive": doubles([0.0] * 5)}, "either target or external_positive"),
        ("dot_fused", {"target": None, "external_positive": doubles([0.0])}, "external_positive must be float64"),
        ("dot_ranking", {"target": None}, "either target or external_positive"),
        ("dot_ranking", {"external_positive": torch.zeros(5, 3)}, "either target or external_positive"),
        (
            "dot_ranking",
            {"target": None, "external_positive": torch.zeros(4, 3, dtype=torch.float64)},
            "external_positive must have the dtype and the shape of x, [5, 3]",
        ),
        ("dot_gradient", {"positive": doubles([0.0] * 6)}, "positive must be float64 of shape [5]"),
        ("dot_gradient", {"negative_lse": doubles([0.0] * 6)}, "negative_lse must be float64 of shape [5]"),
        ("dot_gradient", {"grad_positive": doubles([0.0] * 6)}, "grad_positive must be float64 of shape [5]"),
        ("dot_gradient", {"grad_negative_lse": doubles([0.0] * 6)}, "grad_negative_lse must be float64 of shape [5]"),
        ("dot_gradient", {"column_negative_lse": doubles([0.0] * 12)}, "column_negative_lse must be float64 of shape"),
    ],
)
def test_errors_of_one_operator(operator, changed, message):
    given = arguments(operator, problem(5, 9, 3, "targets")) | changed
    with pytest.raises(RuntimeError) as error:
        getattr(raw, operator)(**given)
    assert f"mi_ext::{operator}: " in str(error.value)
    assert message in str(error.value)


def test_gradient_of_log_weights_in_a_softplus_sum_is_an_error():
    p = problem(5, 9, 3, "log-weights")
    p.exclusions[3].requires_grad_()
    with pytest.raises(ValueError, match="candidate_log_weight"):
        ops.dot_softplus_sum(p.x, p.y, p.scale, 0.0, p.exclusions)
