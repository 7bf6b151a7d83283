"""Operators on gathered scores as citizens of torch: schemas, fakes, gradients, torch.compile, errors, memory."""

import math

import pytest
import torch
from gathered_problems import CALLS, evaluate, gathered

from mi_ext import GatheredScores, bounds, losses, ops

raw = torch.ops.mi_ext
pytestmark = pytest.mark.usefixtures("one_thread")
OPERATORS = [
    "gathered_lse",
    "gathered_clipped_lse",
    "gathered_fused",
    "gathered_gradient",
    "gathered_softplus_sum",
    "gathered_ranking",
]
DIFFERENTIABLE = [call for call in CALLS if call != "clipped"]


def doubles(value):
    return torch.tensor(value, dtype=torch.float64)


def arguments(operator, p, on=True):
    """Of a raw operator, by name; `on`: every flag."""
    given = {"x": p.x, "y": p.y, "index": p.index, "scale": doubles(p.scale)}
    if operator == "gathered_clipped_lse":
        return given | {"bias": doubles(0.3), "clip": 2.0}
    if operator == "gathered_softplus_sum":
        return given | {"bias": doubles(0.3), "query_gradient": on, "candidate_gradient": on}
    if operator == "gathered_fused":
        weights = {"positive_log_weight": 0.1, "negative_log_weight": -0.2, "global_partition": on}
        return given | {"positive": p.positive} | weights | {"candidate_gradient": on}
    if operator == "gathered_ranking":
        return given | {"positive": p.x.flip(0)}
    if operator == "gathered_gradient":
        lse = raw.gathered_lse(*given.values())
        return given | {"negative_lse": lse, "grad_negative_lse": torch.ones_like(lse), "candidate_gradient": on}
    return given


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("kind", ["bank", "negatives"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_opcheck(operator, kind, dtype):
    for on in (True, False):
        p = gathered(5, 9, 3, 7, kind, dtype)
        torch.library.opcheck(getattr(raw, operator), (), arguments(operator, p, on))


def test_opcheck_covers_every_operator():
    schemas = [schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("mi_ext::gathered")]
    assert sorted(schemas) == sorted(f"mi_ext::{operator}" for operator in OPERATORS)


@pytest.mark.parametrize("call", DIFFERENTIABLE)
@pytest.mark.parametrize("kind", ["bank", "negatives"])
@pytest.mark.parametrize("candidates", [True, False], ids=["dx and dy", "dx"])
def test_gradcheck(call, kind, candidates):
    p = gathered(3, 7, 3, 5, kind)
    names = ["x", "scale", *(["y"] if candidates else []), *(["bias"] if call == "softplus" else [])]
    names += ["positive"] if call.split(",")[0] in ("cross-entropy", "log-partition") else []
    leaves = {k: torch.as_tensor(getattr(p, k), dtype=torch.float64) for k in ("x", "y", "scale", "bias", "positive")}

    def function(*values):
        return CALLS[call](ops, p, leaves | dict(zip(names, values, strict=True)))

    torch.autograd.gradcheck(function, [leaves[k].clone().requires_grad_() for k in names])


@pytest.mark.parametrize("call", DIFFERENTIABLE)
@pytest.mark.parametrize("depends", [True, False], ids=["variable upstream", "constant upstream"])
def test_second_derivative_is_an_error(call, depends):
    p = gathered(4, 6, 3, 5)
    leaves = {"x": p.x.requires_grad_(), "y": p.y.requires_grad_()}
    leaves |= {"scale": p.scale, "bias": p.bias, "positive": p.positive}
    result = CALLS[call](ops, p, leaves)
    upstream = torch.ones_like(result, requires_grad=depends)
    (gradient,) = torch.autograd.grad((upstream * result).sum(), p.x, create_graph=True)
    with pytest.raises(RuntimeError, match="twice|second derivative"):
        (gradient.square().sum() + p.x.sum()).backward()


@pytest.mark.parametrize("call", DIFFERENTIABLE)
def test_no_grad_is_the_same_value(call):
    p = gathered(7, 19, 5, 11, dtype=torch.float32)
    with_gradients, without = evaluate(ops, call, p), evaluate(ops, call, p, frozenset())
    torch.testing.assert_close(without["value"], with_gradients["value"], rtol=1e-6, atol=1e-6)


INDEX = torch.randint(13, (8, 20), generator=torch.Generator().manual_seed(0))


def by_bank(x, y, bound):
    bank = torch.cat([y, y.flip(0)])[:13]
    return bound(GatheredScores(x, bank, INDEX, 2.0, 0.1, positive=y))


OBJECTIVES = {
    "infonce": lambda x, y: by_bank(x, y, bounds.infonce),
    "ml_cpc": lambda x, y: by_bank(x, y, lambda s: bounds.ml_cpc(s, 0.5)),
    "donsker_varadhan": lambda x, y: by_bank(x, y, bounds.donsker_varadhan),
    "jensen_shannon": lambda x, y: by_bank(x, y, bounds.jensen_shannon),
    "smile": lambda x, y: by_bank(x, y, lambda s: bounds.smile(s, 1.0)),
    "rows": lambda x, y: by_bank(x, y, lambda s: s.cross_entropy(reduction="none").sum()),
    "KPair": lambda x, y: losses.KPair()(x, y, torch.stack([y, y.flip(0)], 1)),
}


def value_and_gradients(objective, x, y):
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    value = objective(x, y)
    return value.detach(), *torch.autograd.grad(value, (x, y))


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compile(name, dynamic):
    """One graph without a break, traced with its backward pass."""
    torch._dynamo.reset()
    compiled = torch.compile(OBJECTIVES[name], fullgraph=True, dynamic=dynamic, backend="aot_eager")
    x, y = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(1))
    ours, truth = value_and_gradients(compiled, x, y), value_and_gradients(OBJECTIVES[name], x, y)
    for a, b in zip(ours, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_compile_to_code():
    torch._dynamo.reset()
    compiled = torch.compile(OBJECTIVES["infonce"], fullgraph=True)
    x, y = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(1))
    ours, truth = value_and_gradients(compiled, x, y), value_and_gradients(OBJECTIVES["infonce"], x, y)
    for a, b in zip(ours, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def outside(value):
    index = torch.zeros(5, 9, dtype=torch.int64)
    index[3, 7] = index[4, 2] = value
    return {"index": index}


WRONG = {
    "index[3, 7] = 7, but the bank has 7 rows: expected 0 <= index < 7": outside(7),
    "index[3, 7] = -1, but": outside(-1),
    "index[3, 7] = -9223372036854775808, but": outside(-(2**63)),
    "index must be int64 of shape [5, K - 1], but has shape [4, 9]": {"index": torch.zeros(4, 9, dtype=torch.int64)},
    "index must be int64": {"index": torch.zeros(5, 9, dtype=torch.int32)},
    "y, a bank [V, d], must agree in d": {"y": torch.zeros(7, 4, dtype=torch.float64)},
    "y, a bank [V, d]": {"y": torch.zeros(5, 9, 3, dtype=torch.float64)},
    "y must be, without index, the negatives": {"index": None},
    "the negatives [n, K - 1, d]": {"index": None, "y": torch.zeros(4, 9, 3, dtype=torch.float64)},
    "x and y must have the same dtype": {"y": torch.zeros(7, 3)},
    "x must have shape [n, d], d > 0": {"x": torch.zeros(5, 0, dtype=torch.float64)},
    "x must be float32, float64, bfloat16 or float16": {
        k: torch.zeros(n, 3, dtype=torch.int64) for k, n in (("x", 5), ("y", 7))
    },
    "scale must be finite and not 0, but is 0": {"scale": doubles(0.0)},
    "scale must be finite and not 0, but is nan": {"scale": doubles(math.nan)},
    "scale must be a 0-dim float64 tensor": {"scale": torch.tensor(1.0)},
}


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("message", WRONG)
def test_errors_name_operator_and_argument(operator, message):
    given = arguments(operator, gathered(5, 9, 3, 7)) | WRONG[message]
    with pytest.raises(RuntimeError) as error:
        getattr(raw, operator)(**given)
    assert f"mi_ext::{operator}: " in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "operator,changed,message",
    [
        ("gathered_clipped_lse", {"clip": 0.0}, "clip must be positive"),
        ("gathered_clipped_lse", {"bias": torch.tensor(0.0)}, "bias must be a 0-dim float64"),
        ("gathered_softplus_sum", {"bias": doubles([0.0])}, "bias must be a 0-dim float64"),
        ("gathered_fused", {"positive": doubles([0.0])}, "positive must be float64 of shape [5]"),
        (
            "gathered_ranking",
            {"positive": torch.zeros(5, 3)},
            "positive must have the dtype and the shape of x, [5, 3]",
        ),
        ("gathered_ranking", {"positive": doubles([[0.0] * 3])}, "shape of x, [5, 3], but has shape [1, 3]"),
        ("gathered_gradient", {"negative_lse": doubles([0.0] * 6)}, "negative_lse must be float64 of shape [5]"),
        ("gathered_gradient", {"grad_negative_lse": torch.zeros(5)}, "grad_negative_lse must be float64 of shape [5]"),
    ],
)
def test_errors_of_one_operator(operator, changed, message):
    given = arguments(operator, gathered(5, 9, 3, 7)) | changed
    with pytest.raises(RuntimeError) as error:
        getattr(raw, operator)(**given)
    assert f"mi_ext::{operator}: " in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize("call", ["cross-entropy", "softplus"])
def test_a_bank_without_gradient_may_change_before_the_backward_pass(call):
    """A memory bank is updated after use: the gradient came with the value, and nothing of the bank is kept."""
    p = gathered(5, 30, 8, 20)
    leaves = {"x": p.x.requires_grad_(), "y": p.y, "scale": p.scale, "bias": p.bias, "positive": p.positive}
    (expected,) = torch.autograd.grad(CALLS[call](ops, p, leaves), p.x)
    value = CALLS[call](ops, p, leaves)
    p.y.zero_()
    assert torch.equal(torch.autograd.grad(value, p.x)[0], expected)
