"""Ranks and entropies of gathered and joint scores: every instruction set and dtype, threads, ties, edges."""

import math
from dataclasses import replace

import gathered_problems
import joint_problems
import pytest
import torch
from problems import DTYPES, INF, excluded_log_weights, moved, wide

from mi_ext import DenseScores, GatheredScores, JointScores, critics, ops, reference

one_thread = pytest.mark.usefixtures("one_thread")
FLOATS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
LAYERS = pytest.mark.parametrize("layers", [1, 2], ids=["one layer", "two layers"])


def judge(ours, truth, scores, positive, exclusions, dtype):
    """Statistics to rounding; ranks exactly, but for scores that rounding cannot tell from the positive's."""
    largest = scores[scores.isfinite()].abs().max().item() if scores.numel() else 0.0
    tolerance = 64 * torch.finfo(wide(dtype)).eps * (1 + largest)
    for one, expected in zip(ours[:-1], truth[:-1], strict=True):
        torch.testing.assert_close(one, expected, rtol=tolerance, atol=tolerance)
    negatives = torch.where(reference.negative_mask(*scores.shape, exclusions, scores.device), scores, -INF)
    least, most = ((negatives >= (positive + margin)[:, None]).sum(1) for margin in (tolerance, -tolerance))
    assert ours[-1].dtype == torch.int64 and ((least <= ours[-1]) & (ours[-1] <= most)).all()
    if dtype == torch.float64:
        assert torch.equal(ours[-1], truth[-1])


def ranked(p, positive):
    """The operators' results for gathered scores on the device in use, brought back."""
    p = p.moved()
    return tuple(t.cpu() for t in ops.gathered_ranking(p.x, p.y, p.index, p.scale, moved(positive)))


def check_gathered(p, positive=None):
    positive = p.x.flip(0) if positive is None else positive
    ours = ranked(p, positive)
    q = p.to(torch.float64)
    truth = reference.gathered_ranking(q.x, q.y, q.index, q.scale, positive.double())
    scores = reference.gathered_scores(q.x, q.y, q.index, q.scale)
    judge(ours, truth, scores, q.scale * (q.x * positive.double()).sum(1), (None,) * 4, p.x.dtype)


def joint_ranked(p):
    p = p.moved()
    network = p.inner_weight, p.inner_bias, p.last_weight
    return tuple(t.cpu() for t in ops.joint_ranking(p.a, p.b, network, p.exclusions))


def check_joint(p):
    ours = joint_ranked(p)
    q = p.to(torch.float64)
    network = q.inner_weight, q.inner_bias, q.last_weight
    truth = reference.joint_ranking(q.a, q.b, network, q.exclusions)
    judge(ours, truth, reference.joint_matrix(q.a, q.b, network), truth[0], q.exclusions, p.a.dtype)


@one_thread
@pytest.mark.parametrize("kind", gathered_problems.KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gathered_oracle(kind, dtype, isa):
    for shape in gathered_problems.SHAPES:
        check_gathered(gathered_problems.gathered(*shape, kind, dtype))


@one_thread
@pytest.mark.parametrize("kind", joint_problems.EXCLUSIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@LAYERS
def test_joint_oracle(layers, kind, dtype, isa):
    for shape in joint_problems.SHAPES:
        check_joint(joint_problems.problem(*shape, layers, kind, dtype))


def test_threads(threads):
    for shape in [(1, 3000, 20, 70), (3, 700, 33, 90), (50, 40, 8, 9)]:
        for kind in ("bank", "negatives"):
            check_gathered(gathered_problems.gathered(*shape, kind))
    for layers, shape in [(1, (100, 300, 17)), (2, (7, 200, 9)), (1, (1, 50, 8))]:
        check_joint(joint_problems.problem(*shape, layers, "everything"))


@one_thread
@LAYERS
@pytest.mark.parametrize("value", [INF, math.nan])
def test_log_weights_of_excluded_candidates(value, layers):
    p = joint_problems.problem(20, 41, 9, layers, dtype=torch.float32)
    check_joint(replace(p, exclusions=excluded_log_weights(20, 41, value)))


@one_thread
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_copies_of_the_positive_are_ties(dtype, isa):
    """However the sums round: none above, none below, wherever the copies lie."""
    g = torch.Generator().manual_seed(0)
    for d in (3, 64, 100):
        x = torch.randn(29, d, generator=g, dtype=torch.float64).to(dtype)
        copy = torch.randn(d, generator=g, dtype=torch.float64).to(dtype)
        for m in (1, 7, 97, 300):
            beside = ops.gathered_ranking(x, copy.expand(29, m, d), None, 0.37, copy.expand(29, d))[-1]
            assert (beside == m).all()
            last = torch.randn(d, generator=g, dtype=torch.float64).to(dtype)
            inner = torch.randn(5, d, generator=g, dtype=torch.float64).to(dtype)
            for network in ((None, None, last), (inner, inner[:, 0], last[:1].expand(5))):
                target = torch.randint(m, (29,), generator=g)
                tied = ops.joint_ranking(x, copy.expand(m, d), network, (target, None, None, None))[-1]
                assert (tied == m - 1).all()


@one_thread
@FLOATS
@pytest.mark.parametrize("step", [30.0, -30.0])
def test_parts_of_very_different_size(step, dtype):
    """The entropy's own sum moves along: two halves of equal weight at the top are log 2, wherever they arrive."""
    s = torch.zeros(5, 1000, dtype=dtype)
    s[:, 3] = s[:, 900] = 30 * step
    one = torch.ones(5, 1, dtype=dtype)
    gathered = ops.gathered_ranking(one, s[:, :, None], None, 1.0, one)
    network = None, None, torch.tensor([1.0, -1.0], dtype=dtype)
    b = torch.stack([s[0].clamp_min(0), -s[0].clamp_max(0)], 1)
    target = torch.full((5,), 40)
    joint = ops.joint_ranking(torch.zeros(5, 2, dtype=dtype), b, network, (target, None, None, None))[1:]
    for lse, entropy, rank in (gathered, joint):
        others = 998 if rank is gathered[2] else 997
        expected = (30 * step + math.log(2), math.log(2)) if step > 0 else (math.log(others), math.log(others))
        for ours, value in zip((lse, entropy), expected, strict=True):
            torch.testing.assert_close(ours, torch.full_like(ours, value), rtol=1e-6, atol=1e-6)
    assert (gathered[2] == (2 if step > 0 else 0)).all()  # the positive scores 1
    assert (joint[2] == (999 if step > 0 else 997)).all()  # and here 0, like most


@one_thread
@FLOATS
def test_non_finite_scores(dtype):
    """−inf never outranks; NaN does; a NaN positive is last; a NaN stays in its row."""
    s = torch.randn(7, 300, generator=torch.Generator().manual_seed(0), dtype=dtype)
    positive = torch.zeros(7, 1, dtype=dtype)
    s[1, 280], s[2, 5], s[3, 6] = math.nan, INF, -INF
    s[4], positive[4], positive[5], positive[6] = -INF, -INF, math.nan, -INF
    lse, entropy, rank = ops.gathered_ranking(torch.ones(7, 1, dtype=dtype), s[:, :, None], None, 1.0, positive)
    truth = reference.ranking(s.double(), (None,) * 4, positive.double().squeeze(1))
    for ours, expected in zip((lse, entropy), truth[1:3], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert torch.equal(rank, truth[3]) and rank[4] == 0 and rank[5] == rank[6] == 300
    a = torch.zeros(4, 3, dtype=dtype)
    a[1, 0] = math.nan
    b = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)
    target = torch.arange(4)
    p, lse, entropy, rank = ops.joint_ranking(a, b, (None, None, b[0]), (target, None, None, None))
    assert p[1].isnan() and lse[1].isnan() and entropy[1].isnan() and rank[1] == 50
    others = [0, 2, 3]
    assert torch.stack([p, lse, entropy])[:, others].isfinite().all() and (rank[others] < 50).all()


@one_thread
def test_nothing():
    for n, m in [(0, 5), (4, 0), (0, 0)]:
        x = torch.ones(n, 3)
        for y, index in ((torch.ones(n, m, 3), None), (torch.ones(6, 3), torch.zeros(n, m, dtype=torch.int64))):
            lse, entropy, rank = ops.gathered_ranking(x, y, index, 1.0, x)
            assert (lse == -INF).all() and (entropy == -INF).all() and (rank == 0).all() and len(rank) == n
    network = None, None, torch.ones(3)
    alone = ops.joint_ranking(torch.ones(4, 3), torch.ones(1, 3), network, (torch.zeros(4).long(), None, None, None))
    assert (alone[1] == -INF).all() and (alone[2] == -INF).all() and (alone[3] == 0).all()
    none = ops.joint_ranking(torch.ones(0, 3), torch.ones(2, 3), network, (torch.zeros(0).long(), None, None, None))
    assert len(none[3]) == 0


@one_thread
def test_sources_agree_and_keep_their_statistics():
    """The walk that ranks also gives the log-partition, bias included."""
    g = torch.Generator().manual_seed(0)
    x, positive, y = torch.randn(9, 5, generator=g), torch.randn(9, 5, generator=g), torch.randn(14, 5, generator=g)
    index = torch.randint(14, (9, 20), generator=g)
    matrix = 0.7 * torch.cat([(x * positive).sum(1, keepdim=True), (y[index] @ x[:, :, None]).squeeze(2)], 1) + 0.4
    critic = critics.Joint(5, 5, 8)
    sources = {
        GatheredScores(x, y, index, 0.7, 0.4, positive=positive): DenseScores(matrix, torch.zeros(9).long()),
        JointScores(x, y, critic): DenseScores(JointScores(x, y, critic).column_block(0, 14)),
    }
    for ours, dense in sources.items():
        for one, expected in zip(ours.ranking(), dense.ranking(), strict=True):
            torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5)
            assert not one.requires_grad
        with torch.no_grad():
            torch.testing.assert_close(ours.log_partition(), dense.log_partition(), rtol=1e-5, atol=1e-5)
