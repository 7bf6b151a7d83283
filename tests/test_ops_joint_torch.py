"""The joint operators as citizens of torch: schemas, fakes, gradients, second derivatives, errors."""

import math

import pytest
import torch
from joint_problems import CALLS, NAMES, evaluate, problem

from mi_ext import ops

raw = torch.ops.mi_ext
pytestmark = pytest.mark.usefixtures("one_thread")
LAYERS = pytest.mark.parametrize("layers", [1, 2], ids=["one layer", "two layers"])
WITH_GRADIENT = [call for call in CALLS if call != "clipped"]
OPERATORS = [
    "joint_statistics",
    "joint_clipped_lse",
    "joint_fused",
    "joint_gradient",
    "joint_softplus_sum",
    "joint_matrix",
    "joint_matrix_gradient",
    "joint_ranking",
]


def doubles(value):
    return torch.tensor(value, dtype=torch.float64)


def arguments(operator, p, on=True):
    """Of a raw operator, by name; `on`: every flag."""
    target, x_label, y_label, v = p.exclusions
    exclusions = {"target": target, "x_label": x_label, "y_label": y_label, "candidate_log_weight": v}
    if operator == "joint_statistics":
        return p.tensors | exclusions | {"columns": on}
    if operator == "joint_clipped_lse":
        return p.tensors | {"bias": doubles(0.3)} | exclusions | {"clip": 2.0}
    if operator == "joint_softplus_sum":
        return p.tensors | {"bias": doubles(0.3)} | exclusions | {"gradient": on}
    if operator == "joint_fused":
        weights = {"positive_log_weight": 0.1, "negative_log_weight": -0.2, "global_partition": on}
        return p.tensors | exclusions | weights
    if operator == "joint_ranking":
        return p.tensors | exclusions
    if operator == "joint_matrix":
        return p.tensors
    if operator == "joint_matrix_gradient":
        return p.tensors | {"upstream": torch.ones_like(raw.joint_matrix(*p.tensors.values()))}
    names = ("positive", "negative_lse", "column_negative_lse")
    statistics = dict(zip(names, raw.joint_statistics(*p.tensors.values(), *p.exclusions, on), strict=True))
    upstream = {f"grad_{name}": torch.ones_like(t) for name, t in statistics.items()}
    return p.tensors | exclusions | {name: statistics[name] for name in names[1:]} | upstream


@pytest.mark.parametrize("operator", OPERATORS)
@LAYERS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_opcheck(operator, layers, dtype):
    for on in (True, False):
        torch.library.opcheck(
            getattr(raw, operator), (), arguments(operator, problem(5, 9, 3, layers, dtype=dtype), on)
        )


def test_opcheck_covers_every_operator():
    schemas = [schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("mi_ext::joint")]
    assert sorted(schemas) == sorted(f"mi_ext::{operator}" for operator in OPERATORS)


@pytest.mark.parametrize("call", WITH_GRADIENT)
@LAYERS
@pytest.mark.parametrize("kind", ["targets", "everything"])
def test_gradcheck(call, layers, kind):
    """Away from the kinks of relu, which the multiples of 1/8 sit on."""
    p = problem(4, 6, 3, layers, kind)
    g = torch.Generator().manual_seed(5)
    inputs = {
        k: t + 0.01 + 0.04 * torch.rand(t.shape, generator=g, dtype=t.dtype)
        for k, t in p.tensors.items()
        if t is not None
    }
    inputs["bias"] = p.bias
    inputs = {k: t.clone().requires_grad_() for k, t in inputs.items() if k != "bias" or call == "softplus"}

    def function(*values):
        leaves = p.tensors | {"bias": p.bias} | dict(zip(inputs, values, strict=True))
        return tuple(torch.where(t.isfinite(), t, 0.0) for t in CALLS[call](ops, p, leaves).values() if t is not None)

    torch.autograd.gradcheck(function, list(inputs.values()))


@pytest.mark.parametrize("call", WITH_GRADIENT)
@LAYERS
@pytest.mark.parametrize("depends", [True, False], ids=["variable upstream", "constant upstream"])
def test_second_derivative_is_an_error(call, layers, depends):
    p = problem(4, 6, 3, layers)
    leaves = {k: t if t is None else t.requires_grad_() for k, t in p.tensors.items()} | {"bias": p.bias}
    result = next(iter(CALLS[call](ops, p, leaves).values()))
    upstream = torch.ones_like(result, requires_grad=depends)
    (gradient,) = torch.autograd.grad((upstream * result).sum(), leaves["a"], create_graph=True)
    with pytest.raises(RuntimeError, match="twice|JointScores has no second derivative"):
        (gradient.square().sum() + leaves["a"].sum()).backward()


@pytest.mark.parametrize("call", WITH_GRADIENT)
@LAYERS
def test_no_grad_is_the_same_value(call, layers):
    p = problem(7, 19, 5, layers, "everything", torch.float32)
    with_gradients, without = evaluate(ops, call, p), evaluate(ops, call, p, False)
    for name, value in without.items():
        torch.testing.assert_close(value, with_gradients[name], rtol=1e-6, atol=1e-6)


LONG = torch.zeros(5, dtype=torch.int64)
WRONG = {
    "must agree in h": {"b": torch.zeros(9, 4, dtype=torch.float64)},
    "a and b must have the same dtype": {"b": torch.zeros(9, 3)},
    "but h = 0": {k: torch.zeros(n, 0, dtype=torch.float64) for k, n in (("a", 5), ("b", 9))},
    "a must be float32, float64, bfloat16 or float16": {
        k: torch.zeros(n, 3, dtype=torch.int64) for k, n in (("a", 5), ("b", 9))
    },
    "inner_weight and inner_bias come together": {"inner_bias": None},
    "inner_weight must have shape [h1, h = 3]": {"inner_weight": torch.zeros(6, 4, dtype=torch.float64)},
    "inner_bias must have shape [6]": {"inner_bias": torch.zeros(5, dtype=torch.float64)},
    "inner_bias must have the dtype of a and b": {"inner_bias": torch.zeros(6)},
    "last_weight must have shape [6]": {"last_weight": torch.zeros(3, dtype=torch.float64)},
    "last_weight must have the dtype of a and b": {"last_weight": torch.zeros(6)},
}
WRONG_EXCLUSIONS = {
    "target must be int64 of shape [5]": {"target": torch.zeros(4, dtype=torch.int64)},
    "target[3] = 9": {"target": torch.tensor([0, 1, 2, 9, 0])},
    "x_label must be int64 of shape [5]": {"x_label": torch.zeros(6, dtype=torch.int64), "y_label": LONG},
    "x_label and y_label come together": {"x_label": LONG, "y_label": None},
    "candidate_log_weight must be float64 of shape [9]": {"candidate_log_weight": torch.zeros(9)},
}


WITHOUT_EXCLUSIONS = ("joint_matrix", "joint_matrix_gradient")
OPERATOR_AND_ERROR = [(operator, message) for operator in OPERATORS for message in WRONG]
OPERATOR_AND_ERROR += [(o, message) for o in OPERATORS if o not in WITHOUT_EXCLUSIONS for message in WRONG_EXCLUSIONS]


@pytest.mark.parametrize("operator,message", OPERATOR_AND_ERROR)
def test_errors_name_operator_and_argument(operator, message):
    given = arguments(operator, problem(5, 9, 3, 2)) | (WRONG | WRONG_EXCLUSIONS)[message]
    with pytest.raises(RuntimeError) as error:
        getattr(raw, operator)(**given)
    assert f"mi_ext::{operator}: " in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "operator,changed,message",
    [
        ("joint_clipped_lse", {"clip": 0.0}, "clip must be positive"),
        ("joint_clipped_lse", {"clip": math.nan}, "clip must be positive"),
        ("joint_softplus_sum", {"bias": doubles([0.0])}, "bias must be a 0-dim float64"),
        ("joint_fused", {"target": None}, "target is needed"),
        ("joint_ranking", {"target": None}, "target is needed"),
        ("joint_gradient", {"negative_lse": doubles([0.0] * 6)}, "negative_lse must be float64 of shape [5]"),
        ("joint_gradient", {"grad_positive": doubles([0.0] * 6)}, "grad_positive must be float64 of shape [5]"),
        ("joint_matrix_gradient", {"upstream": torch.zeros(5, 9)}, "upstream must be float64 of shape [5, 9]"),
    ],
)
def test_errors_of_one_operator(operator, changed, message):
    with pytest.raises(RuntimeError) as error:
        getattr(raw, operator)(**(arguments(operator, problem(5, 9, 3, 2)) | changed))
    assert f"mi_ext::{operator}: " in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize("call", [call for call in CALLS if call != "matrix"])
def test_gradient_of_log_weights_is_an_error(call):
    p = problem(5, 9, 3, 1, "log-weights")
    p.exclusions[3].requires_grad_()
    with pytest.raises(ValueError, match="candidate_log_weight"):
        evaluate(ops, call, p)


def test_names_follow_the_schema():
    schema = raw.joint_matrix.default._schema
    assert tuple(argument.name for argument in schema.arguments) == NAMES
