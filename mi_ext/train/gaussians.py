r"""The staircase of [MLC], Multi-label Contrastive Predictive Coding: MI of Gaussians from 2 to 10 nats.

    x ~ N(0, I_d), y = ρ x + √(1 − ρ²) ε, d = 20:      I(x; y) = −(d/2) log(1 − ρ²)

A critic is trained by maximising one bound while ρ climbs; every batch is fresh, so the value on it is the estimate.
InfoNCE stays below log K = log 128 ≈ 4.85 nats; α-CPC and ML-CPC below log(K/α), but α-CPC with α < 1 may exceed the
truth. The paper: two hidden layers of 256, joint on [x; y] or separable with embeddings of 32, Adam at 5e-4, n = m =
128, 4000 steps a level (`--full`).
"""

import math
import time
from collections.abc import Sequence
from enum import Enum
from itertools import groupby
from pathlib import Path
from typing import Annotated

import matplotlib
import torch
import typer
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from .. import critics
from ..objective import Objective
from .record import ESTIMATE, INK, STYLE, Record, draw_cap

DIMENSION = 20
LEVELS = (2.0, 4.0, 6.0, 8.0, 10.0)
HIDDEN, EMBEDDING = 256, 32
FULL_STEPS = 4000
STEPS_PER_LINE = 10


class Critic(str, Enum):
    separable = "separable"
    joint = "joint"


def correlation(mutual_information: float, d: int = DIMENSION) -> float:
    """ρ = √(1 − exp(−2 I/d)): the correlation of each of d coordinates for I nats in all."""
    return math.sqrt(-math.expm1(-2 * mutual_information / d))


def sample(n: int, rho: float, d: int = DIMENSION) -> tuple[Tensor, Tensor]:
    """n pairs: x, y [n, d], both standard normal, corr(x_k, y_k) = rho."""
    x = torch.randn(n, d)
    return x, rho * x + math.sqrt(1 - rho * rho) * torch.randn(n, d)


def build_critic(kind: Critic) -> nn.Module:
    """Two hidden layers of 256: on [x; y], or on x and on y with embeddings of 32 whose product is the score."""
    if kind is Critic.joint:
        return critics.Joint(DIMENSION, DIMENSION, HIDDEN, layers=2)
    return critics.Separable(*(critics.mlp(DIMENSION, HIDDEN, HIDDEN, EMBEDDING) for _ in range(2)))


def climb(objective: Objective, critic: nn.Module, steps: int, batch: int, lr: float, record: Record) -> list[dict]:
    """Maximise `objective` for `steps` steps at each level; returns the lines written, one for every 10 steps."""
    optimiser = torch.optim.Adam(critic.parameters(), lr)
    start, values = len(record.lines), []
    with tqdm(total=steps * len(LEVELS), desc=objective.name, unit="step") as bar:
        for level in LEVELS:
            rho = correlation(level)
            for step in range(1, steps + 1):
                estimate = objective(critic(*sample(batch, rho)))
                optimiser.zero_grad()
                (-estimate).backward()
                optimiser.step()
                values.append(estimate.item())
                bar.update()
                if step % STEPS_PER_LINE == 0 or step == steps:
                    mean, values = math.fsum(values) / len(values), []
                    record.write(bound=objective.name, step=bar.n, truth=level, estimate=mean)
                    bar.set_postfix_str(f"true {level:g}, estimate {mean:.2f} nats")
    return record.lines[start:]


def levels(lines: Sequence[dict]) -> list[dict]:
    """Truth, mean estimate and standard deviation over the second half of each level, when the critic has caught up."""
    result = []
    for truth, group in groupby(lines, key=lambda line: line["truth"]):
        estimates = torch.tensor([line["estimate"] for line in group], dtype=torch.float64)
        late = estimates[len(estimates) // 2 :]
        deviation = late.std(correction=0).item()
        result.append({"truth": truth, "estimate": late.mean().item(), "standard_deviation": deviation})
    return result


def smooth(values: Sequence[float], span: int) -> list[float]:
    """Exponential moving average with weight 2/(span + 1) on the newest value, started at the first."""
    weight, average, result = 2 / (span + 1), values[0], []
    for value in values:
        average += weight * (value - average)
        result.append(average)
    return result


def plot(path: Path, objectives: Sequence[Objective], lines: Sequence[dict], batch: int) -> None:
    """One panel a bound: the staircase, the estimate (10-step means, and smoothed) and the cap."""
    with matplotlib.rc_context(STYLE):
        columns = min(4, len(objectives))
        rows = -(-len(objectives) // columns)
        figure = Figure(figsize=(3.4 * columns + 0.6, 3.1 * rows + 0.2), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, objective in zip(panels.flat, objectives, strict=False):
            _plot_panel(axes, objective, [line for line in lines if line["bound"] == objective.name], batch)
        for axes in panels.flat[len(objectives) :]:
            axes.set_axis_off()
        panels[0, 0].set(ylim=(-0.3, 12.3), yticks=[0, *LEVELS])
        panels[0, 0].legend(*panels[0, 0].get_legend_handles_labels(), loc="upper left", fontsize=9)
        figure.supxlabel("step", fontsize=10)
        figure.supylabel("mutual information, nats", fontsize=10)
        figure.savefig(path)


def _plot_panel(axes, objective: Objective, lines: Sequence[dict], batch: int) -> None:
    steps, estimates = [line["step"] for line in lines], [line["estimate"] for line in lines]
    axes.plot(steps, estimates, color=ESTIMATE, alpha=0.25, linewidth=0.7)
    axes.plot(steps, [line["truth"] for line in lines], color=INK, linewidth=1.3, drawstyle="steps-pre", label="true")
    smoothed = smooth(estimates, span=max(1, len(lines) // 100))
    axes.plot(steps, smoothed, color=ESTIMATE, linewidth=1.6, label="estimate")
    cap = objective.cap(batch)
    if cap is not None:
        draw_cap(axes, cap, f"cap {cap:.2f}")
    axes.set_title(objective.title)
    axes.margins(x=0.01)


def gaussians(
    bounds: Annotated[
        str, typer.Option(help="Bounds to compare, separated by commas, a number after a colon: ml_cpc:0.01, smile:5.")
    ] = "infonce,alpha_cpc:0.01,ml_cpc:0.01,nwj",
    critic: Annotated[
        Critic, typer.Option(help="Product of two embeddings, or one network on the pair, slower.")
    ] = Critic.separable,
    steps_per_level: Annotated[int, typer.Option(min=1, help="Training steps at each of the five levels.")] = 1000,
    full: Annotated[bool, typer.Option("--full", help="The paper's 4000 steps a level, 20 000 in all.")] = False,
    batch: Annotated[int, typer.Option(min=2, help="Pairs in a batch: K, the number of candidates.")] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate of Adam.")] = 5e-4,
    seed: Annotated[int, typer.Option(help="Seed of data and initialisation, the same for every bound.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for metrics.jsonl, summary.json, gaussians.png.")] = Path(
        "runs/gaussians"
    ),
) -> None:
    """MI staircase on correlated Gaussians: estimates of several bounds against the truth and their caps."""
    steps = FULL_STEPS if full else steps_per_level
    try:
        objectives = [Objective(name) for name in dict.fromkeys(bounds.split(","))]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--bounds") from None
    summaries = []
    with Record(out) as record:
        for objective in objectives:
            torch.manual_seed(seed)
            start = time.perf_counter()
            lines = climb(objective, build_critic(critic), steps, batch, lr, record)
            seconds = round(time.perf_counter() - start, 1)
            result = {"bound": objective.name, "cap": objective.cap(batch), "seconds": seconds, "levels": levels(lines)}
            summaries.append(result)
        record.summary(critic=critic.value, steps_per_level=steps, batch=batch, lr=lr, seed=seed, bounds=summaries)
        plot(out / "gaussians.png", objectives, record.lines, batch)
    typer.echo(_table(summaries))
    typer.echo(f"picture: {out / 'gaussians.png'}")


def _table(summaries: Sequence[dict]) -> str:
    head = f"{'true MI, nats':<26}" + "".join(f"{level:8.2f}" for level in LEVELS) + "     cap"
    rows = [head]
    for summary in summaries:
        estimates = "".join(f"{level['estimate']:8.2f}" for level in summary["levels"])
        cap = "    none" if summary["cap"] is None else f"{summary['cap']:8.2f}"
        rows.append(f"{summary['bound']:<26}{estimates}{cap}")
    return "\n".join(rows)
