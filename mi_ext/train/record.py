"""What an experiment leaves behind: metrics.jsonl while it runs, summary.json and a picture at the end."""

import json
import math
from pathlib import Path

from matplotlib.axes import Axes

INK, MUTED, CAP, ESTIMATE, REFERENCE = "#22272e", "#8b949e", "#c2410c", "#2563eb", "#94a3b8"
STYLE = {
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titleweight": "bold",
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.dpi": 130,
    "savefig.bbox": "tight",
}


class Record:
    """The folder of one run: `write` adds a line to metrics.jsonl, on disk at once; `summary` is summary.json."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.lines: list[dict] = []
        self._file = open(folder / "metrics.jsonl", "w", encoding="utf-8", buffering=1)

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, *error) -> None:
        self._file.close()

    def write(self, **fields) -> None:
        self.lines.append(fields)
        self._file.write(_json(fields) + "\n")

    def summary(self, **fields) -> None:
        (self.folder / "summary.json").write_text(_json(fields, indent=2) + "\n", encoding="utf-8")


def draw_cap(axes: Axes, cap: float, label: str) -> None:
    """A dashed line at the largest value that a bound can take."""
    axes.axhline(cap, color=CAP, linestyle=(0, (5, 3)), linewidth=1.2)
    axes.annotate(label, (0.01, cap), xycoords=axes.get_yaxis_transform(), xytext=(0, 3),
                  textcoords="offset points", color=CAP, fontsize=9)  # fmt: skip


def _json(value, indent: int | None = None) -> str:
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value):
    """JSON has no NaN and no infinities: they become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
