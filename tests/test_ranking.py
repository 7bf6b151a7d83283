"""Ranks of the positives and entropies of the weights: every instruction set and dtype, ties, edges, losses' stats."""

import math
from dataclasses import replace

import pytest
import torch
from problems import DTYPES, EXCLUSIONS, INF, SHAPES, excluded_log_weights, from_scores, laid_out, problem, wide

from mi_ext import DenseScores, DotScores, losses, ops, reference

one_thread = pytest.mark.usefixtures("one_thread")
FLOATS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def positives_of(p):
    """[n, d], where there is no target."""
    return p.x.flip(0) if p.exclusions[0] is None else None


def check(p):
    """Statistics to rounding; ranks exactly, but for scores that rounding cannot tell from the positive's."""
    ours = ops.dot_ranking(p.x, p.y, p.scale, p.exclusions, positives_of(p))
    q = p.to(torch.float64)
    truth = reference.dot_ranking(q.x, q.y, p.scale, p.exclusions, positives_of(q))
    tolerance = 64 * torch.finfo(wide(p.x.dtype)).eps * (1 + p.largest_score)
    for one, expected in zip(ours[:3], truth[:3], strict=True):
        if expected is not None:
            torch.testing.assert_close(one, expected, rtol=tolerance, atol=tolerance)
    own = q.scale * (q.x * (q.y[p.exclusions[0]] if p.exclusions[0] is not None else positives_of(q))).sum(1)
    negatives = torch.where(
        reference.negative_mask(len(q.x), len(q.y), p.exclusions, q.x.device), q.scale * q.x @ q.y.T, -INF
    )
    least, most = ((negatives >= (own + margin)[:, None]).sum(1) for margin in (tolerance, -tolerance))
    assert ours[3].dtype == torch.int64 and ((least <= ours[3]) & (ours[3] <= most)).all()
    if p.x.dtype == torch.float64:
        assert torch.equal(ours[3], truth[3])


@one_thread
@pytest.mark.parametrize("kind", EXCLUSIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_oracle(kind, dtype, isa):
    for shape in SHAPES[EXCLUSIONS.index(kind) % 3 :: 3]:
        check(problem(*shape, kind, dtype))


@one_thread
@pytest.mark.parametrize("layout", ["rows apart", "strided", "transposed", "offset"])
@pytest.mark.parametrize("kind", ["everything", "everything, external"])
def test_layouts(layout, kind):
    for d in (20, 64):
        p = problem(19, 37, d, kind, torch.float32)
        check(type(p)(**{**vars(p), "x": laid_out(p.x, layout)}))
        check(type(p)(**{**vars(p), "y": laid_out(p.y, layout)}))


def test_threads(threads):
    for shape in [(1, 500, 20), (40, 400, 8), (300, 100, 33)]:
        check(problem(*shape, "everything", torch.float32))
        check(problem(*shape, "everything, external"))


@one_thread
@FLOATS
@pytest.mark.parametrize("step", [50.0, -50.0, 41.5])
def test_references_raised_again_and_again(step, dtype):
    """The entropy's own sum moves along: two halves of equal weight at the top are log 2, wherever they arrive."""
    check(from_scores((step * torch.arange(130.0, dtype=torch.float64)).expand(40, -1), dtype))
    s = torch.zeros(40, 130, dtype=torch.float64)
    s[:, 3] = s[:, 120] = 30 * step
    entropy = ops.dot_ranking(*at(from_scores(s, dtype, target=torch.zeros(40, dtype=torch.int64))))[2]
    if step > 0:
        torch.testing.assert_close(entropy, torch.full_like(entropy, math.log(2)), rtol=1e-6, atol=1e-6)


def at(p):
    return p.x, p.y, p.scale, p.exclusions, positives_of(p)


@one_thread
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_copies_of_the_positive_are_ties(dtype, isa):
    """In every tile shape and on both sides of it, however the sums round: none above, none below."""
    g = torch.Generator().manual_seed(0)
    for d in (3, 64, 100, 257):
        x = torch.randn(29, d, generator=g, dtype=torch.float64).to(dtype)
        copy = torch.randn(d, generator=g, dtype=torch.float64).to(dtype)
        for m in (1, 2, 6, 7, 9, 97):
            y = copy.expand(m, d)
            for target in range(0, m, 5):
                tied = ops.dot_ranking(x, y, 0.37, (torch.full((29,), target), None, None, None))[3]
                assert (tied == m - 1).all()
            beside = ops.dot_ranking(x, y, 0.37, (None,) * 4, copy.expand(29, d))[3]
            assert (beside == m).all()


@one_thread
@FLOATS
def test_entropy_of_equal_and_of_single_weights(dtype):
    """log of the number of negatives; 0 for one; e^v counts as repetition of a candidate; −inf for none."""
    x, y = torch.ones(3, 2, dtype=dtype), torch.ones(7, 2, dtype=dtype)
    target = torch.zeros(3, dtype=torch.int64)
    weight = torch.full((7,), -INF, dtype=torch.float64)
    for v, expected in ((None, math.log(6)), (weight, -INF)):
        entropy = ops.dot_ranking(x, y, 2.0, (target, None, None, v))[2]
        torch.testing.assert_close(entropy, torch.full_like(entropy, expected), rtol=1e-6, atol=1e-6)
    weight[3] = 5.0
    rank, entropy = ops.dot_ranking(x, y, 2.0, (target, None, None, weight))[3:1:-1]
    assert (rank == 1).all() and entropy.abs().max() < 1e-6


@one_thread
@FLOATS
@pytest.mark.parametrize("value", [INF, math.nan])
def test_log_weights_of_excluded_candidates(value, dtype):
    p = problem(30, 50, 5, "targets", dtype)
    check(replace(p, exclusions=excluded_log_weights(30, 50, value)))


@one_thread
@FLOATS
def test_non_finite_scores(dtype):
    """−inf never outranks; NaN does; a NaN positive is last; a NaN stays in its row."""
    s = torch.randn(12, 30, generator=torch.Generator().manual_seed(0), dtype=dtype)
    s[2, 4], s[3, 5], s[5, 5], s[6, 6], s[7, 1] = math.nan, INF, math.nan, -INF, -INF
    s[8] = -INF
    expected = reference.ranking(s.double(), (torch.arange(12), None, None, None))
    weights = torch.eye(30, dtype=dtype)
    finite = torch.where(s.isfinite(), s, 0.0)
    dense = DenseScores(s)
    assert torch.equal(dense.ranking()[0], expected[3])
    assert expected[3][8] == 0 and expected[3][6] == 29 and expected[3][5] == 30
    p = finite.clone()
    p[2], p[3, 0] = math.nan, INF  # products with zeros are NaN: whole rows
    results = ops.dot_ranking(p, weights, 1.0, (torch.arange(12), None, None, None))
    for row in (2, 3):
        assert results[1][row].isnan() and results[2][row].isnan() and results[3][row] == 30
    clean = [k for k in range(12) if k not in (2, 3)]
    assert results[1][clean].isfinite().all() and results[2][clean].isfinite().all()
    torch.testing.assert_close(
        results[3][clean], reference.ranking(finite.double(), (torch.arange(12), None, None, None))[3][clean]
    )


@one_thread
@pytest.mark.parametrize("n,m", [(0, 5), (4, 0), (0, 0)])
def test_nothing(n, m):
    target, external = (torch.zeros(0, dtype=torch.int64), None) if n == 0 and m > 0 else (None, torch.ones(n, 3))
    _, lse, entropy, rank = ops.dot_ranking(
        torch.ones(n, 3), torch.ones(m, 3), 1.0, (target, None, None, None), external
    )
    assert (lse == -INF).all() and (entropy == -INF).all() and (rank == 0).all() and len(rank) == n


# Sources and losses ---------------------------------------------------------------------------------------------------


@one_thread
def test_sources_agree_and_keep_their_statistics():
    """The walk that ranks also gives the log-partition, bias included."""
    p = problem(9, 14, 5)
    dot = DotScores(p.x, p.y, p.scale, 0.4, p.exclusions[0])
    dense = DenseScores(p.scale * p.x @ p.y.T + 0.4, p.exclusions[0])
    for ours, expected in zip(dot.ranking(), dense.ranking(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
        assert not ours.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(dot.log_partition(), dense.log_partition(), rtol=1e-12, atol=1e-12)
        fresh = DotScores(p.x, p.y, p.scale, 0.4, p.exclusions[0])
        torch.testing.assert_close(dot.log_partition(), fresh.log_partition(), rtol=1e-12, atol=1e-12)


G = torch.Generator().manual_seed(3)
A, B, QUEUE = (torch.nn.functional.normalize(torch.randn(k, 4, generator=G, dtype=torch.float64)) for k in (8, 8, 20))
VIEWS = torch.cat([A, B])
NOT_SELF = ~torch.eye(16, dtype=torch.bool)
BESIDE = torch.cat([(A * B).sum(1, keepdim=True), A @ QUEUE.T], 1)
# name: (stats, scores with the positive in the column `target`, what takes part)
STATS = {
    "InfoNCE": (lambda: losses.InfoNCE(0.2)(A, B, return_stats=True), A @ B.T / 0.2, torch.arange(8), None),
    "CLIP": (lambda: losses.CLIP(0.2)(A, B, return_stats=True), A @ B.T / 0.2, torch.arange(8), None),
    "SigLIP": (lambda: losses.SigLIP(0.2)(A, B, return_stats=True), A @ B.T / 0.2, torch.arange(8), None),
    "MLCPC": (lambda: losses.MLCPC(0.5, 0.2)(A, B, return_stats=True), A @ B.T / 0.2, torch.arange(8), None),
    "MoCo": (lambda: losses.MoCo(0.2)(A, B, QUEUE, return_stats=True), BESIDE / 0.2, torch.zeros(8).long(), None),
    "NTXent": (lambda: losses.NTXent(0.2)(A, B, return_stats=True), VIEWS @ VIEWS.T / 0.2, "other view", NOT_SELF),
    "DCL": (lambda: losses.DCL(0.2)(A, B, return_stats=True), VIEWS @ VIEWS.T / 0.2, "other view", NOT_SELF),
}


@one_thread
@pytest.mark.parametrize("name", STATS)
def test_stats_of_losses(name):
    call, s, target, takes_part = STATS[name]
    target = torch.arange(16).roll(8) if isinstance(target, str) else target
    s = s if takes_part is None else torch.where(takes_part, s, -INF)
    rows = torch.arange(len(s))
    negatives = s.clone()
    negatives[rows, target] = -INF
    rank = (negatives >= s[rows, target][:, None]).sum(1)
    weights = negatives.softmax(1)
    _, stats = call()
    assert torch.equal(stats["rank"], rank) and 0 < (rank == 0).sum() < len(s)
    order = s.argsort(1, descending=True)
    for k in (1, 5):
        hits = (order[:, :k] == target[:, None]).any(1)
        torch.testing.assert_close(stats[f"top{k}"].double(), hits.double().mean())
    entropy = torch.special.entr(weights).sum(1)
    torch.testing.assert_close(stats["effective_negatives"], entropy.exp(), rtol=1e-9, atol=1e-9)


@one_thread
def test_collapsed_embeddings_score_nothing():
    same = torch.ones(9, 4)
    for loss in (losses.InfoNCE(), losses.CLIP(), losses.NTXent()):
        _, stats = loss(same, same, return_stats=True)
        assert stats["top1"] == stats["top5"] == 0
        assert (stats["rank"] == stats["n_negatives"]).all()
    _, stats = losses.MoCo()(same, same, torch.nn.functional.normalize(same), return_stats=True)
    assert stats["top1"] == 0 and (stats["rank"] == 9).all()


@one_thread
def test_asking_for_stats_walks_once_more(monkeypatch):
    """Rank, entropy, log-partition and estimate come from one walk."""
    calls = []
    for name in ("dot_statistics", "dot_ranking", "dot_cross_entropy_sum"):
        original = getattr(ops, name)
        monkeypatch.setattr(ops, name, lambda *a, f=original, k=name: calls.append(k) or f(*a))
    losses.InfoNCE()(A.clone().requires_grad_(), B, return_stats=True)
    assert calls == ["dot_cross_entropy_sum", "dot_ranking"]


@one_thread
def test_compile():
    torch._dynamo.reset()
    loss = losses.InfoNCE()
    compiled = torch.compile(lambda a, b: loss(a, b, return_stats=True), fullgraph=True, backend="eager")
    (_, ours), (_, expected) = compiled(A, B), loss(A, B, return_stats=True)
    for name in ("top1", "top5", "rank", "effective_negatives"):
        torch.testing.assert_close(ours[name], expected[name])
