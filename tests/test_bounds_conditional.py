"""Conditional bounds: against their definitions and closed forms, and resampling against the softmax it draws from."""

import math

import pytest
import torch

from mi_ext import DenseScores, DotScores, GatheredScores, bounds
from mi_ext.negatives import resample

INF = math.inf


def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def close(a, b, tolerance=1e-9):
    a, b = (torch.as_tensor(t, dtype=torch.float64) for t in (a, b))
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_conditional_follows_the_definition():
    x, y, own = normal(5, 3), normal(5, 3, seed=1), normal(5, 7, 3, seed=2)
    value = bounds.conditional_infonce(GatheredScores(x, negatives=own, positive=y))
    p, s = (x * y).sum(1).exp(), (x[:, None] * own).sum(2).exp()
    close(value, (8 * p / (p + s.sum(1))).log().mean())


def test_unconditioned_negatives_give_infonce():
    """The other pairs of the batch as each query's own negatives."""
    x, y = normal(6, 3), normal(6, 3, seed=1)
    others = torch.stack([torch.cat([torch.arange(i), torch.arange(i + 1, 6)]) for i in range(6)])
    expected = bounds.infonce(DotScores(x, y))
    close(bounds.conditional_infonce(GatheredScores(x, y, others, positive=y)), expected)
    close(bounds.conditional_infonce(GatheredScores(x, negatives=y[others], positive=y)), expected)


def test_at_most_log_k():
    x = 100 * torch.eye(4, dtype=torch.float64)
    own = torch.zeros(4, 9, 4, dtype=torch.float64)
    close(bounds.conditional_infonce(GatheredScores(x, negatives=own, positive=x)), math.log(10))
    for seed in range(20):
        x, y, own = normal(4, 2, seed=seed), normal(4, 2, seed=seed + 50), normal(4, 9, 2, seed=seed + 100)
        assert bounds.conditional_infonce(GatheredScores(x, negatives=own, positive=y, scale=5.0)) <= math.log(10)


def test_nothing_to_learn_beyond_the_condition_gives_zero():
    """Scores that depend on x'' alone: the positive looks like its negatives."""
    x = normal(6, 3)
    own = normal(6, 1, 3, seed=1).expand(6, 8, 3)
    close(bounds.conditional_infonce(GatheredScores(x, negatives=own, positive=own[:, 0])), 0.0)


@pytest.mark.parametrize("shape", [(5,), ()])
def test_variational(shape):
    scores = GatheredScores(normal(5, 3), negatives=normal(5, 7, 3, seed=2), positive=normal(5, 3, seed=1))
    kl = normal(*shape).abs().requires_grad_()
    value, terms = bounds.variational_infonce(scores, kl, return_terms=True)
    conditional = bounds.conditional_infonce(scores)
    close(value, conditional - kl.mean())
    close(bounds.variational_infonce(scores, kl), value)
    assert set(terms) == {"conditional", "kl"}
    close(terms["conditional"] - terms["kl"], value)
    close(torch.autograd.grad(value, kl)[0], torch.full(shape, -1 / max(kl.numel(), 1), dtype=torch.float64))


# Resampling -----------------------------------------------------------------------------------------------------------


def exact_weights(scores, x, y):
    """softmax over the negatives of each row, entry by entry."""
    target, x_label, y_label, v = scores.exclusions.tensors
    s = x @ y.T
    for i in range(len(x)):
        for j in range(len(y)):
            excluded = target is not None and j == target[i]
            excluded |= x_label is not None and bool(x_label[i] == y_label[j])
            s[i, j] = -INF if excluded else s[i, j] + (0 if v is None else v[j])
    return s.softmax(1)


def sources():
    x, y = normal(4, 2), 1.5 * normal(23, 2, seed=1)
    v = normal(23, seed=2)
    v[5] = -INF
    labels = torch.arange(4) % 3, torch.arange(23) % 5
    yield "targets", DotScores(x, y), x, y
    yield "beside", DotScores(x, y, positive=x), x, y
    yield "everything", DotScores(x, y, target=torch.tensor([22, 0, 7, 7]), labels=labels, candidate_log_weight=v), x, y
    yield "matrix", DenseScores(x @ y.T), x, y


SOURCES = {name: source for name, *source in sources()}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("entries", [1 << 20, 20], ids=["one block", "blocks of 5"])
def test_frequencies_are_the_softmax(name, entries, monkeypatch):
    """Pearson's χ² of 20 000 draws a row; its mean is the degrees of freedom, ≤ 22, and P(χ² > 60) = 2e-5."""
    monkeypatch.setattr("mi_ext.scores.blocks._BLOCK_ENTRIES", entries)
    scores, x, y = SOURCES[name]
    draws, weights = 20_000, exact_weights(scores, x, y)
    index = resample(scores, draws, generator(3))
    assert index.shape == (4, draws) and index.dtype == torch.int64
    count = torch.stack([torch.bincount(row, minlength=23) for row in index]).double()
    possible = weights > 0
    assert (count[~possible] == 0).all()
    expected = draws * weights
    chi_squared = torch.where(possible, (count - expected) ** 2 / expected, 0.0).sum(1)
    assert (chi_squared < 60).all() and (chi_squared > 3).all(), chi_squared


def test_draws_are_reproducible_and_do_not_depend_on_blocks(monkeypatch):
    scores, *_ = SOURCES["everything"]
    first = resample(scores, 300, generator(7))
    assert torch.equal(first, resample(scores, 300, generator(7)))
    assert not torch.equal(first, resample(scores, 300, generator(8)))
    monkeypatch.setattr("mi_ext.scores.blocks._BLOCK_ENTRIES", 12)
    assert torch.equal(first, resample(scores, 300, generator(7)))


def test_extreme_weights():
    """One candidate that takes all, and scores beyond the range of exp."""
    s = torch.zeros(3, 9, dtype=torch.float64)
    s[:, 8] = 5000.0
    assert (resample(DenseScores(s), 100, generator(0)) == 8).all()
    s[:, :] = -INF
    s[:, 4] = -5000.0
    assert (resample(DenseScores(s), 100, generator(0)) == 4).all()


def test_resampling_holds_blocks_of_columns_alone(monkeypatch):
    monkeypatch.setattr("mi_ext.scores.blocks._BLOCK_ENTRIES", 640)
    scores = DotScores(normal(64, 3), normal(500, 3))
    widths = []
    block = DotScores.column_block
    monkeypatch.setattr(DotScores, "column_block", lambda s, a, b: widths.append(b - a) or block(s, a, b))
    resample(scores, 5, generator(0))
    assert max(widths) == 10 and sum(widths) == 2 * 500


# SIR ------------------------------------------------------------------------------------------------------------------


def test_sir_is_conditional_infonce_on_the_resampled_negatives():
    x1, x2, y = normal(5, 3), normal(5, 3, seed=1), normal(40, 3, seed=2)
    target = torch.tensor([3, 39, 0, 7, 7])
    leaves = [t.clone().requires_grad_() for t in (x1, x2, y)]
    scale = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    scores2 = DotScores(leaves[1], leaves[2].detach(), target=target)
    value = bounds.sir_infonce(scores2, leaves[0], leaves[2], 11, generator(4), scale=scale, bias=0.3)
    index = resample(scores2, 11, generator(4))
    again = [t.clone().requires_grad_() for t in (x1, y)]
    positive = 1.7 * (again[0] * again[1][target]).sum(1, keepdim=True)
    matrix = torch.cat([positive, 1.7 * (again[1][index] * again[0][:, None]).sum(2)], 1)
    expected = bounds.infonce(DenseScores(matrix, torch.zeros(5, dtype=torch.int64)))
    close(value, expected)
    dx1, dx2, dy, dscale = torch.autograd.grad(value, [*leaves, scale], allow_unused=True)
    assert dx2 is None and dscale.isfinite()
    for a, b in zip((dx1, dy), torch.autograd.grad(expected, again), strict=True):
        close(a, b)


def test_sir_with_a_constant_condition_estimates_infonce_of_the_bank():
    """Constant s'': uniform weights. With as many draws as it takes, the mean over draws is that of p(y)."""
    x1, y = normal(4, 2), normal(30, 2, seed=2)
    constant = DotScores(torch.zeros(4, 1, dtype=torch.float64), torch.zeros(30, 1, dtype=torch.float64))
    draws = 40_000
    value = bounds.sir_infonce(constant, x1, y, draws, generator(0)) - math.log(draws + 1)
    s, p = x1 @ y.T, (x1 * y[:4]).sum(1)
    off = s.masked_fill(torch.eye(4, 30, dtype=torch.bool), -INF)
    mean = off.logsumexp(1) - math.log(29)
    close(value, (p - torch.logaddexp(p, mean + math.log(draws))).mean(), 0.02)


def test_sir_with_positives_beside_the_bank():
    x1, y, positive = normal(5, 3), normal(40, 3, seed=2), normal(5, 3, seed=3)
    beside = DotScores(normal(5, 3, seed=1), y, positive=positive)
    value = bounds.sir_infonce(beside, x1, y, 9, generator(0), positive=positive)
    index = resample(beside, 9, generator(0))
    close(value, bounds.infonce(GatheredScores(x1, y, index, positive=positive)))
    assert value <= math.log(10)


X, Y = torch.randn(3, 2), torch.randn(7, 2)
SCORES, BESIDE = DotScores(X, Y), DotScores(X, Y, positive=X)
OWN = GatheredScores(X, negatives=torch.randn(3, 4, 2), positive=X)
EMPTY_ROW = DenseScores(torch.tensor([[0.0, 1.0], [-INF, 0.0]]))
BAD = {
    "kl type": (lambda: bounds.variational_infonce(OWN, 0.3), ValueError, "^kl: .*0.3"),
    "kl shape": (lambda: bounds.variational_infonce(OWN, torch.zeros(4)), ValueError, r"^kl: .*\(4,\)"),
    "num_samples": (lambda: bounds.sir_infonce(SCORES, X, Y, 0), ValueError, "^num_samples: "),
    "num_samples type": (lambda: bounds.sir_infonce(SCORES, X, Y, 2.0), TypeError, "^num_samples: "),
    "source": (lambda: bounds.sir_infonce(OWN, X, Y, 3), ValueError, "^scores: .*GatheredScores"),
    "bank": (lambda: bounds.sir_infonce(SCORES, X, Y[:5], 3), ValueError, "^y: .*7 rows"),
    "positive missing": (lambda: bounds.sir_infonce(BESIDE, X, Y, 3), ValueError, "^positive: .*the positives"),
    "positive twice": (lambda: bounds.sir_infonce(SCORES, X, Y, 3, positive=X), ValueError, "^positive: .*none"),
    "width": (lambda: bounds.sir_infonce(SCORES, X[:, :1], Y, 3), ValueError, "^positive|^bank"),
    "empty row": (lambda: resample(EMPTY_ROW, 3), ValueError, "^scores: query 1 has nothing"),
    "no candidates": (lambda: resample(DotScores(X, Y[:0], positive=X), 3), ValueError, "^scores: query 0 has nothing"),
    "nan": (lambda: resample(DotScores(X * math.nan, Y), 3), ValueError, "^scores: query 0 has nothing"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_name_the_argument(name):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call()
