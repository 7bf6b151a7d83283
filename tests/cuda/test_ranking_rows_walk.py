"""Ranks and entropies of gathered and joint scores on a simulated GPU: the checks of the CPU's operators."""

import math
from dataclasses import replace

import joint_problems
import pytest
import torch
from gathered_problems import KINDS, gathered
from problems import DTYPES, INF, excluded_log_weights, laid_out
from ranking_walks import RankingWalks
from test_ranking_rows import check_gathered, check_joint, joint_ranked, ranked

from mi_ext import ops, reference

pytestmark = pytest.mark.usefixtures("walks")
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
FLOATS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
LAYERS = pytest.mark.parametrize("layers", [1, 2], ids=["one layer", "two layers"])


@EVERY_DTYPE
@pytest.mark.parametrize("kind", KINDS)
def test_gathered(kind, dtype):
    check_gathered(gathered(3, 37, 20, 9, kind, dtype))


@EVERY_DTYPE
@pytest.mark.parametrize("shape", [(37, 5, 1, 4), (1, 1, 3, 2), (3, 35, 31, 9), (2, 17, 200, 30), (1, 5, 2060, 4)])
def test_ragged_gathered_rows(shape, dtype):
    """Rows of one lane, of some lanes, of all lanes of a warp, and of several pieces a lane and several loads."""
    check_gathered(gathered(*shape, "bank", dtype))


@EVERY_DTYPE
def test_parts_of_a_query(dtype, walks):
    walks.multiprocessors = 4
    check_gathered(gathered(2, 700, 16, 50, "bank", dtype))


@pytest.mark.parametrize("layout", ["rows apart", "strided"])
def test_layouts_of_the_positives(layout):
    """Not aligned to 16 or 4 bytes, as the negatives are; NaN lies between the rows."""
    for dtype in (torch.bfloat16, torch.float32):
        p = gathered(3, 9, 16, 7, "bank", dtype)
        check_gathered(p, laid_out(p.x.flip(0), layout))


@EVERY_DTYPE
@LAYERS
def test_joint(layers, dtype):
    check_joint(joint_problems.problem(9, 33, 17, layers, "everything", dtype))


@LAYERS
@pytest.mark.parametrize("kind", [kind for kind in joint_problems.EXCLUSIONS if kind != "everything"])
def test_exclusions(kind, layers):
    check_joint(joint_problems.problem(9, 33, 5, layers, kind, torch.float32))


@LAYERS
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 300, 3), (70, 1, 32), (5, 33, 130)], ids=str)
def test_ragged_joint_shapes(shape, layers):
    check_joint(joint_problems.problem(*shape, layers, "targets", torch.float32))


@pytest.mark.parametrize("layers,shape", [(1, (260, 270, 3)), (2, (130, 5, 2)), (2, (5, 130, 2))], ids=str)
def test_several_blocks_of_pairs(layers, shape):
    """A block may come before the one in which a row's positive lies."""
    check_joint(joint_problems.problem(*shape, layers, "everything", torch.float32))


@EVERY_DTYPE
def test_copies_of_the_positive_are_ties(dtype):
    """However the sums round: none above, none below, wherever the copies lie."""
    g = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    for d in (3, 100):
        x, copy, last, inner = normal(9, d), normal(d), normal(d), normal(5, d)
        assert (ops.gathered_ranking(x, copy.expand(9, 35, d), None, -0.37, copy.expand(9, d))[2] == 35).all()
        for network in ((None, None, last), (inner, normal(5), normal(5))):
            target = torch.tensor([0, 4, 16, 31, 32, 63, 64, 96, 130])
            assert (ops.joint_ranking(x, copy.expand(131, d), network, (target, None, None, None))[3] == 130).all()


@FLOATS
@pytest.mark.parametrize("step", [30.0, -30.0])
def test_parts_of_very_different_size(step, dtype, walks):
    """The entropy's own sum moves along: two halves of equal weight at the top are log 2, wherever they arrive."""
    walks.multiprocessors = 2
    s = torch.zeros(2, 600, dtype=dtype)
    s[:, 3] = s[:, 590] = 30 * step
    one = torch.ones(2, 1, dtype=dtype)
    gathered_results = ops.gathered_ranking(one, s[:, :, None], None, 1.0, one)
    b = torch.stack([s[0].clamp_min(0), -s[0].clamp_max(0)], 1)
    network, target = (None, None, torch.tensor([1.0, -1.0], dtype=dtype)), torch.full((2,), 40)
    joint_results = ops.joint_ranking(torch.zeros(2, 2, dtype=dtype), b, network, (target, None, None, None))[1:]
    for results, others in ((gathered_results, 598), (joint_results, 597)):
        expected = (30 * step + math.log(2), math.log(2)) if step > 0 else (math.log(others), math.log(others))
        for ours, value in zip(results[:2], expected, strict=True):
            torch.testing.assert_close(ours, torch.full_like(ours, value), rtol=1e-6, atol=1e-6)
    assert (gathered_results[2] == (2 if step > 0 else 0)).all()  # the positive scores 1
    assert (joint_results[2] == (599 if step > 0 else 597)).all()  # and here 0, like most


@FLOATS
def test_references_raised_again_and_again(dtype):
    s = (50 * torch.arange(70.0, dtype=torch.float64)).expand(3, 70).to(dtype)
    lse, entropy, rank = ops.gathered_ranking(torch.ones(3, 1, dtype=dtype), s[:, :, None], None, 1.0, s[:, 66:67])
    torch.testing.assert_close(lse, s[:, -1].double(), rtol=1e-6, atol=0)
    assert (entropy.abs() < 1e-9).all() and (rank == 4).all()
    check_joint(joint_problems.from_scores(s, dtype))


@pytest.mark.parametrize("scale", [100.0, 1e4, -1.0])
def test_scales(scale):
    check_gathered(gathered(5, 70, 20, 50, "bank", torch.float32, scale))
    if scale > 0:
        check_joint(joint_problems.problem(9, 40, 5, 1, "targets", torch.float32, scale))


@FLOATS
def test_non_finite_gathered_scores(dtype):
    """−inf never outranks; NaN does; a NaN positive is last; a NaN stays in its row."""
    s = torch.randn(8, 70, generator=torch.Generator().manual_seed(0), dtype=dtype)
    positive = torch.zeros(8, 1, dtype=dtype)
    s[1, 60], s[2, 5], s[3, 6] = math.nan, INF, -INF
    s[4], positive[4], positive[5], positive[6], positive[7] = -INF, -INF, math.nan, -INF, INF
    lse, entropy, rank = ops.gathered_ranking(torch.ones(8, 1, dtype=dtype), s[:, :, None], None, 1.0, positive)
    truth = reference.ranking(s.double(), (None,) * 4, positive.double().squeeze(1))
    for ours, expected in zip((lse, entropy), truth[1:3], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert torch.equal(rank, truth[3]) and rank[4] == rank[7] == 0 and rank[5] == rank[6] == 70


@pytest.mark.parametrize("outside", [7, -1, 2**40])
def test_an_index_outside_the_bank_makes_its_row_nan(outside):
    p = gathered(5, 40, 6, 7, "bank", torch.float32)
    truth = ranked(p, p.x)
    p.index[3, 37] = outside
    results, others = ranked(p, p.x), torch.arange(5) != 3
    assert results[0][3].isnan() and results[1][3].isnan()
    assert all(torch.equal(ours[others], expected[others]) for ours, expected in zip(results, truth, strict=True))


@LAYERS
@pytest.mark.parametrize("value", [INF, math.nan])
def test_log_weights_of_excluded_candidates(value, layers):
    p = joint_problems.problem(20, 41, 9, layers, dtype=torch.float32)
    check_joint(replace(p, exclusions=excluded_log_weights(20, 41, value)))


@LAYERS
@pytest.mark.parametrize("value", [math.nan, -INF])
def test_non_finite_joint_entries(value, layers):
    """As torch.logsumexp row by row; what is excluded is not looked at, and a NaN positive ranks last."""
    p = joint_problems.problem(20, 41, 9, layers, "everything", torch.float64)
    a, b = p.a.clone(), p.b.clone()
    a[3, 2], a[17, 4], b[5, 0] = value, value, value
    p = replace(p, a=a, b=b)
    truth = reference.joint_ranking(p.a, p.b, (p.inner_weight, p.inner_bias, p.last_weight), p.exclusions)
    for ours, expected in zip(joint_ranked(p)[:3], truth[:3], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9, equal_nan=True)
    rank, is_nan = joint_ranked(p)[3], truth[0].isnan()
    assert torch.equal(rank[~is_nan], truth[3][~is_nan]) and (rank[is_nan] == 41).all()


@LAYERS
def test_a_target_outside_the_candidates_is_last(layers):
    p = joint_problems.problem(5, 7, 3, layers, "targets", torch.float32)
    truth = joint_ranked(p)
    p.exclusions[0][1:4] = torch.tensor([7, -1, 2**40])
    positive, lse, _, rank = joint_ranked(p)
    assert positive.isnan().tolist() == [False, True, True, True, False]
    assert lse.isfinite().all() and rank.tolist() == [truth[3][0], 7, 7, 7, truth[3][4]]


def test_nothing(session_walks):
    for n, m in [(0, 5), (4, 0), (0, 0)]:
        x = torch.ones(n, 3)
        for y, index in ((torch.ones(n, m, 3), None), (torch.ones(6, 3), torch.zeros(n, m, dtype=torch.int64))):
            lse, entropy, rank = ops.gathered_ranking(x, y, index, 1.0, x)
            assert (lse == -INF).all() and (entropy == -INF).all() and (rank == 0).all() and len(rank) == n
    network = None, None, torch.ones(3)
    one, none = torch.zeros(4).long(), torch.zeros(0).long()
    alone = ops.joint_ranking(torch.ones(4, 3), torch.ones(1, 3), network, (one, None, None, None))
    assert (alone[1] == -INF).all() and (alone[2] == -INF).all() and (alone[3] == 0).all()
    assert len(ops.joint_ranking(torch.ones(0, 3), torch.ones(2, 3), network, (none, None, None, None))[3]) == 0
    without = RankingWalks(session_walks).joint_ranking(
        torch.ones(4, 3), torch.ones(0, 3), *network, one, None, None, None
    )
    assert without[0].isnan().all() and (without[1] == -INF).all() and (without[3] == 0).all()


def test_two_runs_agree_to_the_last_bit(walks):
    walks.multiprocessors = 2
    p, q = gathered(5, 150, 24, 30, "bank", torch.bfloat16), joint_problems.problem(20, 70, 9, 1, "everything")
    for run, arguments in ((ranked, (p, p.x.flip(0))), (joint_ranked, (q,))):
        first, again = run(*arguments), run(*arguments)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def launches_of(walks, kernel):
    return [stats for stats in walks.launches if kernel in stats.kernel]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_gathered_rows_are_read_once(dtype, walks):
    """As for a loss; its positive is one row more for each part of a query."""
    n, m, d = 4, 512, 128
    p = gathered(n, m, d, 2000, "bank", dtype)
    ranked(p, p.x.flip(0))
    (stats,) = launches_of(walks, "gathered_queries")
    compulsory = n * m * (d * p.y.element_size() + 8)
    assert compulsory <= 32 * (stats.global_load_sectors + stats.global_store_sectors) <= 1.1 * compulsory
    assert stats.atomics == 0 and stats.shared_accesses == 0


def test_ranking_joint_scores_costs_little_beside_them(walks):
    """A pass over finished scores, and for the positives a sum over the units of n pairs."""
    n, m, h = 128, 256, 64
    joint_ranked(joint_problems.problem(n, m, h, 1, "targets", torch.float32))
    (scores,), (ranks,), (positives,) = (
        launches_of(walks, kernel) for kernel in ("one_layer_scores", "row_rankings", "one_layer_positives")
    )
    assert 32 * ranks.warp_instructions <= 62 * n * m and 32 * positives.warp_instructions <= 20 * n * h
    assert ranks.warp_instructions + positives.warp_instructions <= 0.5 * scores.warp_instructions
    assert all(stats.atomics == 0 for stats in walks.launches)
