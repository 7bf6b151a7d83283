"""Bias and spread of every bound with the best critic known, on correlated Gaussians: what a bound is worth by itself.

    python -m benchmarks.bias_variance      writes benchmarks/results/bias_variance.{md,png}; a minute

x ~ N(0, I_20), y = ρ x + √(1 − ρ²) ε. The score is the log-density ratio itself,

    s(x, y) = log p(y | x)/p(y) = ρ/(1−ρ²) <x, y> − ρ²/(2(1−ρ²)) (‖x‖² + ‖y‖²) − d/2 log(1 − ρ²),

a product of vectors of d + 2 numbers, so nothing is trained: what is left is the bound's own bias and variance.
"""

import math
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from tabulate import tabulate
from torch import Tensor

from mi_ext import DotScores, bounds
from mi_ext.train.gaussians import correlation, sample

RESULTS = Path(__file__).parent / "results"
LEVELS = (2.0, 4.0, 6.0, 8.0, 10.0)
N, BATCHES = 128, 500


def nwj(scores: DotScores) -> Tensor:
    """NWJ is best at 1 + log-density ratio: `f_mine` is NWJ with the critic shifted so; so is TUBA at a(y) = 1."""
    return bounds.f_mine(scores)


def interpolated(scores: DotScores) -> Tensor:
    return bounds.interpolated(scores, 0.5, torch.zeros(scores.n_queries, dtype=torch.float64))


BOUNDS = {
    "infonce": bounds.infonce,
    "alpha_cpc, α = 0.01": partial(bounds.alpha_cpc, alpha=0.01),
    "ml_cpc, α = 1": partial(bounds.ml_cpc, alpha=1.0),
    "ml_cpc, α = 0.01": partial(bounds.ml_cpc, alpha=0.01),
    "donsker_varadhan": bounds.donsker_varadhan,
    "nwj": nwj,
    "interpolated, α = ½": interpolated,
    "smile, τ = 5": partial(bounds.smile, tau=5.0),
    "smile, τ = 1": partial(bounds.smile, tau=1.0),
}


def ratio_scores(x: Tensor, y: Tensor, rho: float) -> DotScores:
    """s_ij = log p(y_j | x_i)/p(y_j)."""
    d, linear, square = x.shape[1], rho / (1 - rho**2), rho**2 / (2 * (1 - rho**2))
    one = torch.ones(len(x), 1, dtype=x.dtype)
    queries = torch.cat([linear * x, -square * x.square().sum(1, keepdim=True), one], 1)
    candidates = torch.cat([y, one, -square * y.square().sum(1, keepdim=True)], 1)
    return DotScores(queries, candidates, bias=-d / 2 * math.log1p(-(rho**2)))


def estimates(level: float) -> dict[str, Tensor]:
    """[batches] nats by each bound, on the same batches."""
    rho, values = correlation(level), {name: [] for name in BOUNDS}
    for _ in range(BATCHES):
        x, y = sample(N, rho)
        scores = ratio_scores(x.double(), y.double(), rho)
        for name, bound in BOUNDS.items():
            values[name].append(bound(scores))
    return {name: torch.stack(v) for name, v in values.items()}


def main() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        by_level = {level: estimates(level) for level in LEVELS}
    rows = [
        [f"`{name}`", *(f"{v[name].mean() - level:+.2f} ± {v[name].std():.2f}" for level, v in by_level.items())]
        for name in BOUNDS
    ]
    table = tabulate(rows, ["bound", *(f"I = {level:g}" for level in LEVELS)], tablefmt="github")
    RESULTS.joinpath("bias_variance.md").write_text(table + "\n")
    figure = Figure((9, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in BOUNDS:
        mean, deviation = (torch.stack([f(v[name]) for v in by_level.values()]) for f in (torch.mean, torch.std))
        (line,) = axes.plot(LEVELS, mean, marker="o", label=name)
        axes.fill_between(LEVELS, mean - deviation, mean + deviation, color=line.get_color(), alpha=0.12)
    axes.plot(LEVELS, LEVELS, color="black", linestyle="--", label="truth")
    axes.set(xlabel="true mutual information (nats)", ylabel=f"estimate (nats), n = m = {N}", ylim=(0, 12))
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(RESULTS / "bias_variance.png", dpi=110)


if __name__ == "__main__":
    main()
