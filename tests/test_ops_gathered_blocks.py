"""Gathered scores from banks of more than 8 MB, whose rows are read block by block: oracle, threads, ties, edges."""

import math
from functools import cache

import pytest
import torch
from gathered_problems import IN_BLOCKS, Gathered, check, evaluate, expected_of, gathered
from problems import DTYPES, INF

from mi_ext import ops
from mi_ext.log_domain import log_add_exp

one_thread = pytest.mark.usefixtures("one_thread")
X = frozenset({"x", "scale"})
CALLED = ["negative_lse", "cross-entropy, weighted", "softplus", "clipped"]


@cache
def expected(call, dtype, kind="bank"):
    n, m, d, rows = IN_BLOCKS[dtype.itemsize]
    return expected_of(call, gathered(n, m, d, rows, kind, dtype), X)


@one_thread
@pytest.mark.parametrize("call", CALLED)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_gradients(call, dtype, isa):
    e = expected(call, dtype)
    e.judge(evaluate(ops, call, e.problem, X))


@pytest.mark.parametrize("kind", ["bank", "skewed bank"])
def test_threads(kind, threads):
    """Blocks are shared out; of a skewed bank some have most pairs, and some none. Two runs agree to the last bit."""
    for call in ("cross-entropy, weighted", "softplus"):
        e = expected(call, torch.float32, kind)
        ours, again = (evaluate(ops, call, e.problem, X) for _ in range(2))
        e.judge(ours)
        assert all(torch.equal(ours[name], again[name]) for name in ours)


@pytest.mark.parametrize("n,m", [(5, 280_000), (1, 2**20 + 7777)], ids=["groups of queries", "parts of negatives"])
def test_more_pairs_than_are_sorted_at_once(n, m, threads):
    check("cross-entropy", gathered(n, m, 8, 300_000, dtype=torch.float32), X)


@one_thread
def test_blocks_are_the_whole():
    """The log-sum-exp of all negatives is that of two halves, each too few for blocks."""
    n, m, d, rows = IN_BLOCKS[4]
    p = gathered(n, m, d, rows, dtype=torch.float32)
    whole, *halves = (ops.gathered_negative_lse(p.x, p.y, part, p.scale) for part in (p.index, *p.index.chunk(2, 1)))
    torch.testing.assert_close(whole, log_add_exp(*halves), rtol=1e-6, atol=1e-6)


@one_thread
def test_ranks_and_entropies(isa):
    n, m, d, rows = IN_BLOCKS[4]
    p = gathered(n, m, d, rows, dtype=torch.float32)
    positive = p.y[p.index[:, 7]]  # its copies, at least the seventh, are ties
    lse, entropy, rank = ops.gathered_ranking(p.x, p.y, p.index, p.scale, positive)
    s = p.scale * (p.y.double()[p.index] @ p.x.double()[:, :, None]).squeeze(2)
    own = s[:, 7:8]
    tied = p.index == p.index[:, 7:8]
    assert torch.equal(rank, ((s >= own) | tied).sum(1)) and (rank > 0).all()
    torch.testing.assert_close(lse, s.logsumexp(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy, torch.special.entr(s.softmax(1)).sum(1), rtol=1e-5, atol=1e-5)


@one_thread
@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_large_scores(scale):
    n, m, d, rows = IN_BLOCKS[4]
    check("cross-entropy", gathered(n, m, d, rows, dtype=torch.float32, scale=scale), X)


@one_thread
def test_non_finite_rows_stay_with_the_queries_that_point_to_them():
    n, m, d, rows = IN_BLOCKS[4]
    p = gathered(n, m, d, rows, dtype=torch.float32)
    index, y = p.index.clone().remainder(rows - 2), p.y.clone()
    index[1, 100], index[2] = rows - 1, rows - 2
    y[rows - 1], y[rows - 2] = math.nan, 0
    x = p.x.clone()
    y[rows - 2, 0], x[:, 0] = -INF, 1
    result = evaluate(ops, "negative_lse", Gathered(x, y, index, 1.0, 0.0, p.positive), X)
    clean = evaluate(ops, "negative_lse", Gathered(x, p.y, index, 1.0, 0.0, p.positive), X)
    assert result["value"][1].isnan() and result["value"][2] == -INF
    for row in (0, 3):
        assert torch.equal(result["value"][row], clean["value"][row]) and torch.equal(
            result["dx"][row], clean["dx"][row]
        )
