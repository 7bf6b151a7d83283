"""The picture of an experiment on images: estimate over training with its cap, accuracies, and two rows of images."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from .record import CAP, ESTIMATE, INK, REFERENCE, STYLE, draw_cap


def plot(
    path: Path,
    lines: Sequence[dict],
    titles: tuple[str, str, str],
    cap: float | None,
    accuracies: dict[str, float],
    images: dict[str, Tensor],
    halved: bool = False,
) -> None:
    """`titles`: of estimates, accuracies, images; `images`: a row [k, side, side] for each name, `halved` by a line."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 5.9), layout="constrained")
        grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1), height_ratios=(1.5, 1))
        _plot_estimate(figure.add_subplot(grid[0, 0]), lines, cap, titles[0])
        _plot_accuracies(figure.add_subplot(grid[0, 1]), accuracies, titles[1])
        _plot_images(figure.add_subplot(grid[1, :]), images, titles[2], halved)
        figure.savefig(path)


def _plot_estimate(axes: Axes, lines: Sequence[dict], cap: float | None, title: str) -> None:
    epochs = [line["epoch"] for line in lines]
    axes.plot(epochs, [line["test_estimate"] for line in lines], color=ESTIMATE, label="test")
    axes.plot(epochs, [line["train_estimate"] for line in lines], color=REFERENCE, label="training")
    if cap is not None:
        draw_cap(axes, cap, f"cap {cap:.2f}")
        axes.set_ylim(top=cap * 1.12)
    axes.set(title=title, xlabel="epoch", ylabel="nats")
    axes.legend(loc="lower right")


def _plot_accuracies(axes: Axes, accuracies: dict[str, float], title: str) -> None:
    percent = [100 * accuracy for accuracy in accuracies.values()]
    colours = [REFERENCE] * (len(percent) - 1) + [ESTIMATE]
    bars = axes.barh(list(accuracies), percent, color=colours, height=0.62)
    axes.bar_label(bars, fmt="%.1f %%", padding=4, color=INK, fontweight="bold")
    axes.set(title=title, xlim=(0, 108), xticks=range(0, 101, 20))
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()


def _plot_images(axes: Axes, images: dict[str, Tensor], title: str, halved: bool) -> None:
    padded = nn.functional.pad(torch.stack(list(images.values())), (2, 2, 2, 2))
    rows, columns, cell, _ = padded.shape
    picture = padded.permute(0, 2, 1, 3).reshape(rows * cell, columns * cell)
    axes.imshow(picture.numpy(), cmap="gray_r", interpolation="nearest")
    for row in range(rows if halved else 0):
        axes.axhline((row + 0.5) * cell - 0.5, color=CAP, linewidth=0.9)
    axes.set_yticks([(row + 0.5) * cell for row in range(rows)], list(images))
    axes.set(title=title, xticks=[])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
