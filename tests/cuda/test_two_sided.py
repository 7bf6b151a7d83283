"""Rows and columns in one walk: slots that take several blocks of rows, and what scores over a wide range leave for
further walks."""

import math

import pytest
import torch
from problems import DTYPES, INF, Problem, check, from_scores, problem

from mi_ext import ops, reference

EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
FLOATS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
NOTHING = (None, None, None, None)
pytestmark = pytest.mark.usefixtures("walks")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flops_of(walks, kernel: str) -> list[int]:
    return [sum(stats.mma_flops.values()) for stats in walks.launches if kernel in stats.kernel]


@EVERY_DTYPE
@pytest.mark.parametrize("multiprocessors", [1, 20])
def test_a_slot_takes_several_blocks_of_rows(multiprocessors, dtype, walks):
    """17 blocks on at most 16 slots; their references differ."""
    walks.multiprocessors = multiprocessors
    n = 16 * (64 if dtype == torch.float64 else 128) + 3
    s = normal(n, 20) + 6 * torch.linspace(-3, 5, n, dtype=torch.float64).round()[:, None]
    p = from_scores(s, dtype, target=torch.arange(n) % 20)
    check("statistics with columns", p, frozenset())
    assert len(flops_of(walks, "pairwise_two_sided")) == 1
    assert sum(flops_of(walks, "pairwise_forward")) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_clip_at_its_greatest_scale_takes_one_walk(dtype, walks):
    """Unit vectors, a few of them equal, times 100: no sum is left undecided."""
    x, y = (torch.nn.functional.normalize(normal(150, 32, seed=seed), dim=1) for seed in (0, 1))
    x[:130] = torch.nn.functional.normalize(x[:130] + 2 * y[:130], dim=1)
    x[7], y[140] = x[3], x[3]
    p = Problem(x.to(dtype), y.to(dtype), 100.0, 0.0, (torch.arange(150), None, None, None), None)
    check("statistics with columns", p, frozenset())
    assert len(flops_of(walks, "pairwise_two_sided")) == 1
    assert flops_of(walks, "pairwise_forward") == [0, 0]


@FLOATS
@pytest.mark.parametrize("side", ["rows", "columns"])
def test_only_what_is_undecided_is_walked_over_again(side, dtype, walks):
    """All scores of one row, or column, lie far below the others."""
    s = normal(300, 40)
    low = (slice(None), 17) if side == "columns" else (170,)
    s[low] -= 2000.0 if dtype == torch.float64 else 300.0
    p = from_scores(s, dtype, target=torch.arange(300) % 40)
    check("statistics with columns", p, frozenset())
    (whole,), (rows, columns) = flops_of(walks, "pairwise_two_sided"), flops_of(walks, "pairwise_forward")
    assert rows == 0 < columns if side == "columns" else 0 < rows < whole / 2 and columns == 0


@EVERY_DTYPE
def test_rows_and_columns_far_apart(dtype):
    s = normal(140, 136)
    s[::3] -= 900
    s[:, ::3] -= 900
    check("statistics with columns", from_scores(s, dtype))


@FLOATS
@pytest.mark.parametrize("value", [-INF, INF, math.nan])
@pytest.mark.parametrize("side", ["x", "y"])
def test_special_values_stay_in_their_row_and_column(side, value, dtype):
    """Beside the row's own scores they meet every column, but for those where the row is no negative."""
    x, y = normal(20, 3).abs().to(dtype), normal(70, 3, seed=1).abs().to(dtype)
    (x if side == "x" else y)[5, 1] = value
    labels = torch.zeros(20, dtype=torch.int64), torch.ones(70, dtype=torch.int64)
    labels[0][::2], labels[1][::3] = 7, 7
    labels[0][5], labels[1][5] = 7, 7
    for exclusions in (NOTHING, (None, *labels, None)):
        ours = ops.dot_statistics(x, y, 1.3, exclusions, True)
        truth = reference.dot_statistics(x.double(), y.double(), 1.3, exclusions, True)
        for result, expected in zip(ours[1:], truth[1:], strict=True):
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_columns_give_the_same_bits_again(walks):
    walks.multiprocessors = 4
    p = problem(300, 150, 16, "targets", torch.bfloat16)
    runs = [ops.dot_statistics(p.x, p.y, p.scale, p.exclusions, True) for _ in range(2)]
    for first, again in zip(*runs, strict=True):
        assert torch.equal(first, again)
