"""Bounds against their definitions on an explicit matrix, with gradients, exclusions and errors."""

import itertools
import math

import pytest
import torch
from score_matrices import SOURCES, close, dense, dot, matrix, parts

from mi_ext import DenseScores, DotScores, bounds

INF = math.inf


# Definitions, in the exp domain, of objectives with in-batch scores.
def by_ml_cpc(s, alpha):
    p, neg = parts(s)
    n, k = s.shape
    beta = (k - alpha) / (k - 1)
    return torch.log(n * k * p.exp() / (alpha * p.exp().sum() + beta * neg.exp().sum())).mean()


def by_alpha_cpc(s, alpha):
    p, neg = parts(s)
    k = s.shape[1]
    beta = (k - alpha) / (k - 1)
    return torch.log(k * p.exp() / (alpha * p.exp() + beta * neg.exp().sum(1))).mean()


def by_tuba(s, log_a):
    p, _ = parts(s)
    off = ~torch.eye(*s.shape, dtype=torch.bool)
    terms = (s - log_a).exp() + log_a
    return 1 + p.mean() - terms[off].mean()


def by_interpolated(s, alpha, log_a):
    n = len(s)
    total = 0.0
    for i, j in itertools.permutations(range(n), 2):

        def baseline(i, j):
            mean = sum(s[k, j].exp() for k in range(n) if k != i) / (n - 1)
            return torch.log(alpha * mean + (1 - alpha) * log_a[j].exp())

        total = total + s[j, j] - baseline(i, j) - (s[i, j] - baseline(j, j)).exp()
    return 1 + total / (n * (n - 1))


LOG_A = torch.tensor([0.3, -0.2, 0.8, 0.1, -0.5], dtype=torch.float64)
CASES = {
    "infonce": (bounds.infonce, lambda s: (5 * s.softmax(1).diagonal()).log().mean()),
    "alpha_cpc": (lambda t: bounds.alpha_cpc(t, 1.7), lambda s: by_alpha_cpc(s, 1.7)),
    "ml_cpc": (lambda t: bounds.ml_cpc(t, 0.6), lambda s: by_ml_cpc(s, 0.6)),
    "nwj": (bounds.nwj, lambda s: parts(s)[0].mean() - parts(s)[1].exp().mean() / math.e),
    "f_mine": (bounds.f_mine, lambda s: 1 + parts(s)[0].mean() - parts(s)[1].exp().mean()),
    "dv": (bounds.donsker_varadhan, lambda s: parts(s)[0].mean() - parts(s)[1].exp().mean().log()),
    "dv all": (lambda t: bounds.donsker_varadhan(t, "all"), lambda s: parts(s)[0].mean() - s.exp().mean().log()),
    "eta_dv": (lambda t: bounds.eta_dv(t, 0.4), lambda s: parts(s)[0].mean() - (parts(s)[1] - 0.4).exp().mean() + 0.6),
    "tuba": (lambda t: bounds.tuba(t, LOG_A), lambda s: by_tuba(s, LOG_A)),
    "interpolated 0": (lambda t: bounds.interpolated(t, 0.0, LOG_A), lambda s: by_interpolated(s, 0.0, LOG_A)),
    "interpolated": (lambda t: bounds.interpolated(t, 0.3, LOG_A), lambda s: by_interpolated(s, 0.3, LOG_A)),
    "interpolated 1": (lambda t: bounds.interpolated(t, 1.0, LOG_A), lambda s: by_interpolated(s, 1.0, LOG_A)),
    "jensen_shannon": (
        bounds.jensen_shannon,
        lambda s: -(1 + (-parts(s)[0]).exp()).log().mean() - (1 + parts(s)[1].exp()).log().mean(),
    ),
}


@SOURCES
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_follow_the_definition(name, source):
    ours, truth = CASES[name]
    s = matrix().requires_grad_()
    got, expected = ours(source(s)), truth(s)
    close(got, expected)
    close(torch.autograd.grad(got, s)[0], torch.autograd.grad(expected, s)[0])


@pytest.mark.parametrize("name", CASES)
def test_gradcheck(name):
    s = matrix(4, seed=3).requires_grad_()
    log_a = torch.zeros(4, dtype=torch.float64).requires_grad_()
    if name == "tuba":
        assert torch.autograd.gradcheck(lambda s, a: bounds.tuba(dense(s), a), (s, log_a))
    elif name.startswith("interpolated"):
        alpha = {"0": 0.0, "1": 1.0}.get(name[-1], 0.3)
        assert torch.autograd.gradcheck(lambda s, a: bounds.interpolated(dense(s), alpha, a), (s, log_a))
    else:
        assert torch.autograd.gradcheck(lambda s: CASES[name][0](dense(s)), s)


def test_the_bounds_return_the_dtype_of_the_scores():
    for call, _ in CASES.values():
        assert call(dense(matrix().float())).dtype == torch.float32


# Donsker–Varadhan variants, SMILE, exclusions ----------------------------------------------------------------------


@SOURCES
def test_shuffled_pairs_are_a_derangement(source):
    s = matrix(4)
    p, _ = parts(s)
    cycles = [q for q in itertools.permutations(range(4)) if all(i != j for i, j in enumerate(q))]
    candidates = [p.mean() - s[torch.arange(4), torch.tensor(q)].exp().mean().log() for q in cycles]
    seen = set()
    for seed in range(40):
        value = bounds.donsker_varadhan(source(s), "shuffled", generator=torch.Generator().manual_seed(seed))
        again = bounds.donsker_varadhan(source(s), "shuffled", generator=torch.Generator().manual_seed(seed))
        assert value == again
        distance = torch.stack([(value - c).abs() for c in candidates])
        assert distance.min() < 1e-9
        seen.add(int(distance.argmin()))
    assert len(seen) >= 4


@SOURCES
def test_ema_corrects_the_gradient_and_not_the_value(source):
    estimator = bounds.DonskerVaradhanEMA(momentum=0.9)
    assert estimator.log_ema.isnan() and estimator.log_ema.dim() == 0
    mean_of_exp = None
    for seed in range(3):
        s = matrix(seed=seed).requires_grad_()
        batch = parts(s)[1].exp().mean()
        now = batch.item()
        mean_of_exp = now if mean_of_exp is None else 0.9 * mean_of_exp + 0.1 * now
        value = estimator(source(s))
        close(value, bounds.donsker_varadhan(source(s)))
        close(estimator.log_ema.exp(), mean_of_exp)
        expected = torch.autograd.grad(parts(s)[0].mean() - batch / mean_of_exp, s)[0]
        close(torch.autograd.grad(value, s)[0], expected)
    estimator.eval()
    estimator(source(matrix(seed=9)))
    close(estimator.log_ema.exp(), mean_of_exp)
    assert list(estimator.state_dict()) == ["log_ema"]


@SOURCES
@pytest.mark.parametrize("tau", [0.5, 2.0, None])
def test_smile_has_the_value_of_clipped_dv_and_the_gradient_of_jensen_shannon(source, tau):
    s = matrix(spread=3.0).requires_grad_()
    p, negatives = parts(s)
    clipped = negatives if tau is None else negatives.clamp(-tau, tau)
    value = bounds.smile(source(s), tau)
    close(value, p.mean() - clipped.exp().mean().log())
    close(torch.autograd.grad(value, s)[0], torch.autograd.grad(bounds.jensen_shannon(source(s)), s)[0])


def test_labels_and_log_weights_weigh_the_negatives():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(5, 3, generator=g, dtype=torch.float64), torch.randn(7, 3, generator=g, dtype=torch.float64)
    v = torch.tensor([0.0, 1.0, -INF, 0.5, -1.0, 0.3, 2.0], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 2, 3]), torch.tensor([0, 0, 1, 2, 3, 0, 2])
    target, log_a = torch.tensor([0, 1, 2, 3, 4]), torch.linspace(-1, 1, 7, dtype=torch.float64)
    s = x @ y.T
    negative = (labels[0][:, None] != labels[1]) & (torch.arange(7) != target[:, None]) & (v > -INF)
    weight = negative * v.exp() / (negative * v.exp()).sum()
    p = s[torch.arange(5), target]
    scores = DotScores(x, y, target=target, labels=labels, candidate_log_weight=v)
    mean_exp = (weight * s.exp()).sum()
    close(bounds.nwj(scores), p.mean() - mean_exp / math.e)
    close(bounds.donsker_varadhan(scores), p.mean() - mean_exp.log())
    close(bounds.jensen_shannon(scores), -(1 + (-p).exp()).log().mean() - (weight * (1 + s.exp()).log()).sum())
    close(bounds.smile(scores, 1.0), p.mean() - (weight * s.clamp(-1, 1).exp()).sum().log())
    close(bounds.tuba(scores, log_a), 1 + p.mean() - (weight * ((s - log_a).exp() + log_a)).sum())
    without = DotScores(x, y, target=target, labels=labels)
    kept = (labels[0][:, None] != labels[1]) & (torch.arange(7) != target[:, None])
    log_k = (kept.sum(1) + 1.0).log().mean()
    rows = (p.exp() + (kept * s.exp()).sum(1)).log()
    close(bounds.infonce(without), log_k + (p - rows).mean(), 1e-7)
    pairs = 5 + kept.sum()
    total = (p.exp().sum() + (kept * s.exp()).sum()) / pairs
    close(bounds.donsker_varadhan(without, "all"), p.mean() - total.log())


def test_a_column_without_negatives_does_not_count_in_tuba():
    x = torch.randn(3, 2, dtype=torch.float64)
    v = torch.tensor([0.0, 0.0, -INF], dtype=torch.float64)
    log_a = torch.tensor([0.1, 0.2, math.nan], dtype=torch.float64, requires_grad=True)
    value = bounds.tuba(DotScores(x, x, candidate_log_weight=v), log_a)
    (gradient,) = torch.autograd.grad(value, log_a)
    assert value.isfinite() and gradient.isfinite().all() and gradient[2] == 0


def test_leave_one_out_keeps_its_digits_when_one_score_dominates():
    s = torch.zeros(3, 3, dtype=torch.float64)
    s[0, 1] = 200.0  # subtracting e^200 from the sum of column 1 would leave nothing for M_01
    log_a = torch.zeros(3, dtype=torch.float64)
    s.requires_grad_()
    value, expected = bounds.interpolated(dense(s), 1.0, log_a), by_interpolated(s, 1.0, log_a)
    close(value, expected)
    close(torch.autograd.grad(value, s)[0], torch.autograd.grad(expected, s)[0])


def test_interpolated_keeps_no_matrix_for_the_gradient(monkeypatch):
    monkeypatch.setattr("mi_ext.scores.blocks._BLOCK_ENTRIES", 64)
    x = torch.randn(32, 2, dtype=torch.float64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        value = bounds.interpolated(DotScores(x, x.detach()), 0.5, torch.zeros(32, dtype=torch.float64))
    assert max(kept, default=0) <= x.numel()
    (blocked,) = torch.autograd.grad(value, x)
    monkeypatch.undo()
    whole = bounds.interpolated(DotScores(x, x.detach()), 0.5, torch.zeros(32, dtype=torch.float64))
    close(value, whole)
    close(blocked, torch.autograd.grad(whole, x)[0])


def test_large_scores_do_not_overflow():
    s = torch.full((4, 4), 5000.0, dtype=torch.float64).fill_diagonal_(5002.0)
    for source in (dense, dot):
        close(bounds.donsker_varadhan(source(s)), 2.0)
        close(bounds.nwj(source(s - 5000)), 2 - math.exp(-1))
        assert bounds.smile(source(s), 1.0).isfinite()
        close(bounds.tuba(source(s), torch.full((4,), 5000.0)), 2.0)


# Errors -------------------------------------------------------------------------------------------------------------

SQUARE, WIDE = dense(matrix()), dense(matrix(3, 5))
SWAPPED = dense(matrix(2), torch.tensor([1, 0]))
EMPTY = DenseScores(torch.empty(0, 4))
ALONE = DenseScores(torch.zeros(1, 1))
UNEVEN = DotScores(torch.randn(3, 2), torch.randn(3, 2), labels=(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1])))
BESIDE = DotScores(torch.randn(3, 2), torch.randn(4, 2), positive=torch.randn(3, 2))
BAD = {
    "alpha 0": (lambda: bounds.alpha_cpc(SQUARE, 0.0), r"^alpha: .*\(0, K\) with K = 5"),
    "alpha K": (lambda: bounds.ml_cpc(SQUARE, 5.0), "^alpha: .*got 5"),
    "alpha nan": (lambda: bounds.ml_cpc(SQUARE, math.nan), "^alpha: "),
    "one candidate": (lambda: bounds.ml_cpc(ALONE, 0.5), "^scores: ml_cpc needs K ≥ 2"),
    "one candidate, alpha_cpc": (lambda: bounds.alpha_cpc(ALONE, 0.5), "^scores: alpha_cpc needs K ≥ 2"),
    "uneven": (lambda: bounds.ml_cpc(UNEVEN, 0.9), "^scores: ml_cpc needs the same number"),
    "uneven alpha_cpc": (lambda: bounds.alpha_cpc(UNEVEN, 0.9), "^scores: alpha_cpc needs the same number.*2 to 3"),
    "no queries": (lambda: bounds.infonce(EMPTY), "n = 0"),
    "no queries, ml_cpc": (lambda: bounds.ml_cpc(EMPTY, 0.5), "n = 0"),
    "no negatives": (lambda: bounds.nwj(ALONE), "^scores: .*0 negatives"),
    "no negatives by label": (
        lambda: bounds.jensen_shannon(
            DotScores(torch.ones(2, 1), torch.ones(2, 1), labels=(torch.zeros(2).long(),) * 2)
        ),
        "^scores: .*0 negatives",
    ),
    "negatives": (lambda: bounds.donsker_varadhan(SQUARE, "none"), "^negatives: .*'shuffled'"),
    "shuffled beside": (lambda: bounds.donsker_varadhan(BESIDE, "shuffled"), "^negatives: .*DotScores"),
    "shuffled labels": (lambda: bounds.donsker_varadhan(UNEVEN, "shuffled"), "^negatives: .*labels"),
    "shuffled alone": (lambda: bounds.donsker_varadhan(ALONE, "shuffled"), "^negatives: .*two queries"),
    "momentum": (lambda: bounds.DonskerVaradhanEMA(1.0), "^momentum: "),
    "eta": (lambda: bounds.eta_dv(SQUARE, torch.zeros(5)), r"^eta: .*\(5,\)"),
    "baseline": (lambda: bounds.tuba(WIDE, torch.zeros(3)), r"^log_baseline: .*\(5,\).*\(3,\)"),
    "interpolated alpha": (lambda: bounds.interpolated(SQUARE, 1.5, LOG_A), "^alpha: "),
    "interpolated wide": (lambda: bounds.interpolated(WIDE, 0.5, LOG_A), "^scores: .*m = 5"),
    "interpolated target": (lambda: bounds.interpolated(SWAPPED, 0.5, LOG_A[:2]), "^scores: .*arange"),
    "interpolated labels": (lambda: bounds.interpolated(UNEVEN, 0.5, LOG_A[:3]), "^scores: .*labels"),
    "interpolated beside": (lambda: bounds.interpolated(BESIDE, 0.5, LOG_A[:4]), "^scores: .*in-batch"),
    "tau": (lambda: bounds.smile(SQUARE, 0.0), "^tau: "),
    "schedule": (lambda: bounds.alpha_schedule(0, 10, -1.0), "^start, end, epochs: "),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_name_the_argument(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("alpha", [0.1, 1.5])
def test_ml_cpc_warns_outside_the_range_where_it_is_a_bound(alpha):
    with pytest.warns(UserWarning, match="lower bound"):
        bounds.ml_cpc(SQUARE, alpha)
