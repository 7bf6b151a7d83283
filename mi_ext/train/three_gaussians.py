r"""Three Gaussians of [DEMI], Decomposing Mutual Information: two views of y, told one after the other, pass log K.

    y ~ N(0, I_d), x'' = y + ε''/√(a − 1), x' = y + ε'/√(b − a):
    I(x''; y) = (d/2) log a = share · I,      I(x', x''; y) = (d/2) log b = I

InfoNCE of both views at once stays below log K. The decomposed bound adds InfoNCE of x'' and, with negatives weighted
by softmax(s''), that of x' given x'': at most 2 log K ([DEMI] eqs. 9, 10, λ = 0). Critics are products of encoders with
one hidden layer, h(y) shared by both, so that one walk over the candidates gives all partitions. Every batch is fresh,
so the value on it is the estimate. With few candidates it may exceed the truth: the weights miss hard negatives.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import matplotlib
import torch
import typer
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from .. import bounds, critics
from ..scores import DotScores
from .record import CAP, ESTIMATE, INK, REFERENCE, STYLE, Record, draw_cap

DIMENSION, HIDDEN, EMBEDDING = 20, 256, 32
LINES = 20  # written for each level
BOUNDS = {"infonce": ("InfoNCE of both views", REFERENCE), "decomposed_infonce": ("decomposed", ESTIMATE)}


def sample(n: int, nats: float, share: float, d: int = DIMENSION) -> tuple[Tensor, Tensor, Tensor]:
    """x', x'', y [n, d], each of unit variance, with I(x', x''; y) = nats and I(x''; y) = share · nats."""
    log_a, log_b = 2 * share * nats / d, 2 * nats / d
    y = torch.randn(n, d)
    return _noisy(y, math.exp(log_b) - math.exp(log_a)), _noisy(y, math.expm1(log_a)), y


def _noisy(y: Tensor, precision: float) -> Tensor:
    """y + ε/√precision, divided by its standard deviation."""
    return (y + torch.randn_like(y) / math.sqrt(precision)) / math.sqrt(1 + 1 / precision)


def _encoder(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, EMBEDDING))


class BothViews(nn.Module):
    """InfoNCE with the score <g(x', x''), h(y)>."""

    def __init__(self):
        super().__init__()
        self.critic = critics.Separable(_encoder(2 * DIMENSION), _encoder(DIMENSION))

    def forward(self, x1: Tensor, x2: Tensor, y: Tensor) -> Tensor:
        return bounds.infonce(self.critic(torch.cat([x1, x2], 1), y))


class OneAfterTheOther(nn.Module):
    """The decomposed bound with s'' = <g''(x''), h(y)> and s' = <g'(x', x''), h(y)>, what x' adds to x''."""

    def __init__(self):
        super().__init__()
        self.encode_both, self.encode_second = _encoder(2 * DIMENSION), _encoder(DIMENSION)
        self.encode_y = _encoder(DIMENSION)

    def forward(self, x1: Tensor, x2: Tensor, y: Tensor) -> Tensor:
        h = self.encode_y(y)
        s1, s2 = DotScores(self.encode_both(torch.cat([x1, x2], 1)), h), DotScores(self.encode_second(x2), h)
        return bounds.decomposed_infonce(s1, s2, lam=0.0)


MODELS = {"infonce": BothViews, "decomposed_infonce": OneAfterTheOther}


def train(bound: str, nats: float, share: float, steps: int, batch: int, lr: float, record: Record) -> float:
    """Maximises the bound; writes LINES means of its values; returns the mean over the last quarter of the steps."""
    model, values = MODELS[bound](), []
    optimiser = torch.optim.Adam(model.parameters(), lr)
    every = max(1, steps // LINES)
    for step in tqdm(range(1, steps + 1), desc=f"{bound}, {nats:g} nats", unit="step"):
        estimate = model(*sample(batch, nats, share))
        optimiser.zero_grad()
        (-estimate).backward()
        optimiser.step()
        values.append(estimate.item())
        if step % every == 0 or step == steps:
            recent = values[-every:]
            record.write(bound=bound, truth=nats, step=step, estimate=math.fsum(recent) / len(recent))
    late = values[-max(1, steps // 4) :]
    return math.fsum(late) / len(late)


def plot(path: Path, estimates: dict[str, list[float]], levels: Sequence[float], batch: int) -> None:
    """Estimates over the true information, with both caps."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, max(levels)], [0, max(levels)], color=INK, linewidth=1.3, label="true")
        for bound, (label, color) in BOUNDS.items():
            axes.plot(levels, estimates[bound], color=color, linewidth=1.6, marker="o", label=label)
        draw_cap(axes, math.log(batch), f"log K = {math.log(batch):.2f}")
        axes.axhline(2 * math.log(batch), color=CAP, linestyle=":", linewidth=1.2)
        axes.annotate("2 log K", (0.01, 2 * math.log(batch)), xycoords=axes.get_yaxis_transform(), xytext=(0, 3),
                      textcoords="offset points", color=CAP, fontsize=9)  # fmt: skip
        axes.set(xlabel="true I(x', x''; y), nats", ylabel="estimate, nats", title="Three Gaussians")
        axes.legend(loc="lower right", fontsize=9)
        figure.savefig(path)


def three_gaussians(
    nats: Annotated[str, typer.Option(help="True I(x', x''; y) in nats, separated by commas.")] = "2,4,6,8,10",
    share: Annotated[float, typer.Option(min=0.1, max=0.9, help="What x'' alone tells of it.")] = 0.5,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each bound at each level.")] = 800,
    batch: Annotated[int, typer.Option(min=2, help="Triples in a batch: K, the number of candidates.")] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate of Adam.")] = 5e-4,
    seed: Annotated[int, typer.Option(help="Seed of data and initialisation, the same for both bounds.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for metrics.jsonl, summary.json, three_gaussians.png.")] = Path(
        "runs/three_gaussians"
    ),
) -> None:
    """Two views of y: InfoNCE of both at once, stuck at log K, against the decomposed bound, which passes it."""
    try:
        levels = sorted({float(level) for level in nats.split(",")})
    except ValueError:
        raise typer.BadParameter(f"expected numbers separated by commas, got {nats!r}", param_hint="--nats") from None
    if not all(0 < level < math.inf for level in levels):
        raise typer.BadParameter(f"expected positive numbers, got {nats!r}", param_hint="--nats")
    estimates: dict[str, list[float]] = {bound: [] for bound in BOUNDS}
    start = time.perf_counter()
    with Record(out) as record:
        for bound in BOUNDS:
            for level in levels:
                torch.manual_seed(seed)
                estimates[bound].append(train(bound, level, share, steps, batch, lr, record))
        seconds = round(time.perf_counter() - start, 1)
        settings = {"share": share, "steps": steps, "batch": batch, "lr": lr, "seed": seed, "seconds": seconds}
        record.summary(**settings, log_k=math.log(batch), truth=levels, estimates=estimates)
    plot(out / "three_gaussians.png", estimates, levels, batch)
    typer.echo(f"{'true MI, nats':<22}" + "".join(f"{level:8.2f}" for level in levels) + "     cap")
    for factor, (bound, values) in enumerate(estimates.items(), start=1):
        row = "".join(f"{value:8.2f}" for value in values)
        typer.echo(f"{bound:<22}{row}{factor * math.log(batch):8.2f}")
    typer.echo(f"picture: {out / 'three_gaussians.png'}")
