"""Ranks, entropies and log-sum-exps on a simulated GPU: the tests of the CPU's operator, with another kernel below."""

import math
from dataclasses import replace

import pytest
import torch
from problems import DTYPES, EXCLUSIONS, INF, excluded_log_weights, from_scores, laid_out, problem
from test_ranking import at, check

from mi_ext import ops, reference

pytestmark = pytest.mark.usefixtures("walks")
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
FLOATS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)


@EVERY_DTYPE
@pytest.mark.parametrize("kind", EXCLUSIONS)
def test_exclusions(kind, dtype):
    check(problem(20, 70, 33, kind, dtype))


@EVERY_DTYPE
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 70, 64), (70, 1, 9), (130, 65, 64), (9, 66, 264)], ids=str)
def test_ragged_shapes(shape, dtype):
    check(problem(*shape, "targets", dtype))


@EVERY_DTYPE
@pytest.mark.parametrize("multiprocessors", [2, 100])
def test_candidates_are_split(multiprocessors, dtype, walks):
    walks.multiprocessors = multiprocessors
    check(problem(9, 300, 16, "everything", dtype))


@pytest.mark.parametrize("layout", ["rows apart", "offset", "expanded rows"])
@pytest.mark.parametrize("kind", ["everything", "everything, external"])
def test_layouts(layout, kind):
    p = problem(9, 20, 13, kind, torch.float32)
    check(type(p)(**{**vars(p), "x": laid_out(p.x, layout)}))
    check(type(p)(**{**vars(p), "y": laid_out(p.y, layout)}))


@EVERY_DTYPE
def test_copies_of_the_positive_are_ties(dtype):
    """Wherever they lie in a tile, however the sums round: none above, none below."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(29, 100, generator=g, dtype=torch.float64).to(dtype)
    copy = torch.randn(100, generator=g, dtype=torch.float64).to(dtype)
    y, labels = copy.expand(97, 100), (torch.zeros(29, dtype=torch.int64), torch.ones(97, dtype=torch.int64))
    for scale, target, rest in ((0.37, 63, (None, None, None)), (-0.37, 0, (*labels, None))):
        assert (ops.dot_ranking(x, y, scale, (torch.full((29,), target), *rest))[3] == 96).all()
    assert (ops.dot_ranking(x, y, 0.37, (None, *rest), copy.expand(29, 100))[3] == 97).all()


@FLOATS
def test_references_raised_again_and_again(dtype):
    """The entropy's own sum moves along: two halves of equal weight at the top are log 2, wherever they arrive."""
    check(from_scores((50 * torch.arange(130.0, dtype=torch.float64)).expand(20, -1), dtype))
    s = torch.zeros(20, 130, dtype=torch.float64)
    s[:, 3] = s[:, 120] = 1500
    entropy = ops.dot_ranking(*at(from_scores(s, dtype, target=torch.zeros(20, dtype=torch.int64))))[2]
    torch.testing.assert_close(entropy, torch.full_like(entropy, math.log(2)), rtol=1e-6, atol=1e-6)


@FLOATS
@pytest.mark.parametrize("scale", [100.0, -100.0])
def test_scales(scale, dtype):
    check(problem(20, 90, 16, "targets", dtype, scale))


@FLOATS
def test_everything_excluded(dtype):
    """−inf, −inf and 0; one candidate left has entropy 0, whatever its weight; what is excluded may hold anything."""
    x, y = torch.ones(20, 2, dtype=dtype), torch.ones(7, 2, dtype=dtype)
    weight = torch.full((7,), -INF, dtype=torch.float64)
    exclusions = torch.zeros(20, dtype=torch.int64), None, None, weight
    y[5] = math.nan
    _, lse, entropy, rank = ops.dot_ranking(x, y, 2.0, exclusions)
    assert (lse == -INF).all() and (entropy == -INF).all() and (rank == 0).all()
    weight[3] = 5.0
    _, lse, entropy, rank = ops.dot_ranking(x, y, 2.0, exclusions)
    assert (rank == 1).all() and entropy.abs().max() < 1e-6
    torch.testing.assert_close(lse, torch.full_like(lse, 9.0))


@FLOATS
@pytest.mark.parametrize("value", [INF, math.nan])
def test_log_weights_of_excluded_candidates(value, dtype):
    p = problem(20, 70, 5, "targets", dtype)
    check(replace(p, exclusions=excluded_log_weights(20, 70, value)))


@FLOATS
@pytest.mark.parametrize("n,m", [(0, 5), (4, 0), (0, 0)])
def test_nothing(n, m, dtype):
    x, y = torch.ones(n, 3, dtype=dtype), torch.ones(m, 3, dtype=dtype)
    target, external = (torch.zeros(0, dtype=torch.int64), None) if n == 0 and m > 0 else (None, x)
    _, lse, entropy, rank = ops.dot_ranking(x, y, 1.0, (target, None, None, None), external)
    assert (lse == -INF).all() and (entropy == -INF).all() and (rank == 0).all() and len(rank) == n


@FLOATS
def test_non_finite_scores(dtype):
    """−inf never outranks; a NaN stays in its row, and ranks last."""
    p = problem(20, 70, 3, "plain", dtype)
    x, y = p.x.clone(), p.y.abs()
    x[5, 1], x[7, 1], x[9, 1] = -INF, INF, math.nan
    exclusions = torch.arange(20), None, None, None
    ours = ops.dot_ranking(x, y, 1.3, exclusions)
    truth = reference.dot_ranking(x.double(), y.double(), 1.3, exclusions)
    assert ours[3][5] == 0 and ours[3][7] == 69 and ours[3][9] == 70
    for one, expected in zip(ours, truth, strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_a_target_outside_the_candidates_is_last(walks):
    p = problem(5, 7, 3, "plain", torch.float32)
    target = torch.tensor([0, 7, -1, 2**40, 6])
    positive, lse, _, rank = ops.dot_ranking(p.x, p.y, 1.0, (target, None, None, None))
    assert positive.isnan().tolist() == [False, True, True, True, False]
    assert lse.isfinite().all() and rank[1:4].tolist() == [7] * 3 and rank[0] < 7


def test_tf32_rounds_each_factor_to_11_bits(walks):
    p = problem(20, 70, 33, "plain", torch.float32)
    truth = reference.dot_ranking(p.x.double(), p.y.double(), p.scale, p.exclusions, p.x.flip(0).double())[1]
    errors = []
    for walks.tf32 in (False, True):
        errors.append((ops.dot_ranking(*at(p))[1] - truth).abs().max())
    assert 50 * errors[0] < errors[1] < 2e-3


def test_work(walks):
    """2nmd flops, and one exponential a score beside those of the running references; without a bank conflict."""
    n, m, d = 128, 512, 128
    p = problem(n, m, d, "plain", torch.bfloat16)
    ops.dot_ranking(*at(p))
    (walk,) = (stats for stats in walks.launches if "ranking_walk" in stats.kernel)
    (diagonal,) = (stats for stats in walks.launches if "ranking_positives" in stats.kernel)
    assert sum(walk.mma_flops.values()) == 2 * n * m * d and sum(diagonal.mma_flops.values()) <= 2 * n * 128 * d
    assert walk.mufu <= 1.15 * n * m
    for stats in (walk, diagonal):
        assert stats.shared_wavefronts == stats.shared_accesses and stats.atomics == 0
