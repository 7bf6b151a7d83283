"""Estimates of mutual information from samples: truth, error bars, caps."""

import math
import warnings

import numpy as np
import pytest
import torch

from mi_ext import bounds
from mi_ext.estimate import Estimate, MutualInformationEstimator
from mi_ext.scores import DenseScores, DotScores

pytestmark = pytest.mark.usefixtures("one_thread")


def gaussians(n, d, rho, seed=0):
    """(x, y, I): d pairs of coordinates with correlation rho, I = −(d/2) log(1 − ρ²)."""
    x, noise = np.random.default_rng(seed).standard_normal((2, n, d))
    return x, rho * x + math.sqrt(1 - rho**2) * noise, -d / 2 * math.log(1 - rho**2)


class TrueCritic(torch.nn.Module):
    """The log density ratio of correlated Gaussians up to a constant, times a weight to train."""

    def __init__(self, rho):
        super().__init__()
        self.rho, self.weight = rho, torch.nn.Parameter(torch.ones(()))

    def forward(self, x, y):
        c, one = 1 - self.rho**2, torch.ones(len(x), 1)
        square = [-(self.rho**2) / (2 * c) * t.square().sum(1, keepdim=True) for t in (x, y)]
        left, right = torch.cat([self.rho / c * x, square[0], one], 1), torch.cat([y, one, square[1]], 1)
        return DotScores(self.weight * left, right)


@pytest.mark.parametrize("bound", ["infonce", "donsker_varadhan_ema:0.99", "smile:5"])
def test_gaussians_whose_information_is_known(bound):
    x, y, truth = gaussians(3000, 2, 0.8)
    estimate = MutualInformationEstimator(bound, batch=128, steps=200).fit(100 * x + 5, 0.01 * y).estimate()
    assert estimate.nats == pytest.approx(truth, abs=0.15)
    assert 0.01 < estimate.standard_error < 0.1
    assert estimate.n_pairs == 450 and estimate.bound == bound


def test_joint_critic():
    x, y, truth = gaussians(800, 1, 0.8)
    estimator = MutualInformationEstimator(critic="joint", batch=32, steps=100, candidates=64).fit(
        x[:, 0], torch.from_numpy(y[:, 0])
    )
    assert estimator.estimate().nats == pytest.approx(truth, abs=0.2)


def test_joint_critic_estimates_with_more_candidates_than_it_trains_by():
    x, y, _ = gaussians(650, 1, 0.8)
    estimator = MutualInformationEstimator(critic="joint", batch=8, steps=1).fit(x[:140], y[:140])
    assert estimator.estimate(x, y).cap == pytest.approx(math.log(650))
    sizes = []

    class Product(torch.nn.Module):
        def forward(self, x, y):
            sizes.append(len(x))
            return DotScores(x, y)

    estimator._value(Product(), torch.ones(1200, 1), torch.ones(1200, 1))
    assert sizes == [400] * 3


def test_dependence_without_correlation_and_categories():
    generator = np.random.default_rng(0)
    symbol = generator.integers(0, 4, 2000)
    estimator = MutualInformationEstimator(batch=64, steps=300).fit(symbol, np.eye(4)[symbol])
    assert estimator.estimate().nats == pytest.approx(math.log(4), abs=0.05)
    x = generator.standard_normal(2000)
    assert MutualInformationEstimator(batch=64, steps=300).fit(x, x**2).estimate().nats > 1


@pytest.mark.parametrize("bound", ["infonce", "nwj", "donsker_varadhan"])
def test_independent_data_give_zero(bound):
    x, y, _ = gaussians(2000, 3, 0.0)
    estimate = MutualInformationEstimator(bound, steps=200).fit(x, y).estimate()
    assert abs(estimate.nats) < 0.03 and estimate.standard_error < 0.02


def test_standard_error_is_the_spread_over_samples():
    """With a given critic, over fresh samples of 200 pairs."""
    estimator = MutualInformationEstimator(critic=TrueCritic(0.8), steps=1, lr=0.0, standardize=False)
    estimator.fit(*gaussians(200, 2, 0.8)[:2])
    fresh = [estimator.estimate(*gaussians(200, 2, 0.8, seed)[:2]) for seed in range(1, 61)]
    values = np.array([estimate.nats for estimate in fresh])
    assert np.mean([estimate.standard_error for estimate in fresh]) == pytest.approx(values.std(), rel=0.3)
    assert values.mean() == pytest.approx(1.02, abs=0.05)


def test_new_pairs_and_parts_of_candidates():
    x, y, _ = gaussians(400, 2, 0.8)
    estimator = MutualInformationEstimator(critic=TrueCritic(0.8), steps=1, lr=0.0, standardize=False, candidates=50)
    estimator.fit(x, y)
    estimate = estimator.estimate(x[:100], y[:100])
    parts = [tuple(torch.from_numpy(t[k : k + 50]).float() for t in (x, y)) for k in (0, 50)]
    expected = [bounds.infonce(TrueCritic(0.8)(*part)).item() for part in parts]
    assert estimate.nats == pytest.approx(np.mean(expected), abs=1e-5)
    assert estimate.cap == pytest.approx(math.log(50)) and estimate.n_pairs == 100
    assert estimator.estimate().n_pairs == 60


def test_scale_is_that_of_training_pairs():
    """New pairs are scaled as the training pairs were, not by themselves."""
    x, y, _ = gaussians(1000, 1, 0.9)
    estimator = MutualInformationEstimator(steps=100).fit(x, y)
    assert estimator.estimate(3 + 0.1 * x, 0.1 * y) != estimator.estimate(x, y)


def test_a_seed_repeats_and_leaves_the_global_generator_alone():
    x, y, _ = gaussians(300, 1, 0.8)
    torch.manual_seed(5)
    first = MutualInformationEstimator(steps=30, seed=1).fit(x, y).estimate()
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == drawn
    assert MutualInformationEstimator(steps=30, seed=1).fit(x, y).estimate() == first
    assert MutualInformationEstimator(steps=30, seed=2).fit(x, y).estimate() != first


def test_the_critic_of_the_best_step_is_used():
    """Pure memory: 140 training pairs of noise. What is learned is wrong, and the untrained critic is kept."""
    x, y, _ = gaussians(200, 20, 0.0)
    estimator = MutualInformationEstimator(steps=200, lr=1e-2).fit(x, y)
    assert estimator.best_step < 50 and estimator.estimate().nats < 0.2


def test_near_the_cap_it_warns():
    x, _, _ = gaussians(500, 3, 0.0)
    estimator = MutualInformationEstimator(steps=150).fit(x, x)
    with pytest.warns(UserWarning, match=r"near its cap.*ml_cpc"):
        estimate = estimator.estimate()
    assert estimate.near_cap and estimate.nats <= estimate.cap == pytest.approx(math.log(75))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MutualInformationEstimator("nwj", steps=1).fit(x, x).estimate()


def test_estimate_reads_well():
    assert str(Estimate(1.23456, 0.0456, 6.397, 600, "infonce")) == (
        "1.235 ± 0.046 nats (infonce, 600 held-out pairs, cap 6.40)"
    )
    assert "no cap" in str(Estimate(1.0, 0.1, None, 60, "nwj"))


def test_constant_columns_and_a_bar(capsys):
    x, y, _ = gaussians(200, 2, 0.5)
    x[:, 1] = 7.0
    assert math.isfinite(MutualInformationEstimator(steps=30, progress=True).fit(x, y).estimate().nats)
    assert "30/30" in capsys.readouterr().err


X, Y, _ = gaussians(200, 2, 0.5)
FITTED = MutualInformationEstimator(steps=1).fit(X, Y)
BAD = {
    "bound": (lambda: MutualInformationEstimator("mine"), ValueError, "^bound: .*infonce"),
    "jensen_shannon": (lambda: MutualInformationEstimator("jensen_shannon"), ValueError, "^bound: .*smile"),
    "critic": (lambda: MutualInformationEstimator(critic="mlp"), ValueError, "^critic: .*'separable'"),
    "batch": (lambda: MutualInformationEstimator(batch=1), ValueError, "^batch: .*got 1"),
    "candidates": (
        lambda: MutualInformationEstimator(candidates=1),
        ValueError,
        "^candidates: .*at least 20 pairs, got 1",
    ),
    "holdout": (lambda: MutualInformationEstimator(holdout=1.0), ValueError, "^holdout: "),
    "rows": (lambda: FITTED.fit(X, Y[:50]), ValueError, "^y: .*200.*50"),
    "few": (lambda: FITTED.fit(X[:60], Y[:60]), ValueError, "^x: .*at least 134 pairs.*60"),
    "nan": (lambda: FITTED.fit(X, Y * math.nan), ValueError, "^y: .*finite"),
    "dimensions": (lambda: FITTED.fit(X[None], Y), ValueError, r"^x: .*\[n, d\]"),
    "no columns": (lambda: FITTED.fit(X[:, :0], Y), ValueError, "^x: .*column"),
    "complex": (lambda: FITTED.fit(X * 1j, Y), ValueError, "^x: .*real"),
    "strings": (lambda: FITTED.fit(["a", "b"], Y), TypeError, "^x: .*list"),
    "masked": (lambda: FITTED.fit(np.ma.masked_less(X, 0), Y), TypeError, "^x: .*without a mask"),
    "steps": (lambda: MutualInformationEstimator(steps=-5), ValueError, "^steps: .*at least 1, got -5"),
    "function": (lambda: MutualInformationEstimator(critic=torch.mm), ValueError, "^critic: .*module.*scores"),
    "matrix": (
        lambda: MutualInformationEstimator(critic=torch.nn.Bilinear(2, 2, 1)).fit(X, Y),
        TypeError,
        "^critic: .*DenseScores.*Tensor",
    ),
    "one of two": (lambda: FITTED.estimate(X), ValueError, "^x, y: .*both"),
    "width": (lambda: FITTED.estimate(X[:, :1], Y), ValueError, "^x: .*width of fit, 2, got 1"),
    "few new": (lambda: FITTED.estimate(X[:5], Y[:5]), ValueError, "^x: .*at least 20"),
    "not fitted": (lambda: MutualInformationEstimator().estimate(), RuntimeError, "fit"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_name_the_argument(name):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call()


class Matrix(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, y):
        return DenseScores(self.scale * x @ y.T)


def test_a_critic_by_a_matrix():
    assert MutualInformationEstimator(critic=Matrix(), steps=5).fit(X, Y).estimate().nats > 0


@pytest.mark.parametrize(
    "same",
    [
        lambda t: t.tolist(),
        lambda t: t[::-1][::-1],
        lambda t: t.astype(">f8"),
        lambda t: t.astype(np.longdouble),
        lambda t: torch.from_numpy(t).requires_grad_(),
        lambda t: np.asfortranarray(t),
    ],
)
def test_whatever_numpy_reads(same):
    expected = MutualInformationEstimator(steps=3).fit(X, Y).estimate()
    assert MutualInformationEstimator(steps=3).fit(same(X), same(Y)).estimate() == expected
