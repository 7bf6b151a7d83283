"""Walks over joint scores against the float64 reference, judged as the operators on the CPU are: joint_problems.py."""

from dataclasses import replace

import pytest
import torch
from joint_problems import CALLS, EXCLUSIONS, check, evaluate, problem
from problems import laid_out

from mi_ext import ops

pytestmark = pytest.mark.usefixtures("joint_walks")
LAYERS = pytest.mark.parametrize("layers", [1, 2], ids=["one layer", "two layers"])


@LAYERS
@pytest.mark.parametrize("call", CALLS)
def test_everything_at_once(call, layers):
    check(call, problem(9, 33, 17, layers, "everything", torch.float32))


@LAYERS
@pytest.mark.parametrize("call", ["statistics with columns", "log-partition", "softplus", "matrix"])
def test_everything_at_once_in_float64(call, layers):
    check(call, problem(9, 33, 17, layers, "everything", torch.float64))


@LAYERS
@pytest.mark.parametrize("kind", [kind for kind in EXCLUSIONS if kind != "everything"])
@pytest.mark.parametrize("call", ["statistics with columns", "softplus"])
def test_exclusions(call, kind, layers):
    check(call, problem(9, 33, 5, layers, kind, torch.float32))


@LAYERS
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 70, 3), (70, 1, 32), (5, 33, 65), (70, 33, 130)], ids=str)
def test_ragged_shapes(shape, layers):
    check("statistics with columns", problem(*shape, layers, "targets", torch.float32))


@pytest.mark.parametrize("shape", [(5, 1, 1), (33, 70, 65)], ids=str)
def test_ragged_shapes_in_float64(shape):
    check("statistics with columns", problem(*shape, 1, "targets", torch.float64))


@pytest.mark.parametrize("call", ["statistics with columns", "log-partition", "softplus"])
@pytest.mark.parametrize("layers,shape", [(1, (260, 270, 3)), (2, (130, 5, 2)), (2, (5, 130, 2))], ids=str)
def test_several_blocks_of_pairs(call, layers, shape):
    """With one multiprocessor, 256² pairs of one layer, 128² of two: blocks with few rows and few columns remain."""
    check(call, problem(*shape, layers, "everything", torch.float32))


@LAYERS
@pytest.mark.parametrize("shape", [(9, 150, 4), (130, 20, 4)], ids=str)
def test_sums_in_parts(shape, layers, joint_walks):
    """A device with many multiprocessors gets parts of the pairs."""
    joint_walks.walks.multiprocessors = 20
    check("statistics with columns", problem(*shape, layers, "targets", torch.float32))


@LAYERS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bits_are_widened(dtype, layers):
    check("cross-entropy", problem(5, 13, 17, layers, "targets", dtype))


@pytest.mark.parametrize("h", [40, 130])
def test_units_that_round(h):
    """One layer of any numbers: a_i + b_j is compared, not computed, so its sign is exact."""
    p = problem(40, 70, h, 1, "everything", torch.float32)
    g = torch.Generator().manual_seed(h)
    rounding = {k: torch.randn(getattr(p, k).shape, generator=g) for k in ("a", "b")}
    check("statistics with columns", replace(p, **rounding))


@pytest.mark.parametrize("layout", ["rows apart", "offset"])
@LAYERS
def test_layouts(layout, layers):
    p = problem(9, 20, 13, layers, "targets", torch.float32)
    names = ("a", "b", "inner_weight")[: layers + 1]
    check("matrix", replace(p, **{name: laid_out(getattr(p, name), layout) for name in names}))


@LAYERS
def test_runs_give_the_same_bits(layers, joint_walks):
    joint_walks.walks.multiprocessors = 4
    p = problem(20, 70, 9, layers, "everything", torch.float32)
    first, again = (evaluate(ops, "statistics with columns", p) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
