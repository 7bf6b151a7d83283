"""Walks by wgmma, of compute capability 9.0 and 16-bit features, against the float64 reference."""

import math

import pytest
import torch
from problems import INF, Problem, check, evaluate, from_scores, problem

from mi_ext import ops, reference

pytestmark = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
NOTHING = (None, None, None, None)
SHAPES = [
    (1, 1, 1),
    (5, 13, 1),
    (70, 1, 9),
    (1, 70, 64),
    (33, 97, 100),
    (130, 129, 128),
    (20, 140, 192),
    (9, 65, 256),
]


@pytest.fixture(autouse=True)
def hopper(walks):
    walks.capability = 90
    return walks


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check_statistics(p: Problem, call="statistics with columns"):
    check(call, p, wanted=frozenset())


def kernels(walks) -> set[str]:
    """The walks' kinds."""
    return {kind for kind in ("warpgroup", "pairwise") for s in walks.launches if f"{kind}_" in s.kernel}


GRADIENTS = ["statistics with columns", "cross-entropy, weighted", "log-partition", "softplus"]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("call", GRADIENTS)
def test_gradients(call, shape, dtype):
    check(call, problem(*shape, "targets", dtype))


@pytest.mark.parametrize("d", [20, 136])
@pytest.mark.parametrize("kind", ["labels", "everything, external", "everything"])
@pytest.mark.parametrize("call", GRADIENTS)
def test_gradients_beside_exclusions(call, kind, d, dtype):
    check(call, problem(33, 150, d, kind, dtype))


def test_gradients_of_split_walks(dtype, walks):
    walks.multiprocessors = 4
    for call in GRADIENTS:
        for d in (100, 200):
            check(call, problem(9, 300, d, "targets", dtype))


@pytest.mark.parametrize("d", [128, 256])
@pytest.mark.parametrize("height", [10.0, 300.0])
def test_gradients_where_scores_rise_from_tile_to_tile(height, d, dtype):
    n, m = 20, 400
    x, y = 0.1 * normal(n, d), normal(m, d, seed=1)
    x[:, 0], y[:, 0] = 1, height * (torch.arange(m) // 120)
    check("cross-entropy", Problem(x.to(dtype), y.to(dtype), 1.0, 0.0, (torch.arange(n), None, None, None), None))


def test_gradients_stay_in_their_rows(dtype):
    """NaN in a query: in its own gradient, and in that of every candidate."""
    x, y = normal(70, 9).to(dtype), normal(20, 9, seed=1).to(dtype).requires_grad_()
    x[3, 1] = math.nan
    x.requires_grad_()
    lse = ops.dot_statistics(x, y, 1.3, NOTHING)[1]
    dx, dy = torch.autograd.grad(lse.sum(), (x, y))
    assert dx.isnan().all(1).nonzero().flatten().tolist() == [3] and dx.isnan().sum() == 9
    assert dy.isnan().all()


def test_up_to_256_features_on_compute_capability_9_0(dtype, walks):
    where = [(90, 256, "warpgroup"), (90, 257, "pairwise"), (80, 8, "pairwise"), (100, 8, "pairwise")]
    for walks.capability, d, kind in where:
        for call in ("statistics", "cross-entropy", "softplus"):
            evaluate(ops, call, problem(4, 4, d, "plain", dtype))
            assert kernels(walks) == {kind}, (call, walks.capability, d)


def test_rows_and_columns_up_to_192_features(dtype, walks):
    for d, kind in ((192, "warpgroup_two_sided"), (193, "pairwise_two_sided")):
        evaluate(ops, "statistics with columns", problem(4, 4, d, "plain", dtype), frozenset())
        assert sum(kind in s.kernel for s in walks.launches) == 1


def test_softplus_sums_with_log_weights_go_by_mma(dtype, walks):
    """There is a factor for each candidate."""
    evaluate(ops, "softplus", problem(4, 40, 8, "log-weights", dtype), frozenset({"x"}))
    assert kernels(walks) == {"pairwise"}


@pytest.mark.parametrize("height", [10.0, 1000.0])
def test_softplus_sums_of_high_and_low_scores(height, dtype):
    """Nothing but the score where it is high, and e^s where it is low."""
    for sign in (1, -1):
        p = problem(20, 140, 40, "targets", dtype, sign * height)
        check("softplus", Problem(p.x.abs(), p.y.abs(), p.scale, 0.3, p.exclusions, None))


@pytest.mark.parametrize("value", [-INF, math.nan])
def test_gradients_of_softplus_sums_stay_in_their_rows(value, dtype):
    x, y = normal(70, 9).to(dtype), normal(20, 9, seed=1).abs().to(dtype)
    x[3, 1] = value
    x.requires_grad_()
    total, _ = ops.dot_softplus_sum(x, y, 1.3, -0.7, NOTHING)
    (dx,) = torch.autograd.grad(total, x)
    assert dx[3].isnan().all() == math.isnan(value) and not dx[torch.arange(70) != 3].isnan().any()


def test_more_rows_than_slots(dtype):
    """A block of threads takes several blocks of rows, one after the other, and sums columns over them."""
    check_statistics(problem(17 * 128 + 5, 66, 3, "targets", dtype))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["targets", "everything"])
def test_ragged_shapes(kind, shape, dtype):
    check_statistics(problem(*shape, kind, dtype))


@pytest.mark.parametrize("kind", ["plain", "labels", "wide labels", "log-weights", "everything, external"])
def test_exclusions(kind, dtype):
    check_statistics(problem(20, 70, 33, kind, dtype))


def test_clip_and_bias(dtype):
    check_statistics(problem(20, 70, 33, "everything", dtype), "clipped")


@pytest.mark.parametrize("multiprocessors", [2, 100])
def test_few_queries_many_candidates(multiprocessors, dtype, walks):
    walks.multiprocessors = multiprocessors
    check_statistics(problem(9, 300, 16, "targets", dtype))


@pytest.mark.parametrize("scale", [100.0, 1e4, -1.0])
def test_scales(scale, dtype):
    check_statistics(problem(20, 90, 16, "targets", dtype, scale))


@pytest.mark.parametrize("height", [10.0, 1000.0])
def test_scores_that_rise_from_tile_to_tile(height, dtype):
    n, m, d = 20, 270, 128
    x, y = 0.1 * normal(n, d), normal(m, d, seed=1)
    x[:, 0], y[:, 0] = 1, height * (torch.arange(m) // 90)
    check_statistics(Problem(x.to(dtype), y.to(dtype), 1.0, 0.0, (torch.arange(n), None, None, None), None))


@pytest.mark.parametrize("where", [0, 64, 70])
def test_one_dominant_score(where, dtype):
    s = normal(20, 71)
    s[::2, where] += 300
    check_statistics(from_scores(s, dtype))


@pytest.mark.parametrize("value", [-INF, INF, math.nan])
def test_special_values_stay_in_their_rows(value, dtype):
    x, y = normal(130, 3).to(dtype), normal(70, 3, seed=1).abs().to(dtype)
    x[5, 1] = x[101, 2] = value
    ours = ops.dot_statistics(x, y, 1.3, NOTHING)[1]
    truth = reference.dot_statistics(x.double(), y.double(), 1.3, NOTHING)[1]
    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_nothing_and_everything_excluded(dtype):
    labels = (None, torch.ones(20, dtype=torch.int64), torch.ones(33, dtype=torch.int64), None)
    for m, exclusions in ((0, NOTHING), (33, labels)):
        lse = ops.dot_statistics(normal(20, 3).to(dtype), normal(m, 3).to(dtype), 1.3, exclusions)[1]
        assert (lse == -INF).all()


def test_two_blocks_fit_on_a_multiprocessor(dtype, walks):
    """228 KiB of shared memory, 1 of them for the system in each block. With 256 features, rows and columns take
    mma.sync, which cuts sums of 8 products off by up to an ε each; half on average."""
    for d in (128, 256):
        p = problem(4, 4, d, "everything", dtype)
        for call in ("statistics with columns", "log-partition"):
            check(call, p, epsilons=d / 16)
            (bytes_of_a_block,) = {s.shared_bytes for s in walks.launches if "warpgroup" in s.kernel}
            assert 2 * (bytes_of_a_block + 1024) <= 228 * 1024
