"""Operators linear in n and m: those of the CPU against torch's operations, which are what a GPU gets."""

import math

import pytest
import torch

from mi_ext import DenseScores, DotScores

raw = torch.ops.mi_ext
CUDA = torch._C.DispatchKey.CUDA
SHAPES = [(0, 3), (1, 1), (5, 0), (7, 37), (3, 128), (2, 4, 5), (6,), (1100, 128)]  # the last by two threads
SHORTEST = 1e-12


def doubles(value):
    return torch.tensor(value, dtype=torch.float64)


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_torch(operator, *arguments):
    """What a GPU would run, on the CPU."""
    return getattr(raw, operator).default._op_dk(CUDA, *arguments)


def check(ours, theirs, truth):
    """No further from float64 than twice what torch's operations are, in a unit of the last place of the largest."""
    eps = torch.finfo(ours.dtype).eps * (truth.abs().max().item() if truth.numel() else 0)
    assert ours.shape == theirs.shape == truth.shape and ours.dtype == theirs.dtype
    assert torch.all((ours - truth).abs() <= 2 * (theirs - truth).abs() + 4 * eps)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_unit_rows(shape, dtype):
    z, upstream = numbers(*shape, dtype=dtype), numbers(*shape, seed=1, dtype=dtype)
    expected = by_torch("unit_rows", z.double(), SHORTEST)
    for ours, theirs, truth in zip(
        raw.unit_rows(z, SHORTEST), by_torch("unit_rows", z, SHORTEST), expected, strict=True
    ):
        check(ours, theirs, truth)
    unit, length = raw.unit_rows(z, SHORTEST)
    arguments = unit, length, upstream, SHORTEST
    truth = by_torch("unit_rows_gradient", unit.double(), length.double(), upstream.double(), SHORTEST)
    check(raw.unit_rows_gradient(*arguments), by_torch("unit_rows_gradient", *arguments), truth)


def test_unit_rows_of_columns_and_expanded_upstreams():
    z, upstream = numbers(5, 7).T, numbers(1).expand(7, 5)
    unit, length = raw.unit_rows(z, SHORTEST)
    torch.testing.assert_close(unit, z / z.norm(dim=1, keepdim=True))
    expected = by_torch("unit_rows_gradient", unit, length, upstream, SHORTEST)
    torch.testing.assert_close(raw.unit_rows_gradient(unit, length, upstream, SHORTEST), expected)


def test_unit_rows_of_numbers_at_their_ends():
    z = torch.tensor([[0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0], [1e-13, 0.0]])
    for ours, theirs in zip(raw.unit_rows(z, SHORTEST), by_torch("unit_rows", z, SHORTEST), strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)


def kept_arguments(n, m, d, dtype=torch.float64, dx=True, dy=True):
    """Several queries have one positive."""
    x, y = numbers(n, d, dtype=dtype), numbers(m, d, seed=1, dtype=dtype)
    target = torch.randint(max(m // 2, 1), (n,), generator=torch.Generator().manual_seed(2))
    kept = numbers(n, d, seed=3, dtype=dtype), numbers(m, d, seed=4, dtype=dtype)
    kept = tuple(t if wanted else t.new_empty(0).double() for t, wanted in zip(kept, (dx, dy), strict=True))
    return x, y, doubles(1.7), target, *kept, doubles(-0.3), numbers(n, seed=5)


@pytest.mark.parametrize("shape", [(5, 9, 3), (0, 4, 2), (32, 32, 128), (600, 700, 128)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)], ids=["both", "dx", "dy"])
def test_kept_gradient(shape, dtype, wanted):
    arguments = kept_arguments(*shape, dtype, *wanted)
    truth = by_torch("kept_gradient", *(t.double() if t.is_floating_point() else t for t in arguments))
    theirs = by_torch("kept_gradient", *arguments)
    for one, other, expected in zip(raw.kept_gradient(*arguments), theirs, truth, strict=True):
        check(one, other, expected)


def test_kept_gradient_reads_rows_and_weights_that_are_apart():
    _, y, scale, target, dx, dy, grad_loss, _ = kept_arguments(5, 9, 3)
    arguments = scale, target, dx, dy, grad_loss, doubles([0.7]).expand(5)
    apart = numbers(5, 6)[:, ::2]
    ours, theirs = raw.kept_gradient(apart, y, *arguments), by_torch("kept_gradient", apart, y, *arguments)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_opcheck(dtype):
    z = numbers(4, 3, dtype=dtype)
    unit, length = raw.unit_rows(z, SHORTEST)
    torch.library.opcheck(raw.unit_rows, (z, SHORTEST))
    torch.library.opcheck(raw.unit_rows_gradient, (unit, length, z, SHORTEST))
    for wanted in ((True, True), (False, True), (True, False)):
        torch.library.opcheck(raw.kept_gradient, kept_arguments(5, 9, 3, dtype, *wanted))


@pytest.mark.parametrize(
    "place,wrong,message",
    [
        (1, numbers(9, 4), "must agree in d"),
        (1, numbers(9, 3, dtype=torch.float32), "same dtype"),
        (2, torch.tensor(1.0), "scale must be a 0-dim float64"),
        (3, torch.tensor([0, 1, 2, 9, 0]), "target[3] = 9"),
        (3, torch.zeros(4, dtype=torch.int64), "target must be int64 of shape [5]"),
        (4, numbers(4, 3), "dx must have the dtype and the shape of x"),
        (5, numbers(9, 3, dtype=torch.float32), "dy must have the dtype and the shape of y"),
        (6, numbers(1), "grad_loss must be a 0-dim float64"),
        (7, numbers(4), "grad_positive must be float64 of shape [5]"),
    ],
)
def test_errors_of_kept_gradient(place, wrong, message):
    arguments = list(kept_arguments(5, 9, 3))
    arguments[place] = wrong
    with pytest.raises(RuntimeError) as error:
        raw.kept_gradient(*arguments)
    assert "mi_ext::kept_gradient: " in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(
    "operator,arguments,message",
    [
        ("unit_rows", (doubles(1.0), 0.0), "z must have rows"),
        ("unit_rows", (numbers(3, 2, dtype=torch.float16), 0.0), "z must be float32 or float64"),
        ("unit_rows_gradient", (numbers(3, 2), numbers(2, 1), numbers(3, 2), 0.0), "length must be one for each row"),
        ("unit_rows_gradient", (numbers(3, 2), numbers(3, 1), numbers(2, 3), 0.0), "upstream must have the dtype and"),
    ],
)
def test_errors_of_unit_rows(operator, arguments, message):
    with pytest.raises(RuntimeError) as error:
        getattr(raw, operator)(*arguments)
    assert f"mi_ext::{operator}: " in str(error.value) and message in str(error.value)


LABELS = torch.tensor([0, 1, 2, 3, 0, 5]), torch.tensor([0, 1, 2, 3, 4, 5])
LOSSES = {
    "mean less exponential": lambda s: s.mean_less_exponential(-1.5),
    "mean less exponential, tensor": lambda s: s.mean_less_exponential(doubles(-1.5)),
    "logistic": lambda s: s.logistic_loss(),
    "symmetric": lambda s: s.symmetric_cross_entropy(),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("bias", [0.4, doubles(0.4)], ids=["bias", "learned bias"])
@pytest.mark.parametrize("known", [False, True], ids=["", "statistics known"])
def test_whole_losses_are_those_of_the_matrix(name, bias, known):
    leaves = [numbers(6, 4), numbers(6, 4, seed=1), doubles(-0.8)] + ([bias] if isinstance(bias, torch.Tensor) else [])
    leaves = [t.clone().requires_grad_() for t in leaves]

    def gradients(scores):
        if known:
            scores.column_negative_lse  # noqa: B018  kept with its graph
        value = 1.7 * LOSSES[name](scores)
        return value, *torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)

    x, y, scale, *rest = leaves
    b = rest[0] if rest else bias
    ours, expected = gradients(DotScores(x, y, scale, b)), gradients(DenseScores(scale * x @ y.T + b))
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_whole_losses_need_a_query(name):
    with pytest.raises(ValueError, match="n = 0"):
        LOSSES[name](DotScores(torch.zeros(0, 3), torch.zeros(0, 3)))
