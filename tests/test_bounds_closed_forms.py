"""Bounds against closed forms, and the identities between them."""

import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from score_matrices import SOURCES, close, dense, dot, matrix, parts

from mi_ext import DotScores, bounds

INF = math.inf
LOG_A = torch.tensor([0.3, -0.2, 0.8, 0.1, -0.5], dtype=torch.float64)


# Closed forms -------------------------------------------------------------------------------------------------------


def binary_example():
    """[MLC] Example 1: X = Y uniform on {0, 1}, n = K = 3, score log p(y|x)/p(y) = log 2 for equal symbols or −inf.

    Each of the six negatives matches its query with probability 1/2, independently: 64 equally likely matrices.
    """
    off = ~torch.eye(3, dtype=torch.bool)
    for bits in itertools.product((math.log(2), -INF), repeat=6):
        s = torch.full((3, 3), math.log(2), dtype=torch.float64)
        s[off] = torch.tensor(bits, dtype=torch.float64)
        yield s


@SOURCES
@pytest.mark.parametrize(
    "bound, alpha, value",
    [
        (bounds.alpha_cpc, 0.5, 0.7174381),
        (bounds.alpha_cpc, 1.0, 0.4773856),
        (bounds.ml_cpc, 1.0, 0.4276048),
        (bounds.ml_cpc, 0.5, 0.5879361),
        (bounds.ml_cpc, 3 / 7, 0.6146291),
        (bounds.ml_cpc, 0.2, 0.7111096),
    ],
)
@pytest.mark.filterwarnings("ignore:ml_cpc is a lower bound")
def test_binary_example(bound, alpha, value, source):
    mean = torch.stack([bound(source(s), alpha) for s in binary_example()]).mean()
    assert abs(mean.item() - value) < 5e-8
    assert (mean <= math.log(2)) == (alpha not in (0.2,) and not (bound is bounds.alpha_cpc and alpha < 1))


@pytest.mark.parametrize(
    "n, k, value", [(128, 128, 0.0078735), (64, 16385, 0.0156259), (256, 65537, 0.0039063), (3, 3, 3 / 7)]
)
def test_smallest_alpha(n, k, value):
    assert bounds.ml_cpc_min_alpha(n, k) == pytest.approx(value, abs=5e-8)


@SOURCES
def test_caps(source):
    """With a perfect critic (positives 10⁴ above everything) each bound reaches its cap."""
    s = 1e4 * torch.eye(128, dtype=torch.float64)
    scores = source(s)
    assert bounds.infonce(scores).item() == pytest.approx(4.852, abs=5e-4)
    low = bounds.ml_cpc_min_alpha(128, 128)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bounds.ml_cpc(scores, low).item() == pytest.approx(9.6963, abs=5e-5)
    assert bounds.ml_cpc(scores, low).item() == pytest.approx(math.log(128 * 127 + 1), abs=1e-9)
    assert bounds.alpha_cpc(scores, 2.0).item() == pytest.approx(math.log(64), abs=1e-9)


@pytest.mark.parametrize(
    "mi, rho", [(2, 0.4257572629), (4, 0.5741776328), (6, 0.6717055634), (8, 0.7420721231), (10, 0.7950600976)]
)
def test_correlated_gaussians_with_the_true_critic(mi, rho):
    """I = −d/2 log(1 − ρ²); the exact log density ratio s is a `DotScores`, and 1 + E[p] − E[e^s] = I."""
    d, n = 20, 1024
    assert -d / 2 * math.log(1 - rho**2) == pytest.approx(mi, abs=1e-8)
    g = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, n, d, generator=g, dtype=torch.float64)
    y = rho * x + math.sqrt(1 - rho**2) * noise
    # log p(x, y)/p(x)p(y) = I + [ρ x·y − ρ²(|x|² + |y|²)/2] / (1 − ρ²), its square terms as two more coordinates
    c, one = 1 - rho**2, torch.ones(n, 1, dtype=torch.float64)
    left = torch.cat([rho / c * x, -(rho**2) / (2 * c) * x.square().sum(1, keepdim=True), one], 1)
    right = torch.cat([y, one, -(rho**2) / (2 * c) * y.square().sum(1, keepdim=True)], 1)
    scores = DotScores(left, right, bias=float(mi))
    assert scores.positive.mean().item() == pytest.approx(mi, abs=0.5)
    assert bounds.infonce(scores) <= math.log(n)
    if mi == 2:  # the variance of e^s grows with e^I
        assert bounds.f_mine(scores).item() == pytest.approx(2, abs=0.15)
        assert bounds.donsker_varadhan(scores).item() == pytest.approx(2, abs=0.15)
        assert bounds.infonce(scores).item() == pytest.approx(2, abs=0.15)


# Identities ---------------------------------------------------------------------------------------------------------


@SOURCES
def test_the_best_eta_gives_donsker_varadhan(source):
    s = matrix(6, seed=1)
    best = parts(s)[1].exp().mean().log().requires_grad_()
    value = bounds.eta_dv(source(s), best)
    close(value, bounds.donsker_varadhan(source(s)))
    close(torch.autograd.grad(value, best)[0], 0.0)
    for eta in (best.item() - 0.5, best.item() + 0.5):
        assert bounds.eta_dv(source(s), eta) < value
    close(bounds.eta_dv(source(s), 0.0), bounds.f_mine(source(s)))
    close(bounds.f_mine(source(s)), bounds.nwj(source(s + 1)))
    close(bounds.tuba(source(s), best.detach().expand(6)), value)


@SOURCES
@pytest.mark.parametrize("alpha", [0.4, 1.0])
@pytest.mark.filterwarnings("ignore:ml_cpc is a lower bound")
def test_one_query_makes_ml_cpc_alpha_cpc(source, alpha):
    s = matrix(1, 6)
    close(bounds.ml_cpc(source(s), alpha), bounds.alpha_cpc(source(s), alpha))


@SOURCES
def test_alpha_one_is_infonce_and_ends_of_interpolated(source):
    s = matrix()
    close(bounds.alpha_cpc(source(s), 1.0), bounds.infonce(source(s)))
    close(bounds.interpolated(source(s), 0.0, LOG_A), bounds.tuba(source(s), LOG_A))
    close(bounds.interpolated(source(s), 1.0, LOG_A), bounds.interpolated(source(s), 1.0, LOG_A + 3))
    close(bounds.smile(source(s), 100.0), bounds.donsker_varadhan(source(s)))
    close(bounds.jensen_shannon(source(s), offset=True), bounds.jensen_shannon(source(s)) + 2 * math.log(2))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 7), st.integers(0, 2**16), st.floats(-30, 30), st.sampled_from([dense, dot]))
def test_shift_permutation_and_cap(n, seed, shift, source):
    s = matrix(n, seed=seed, spread=3.0)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    alpha = bounds.ml_cpc_min_alpha(n, n)
    log_a = matrix(1, n, seed=seed + 1)[0]
    for bound in (bounds.infonce, bounds.donsker_varadhan, lambda t: bounds.ml_cpc(t, alpha)):
        close(bound(source(s + shift)), bound(source(s)), 1e-8)
        close(bound(source(s[order][:, order])), bound(source(s)))
        assert bound(source(s)) <= math.log(n * (n - 1) + 1) + 1e-9 or bound is bounds.donsker_varadhan
    close(bounds.tuba(source(s + shift), log_a + shift), bounds.tuba(source(s), log_a), 1e-8)
    close(bounds.interpolated(source(s + shift), 0.4, log_a + shift), bounds.interpolated(source(s), 0.4, log_a), 1e-8)
    assert bounds.infonce(source(s)) <= math.log(n) + 1e-12


@SOURCES
@pytest.mark.parametrize("alpha", [0.35, 1.0])
def test_ml_cpc_gradient_is_positives_minus_one_softmax_over_all(source, alpha):
    s = matrix(4, seed=5).requires_grad_()
    (gradient,) = torch.autograd.grad(bounds.ml_cpc(source(s), alpha), s)
    n, k = s.shape
    weight = torch.full((n, k), math.log((k - alpha) / (k - 1)), dtype=torch.float64).fill_diagonal_(math.log(alpha))
    softmax = (s.detach() + weight).flatten().softmax(0).reshape(n, k)
    close(gradient, torch.eye(n, dtype=torch.float64) / n - softmax)


def test_alpha_schedule():
    assert bounds.alpha_schedule(0, 200) == pytest.approx(10)
    assert bounds.alpha_schedule(100, 200) == pytest.approx(1, rel=1e-15)  # a hair more would not be a bound
    assert bounds.alpha_schedule(200, 200, 10.0, 0.1) == pytest.approx(0.1)
