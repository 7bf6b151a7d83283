"""Bars of every problem: time over that of mi_ext, and peak extra memory, both on logarithmic axes.

Bars of time start at 1, the time of mi_ext: to the right is slower, to the left faster. Those of memory start at 1 MiB.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

from .harness import OURS  # noqa: E402
from .report import MIB  # noqa: E402

BAR = 0.22  # inches


def draw(rows: list[dict], machine: dict, path: Path) -> None:
    names = list(dict.fromkeys(row["competitor"] for row in rows))
    palette = plt.get_cmap("tab10")
    colours = {name: palette(k % 10) for k, name in enumerate(names)}
    panels = [
        ("time / time of mi_ext", [(row, row["ratio"]) for row in rows if row.get("ratio") and not is_ours(row)]),
        ("peak extra memory, MiB", [(row, row["memory"] / MIB) for row in rows if row.get("memory")]),
    ]
    panels = [(label, bars) for label, bars in panels if bars]
    places = max(len(bars) + len({problem(row) for row, _ in bars}) for _, bars in panels)
    height = 1.5 + BAR * places
    figure, axes = plt.subplots(1, len(panels), figsize=(7 * len(panels), height), squeeze=False)
    for axis, (label, bars) in zip(axes[0], panels, strict=True):
        draw_bars(axis, bars, colours)
        axis.set(xlabel=label, ylim=(places, -1))
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
    figure.suptitle(f"{machine['cpu']}, {machine['threads']} threads, {machine['isa']}, {machine['date']}")
    figure.legend(handles, names, loc="lower center", ncols=min(len(names), 6), frameon=False)
    figure.tight_layout(rect=(0, 0.6 / height, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_bars(axis, bars: list[tuple[dict, float]], colours: dict) -> None:
    """One group of bars a problem, from the top down, its values written beside them."""
    place, ticks, last = -1, {}, None
    for row, value in bars:
        place += 1 if problem(row) == last or last is None else 2
        last = problem(row)
        ticks.setdefault(last, []).append(place)
        axis.barh(place, value - 1, left=1, color=colours[row["competitor"]])
        weight, side = ("bold" if is_ours(row) else "normal"), (1 if value >= 1 else -1)
        text = {"xytext": (3 * side, 0), "textcoords": "offset points", "ha": "left" if side > 0 else "right"}
        axis.annotate(f"{value:.3g}", (value, place), va="center", fontsize=7, fontweight=weight, **text)
    axis.set_xscale("log")
    axis.margins(x=0.2)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_yticks([sum(places) / len(places) for places in ticks.values()], list(ticks), fontsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def is_ours(row: dict) -> bool:
    return row["competitor"] == OURS


def problem(row: dict) -> str:
    return f"{row['family']}\n{row['problem']}"
