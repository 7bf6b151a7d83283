"""Rows as a Markdown table, a JSON file and a bar chart, under a header that says on which machine."""

import datetime
import json
import os
import platform
import re
from pathlib import Path

import torch
from tabulate import tabulate

from mi_ext import _C

MIB = 1 << 20

# column of a target: text of its limit
LIMITS = {
    "ratio": "{:g}×".format,
    "yardstick_ratio": "{:g}× InfoNCE".format,
    "peak_share": lambda v: f"{100 * v:g} % of peak",
    "memory": lambda v: f"{v / MIB:g} MiB",
    "saved_ratio": "{:g}".format,
    "error": "{:.1e}".format,
}


def target_text(target: dict) -> str:
    return ("≥ " if target["at_least"] else "≤ ") + LIMITS[target["column"]](target["limit"])


# key of a row: (heading, text of a value)
COLUMNS = {
    "problem": ("problem", str),
    "competitor": ("competitor", str),
    "seconds": ("time", lambda v: f"{1e3 * v:.2f} ms" if v < 0.01 else f"{1e3 * v:.1f} ms"),
    "rounds": ("rounds", str),
    "ratio": ("time / mi_ext", lambda v: f"{v:.2f}×"),
    "yardstick_ratio": ("time / InfoNCE", lambda v: f"{v:.2f}×"),
    "rate": ("useful GF/s", lambda v: f"{v / 1e9:.0f}"),
    "peak_share": ("of FMA peak", lambda v: f"{100 * v:.0f} %"),
    "memory": ("extra memory", lambda v: f"{v / MIB:.1f} MiB"),
    "saved": ("saved for backward", lambda v: f"{v / MIB:.2f} MiB"),
    "saved_ratio": ("saved / (n+m)d numbers", lambda v: f"{v:.2f}"),
    "error": ("mi_ext", lambda v: f"{v:.1e}"),
    "error_eager": ("eager float32", lambda v: f"{v:.1e}"),
    "error_eager_double": ("eager float64", lambda v: f"{v:.1e}"),
    "target": ("target", target_text),
    "met": ("met", lambda met: "yes" if met else "**no**"),
    "note": ("note", str),
}


def machine() -> dict:
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "isa": _C.isa(),
        "version": _C.build_info()["version"],
        "date": datetime.date.today().isoformat(),
    }


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def slug(machine: dict) -> str:
    words = re.sub(r"\((R|TM)\)|CPU|@.*", " ", machine["cpu"], flags=re.IGNORECASE)
    text = f"{words} {machine['cores']} cores {machine['isa']}"
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def table(rows: list[dict]) -> str:
    """The columns that any of these rows has; a target whose value could not be measured counts as not met."""
    columns = {key: column for key, column in COLUMNS.items() if any(key in row for row in rows)}
    cells = [[_cell(key, text, row) for key, (_, text) in columns.items()] for row in rows]
    return tabulate(cells, headers=[heading for heading, _ in columns.values()], tablefmt="pipe", disable_numparse=True)


def _cell(key: str, text, row: dict) -> str:
    if key == "met" and "target" in row:
        return text(row["met"])
    return "" if row.get(key) is None else text(row[key])


def write(stem: Path, machine: dict, effort, titles: dict[str, str], rows: list[dict]) -> list[Path]:
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(stem.name + suffix) for suffix in (".md", ".json", ".png")]
    paths[0].write_text(markdown(machine, effort, titles, rows, paths[2].name), encoding="utf-8")
    document = {"machine": machine, "effort": effort.name, "rows": rows}
    paths[1].write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    charted = [row for row in rows if row.get("ratio") or row.get("memory")]
    if not charted:
        return paths[:2]
    from . import chart

    chart.draw(charted, machine, paths[2])
    return paths


def markdown(machine: dict, effort, titles: dict[str, str], rows: list[dict], chart_name: str) -> str:
    judged = [row for row in rows if "target" in row]
    met = sum(bool(row["met"]) for row in judged)
    lines = [
        "# Benchmarks of mi_ext",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads; torch {machine['torch']}; "
        f"mi_ext {machine['version']}, instruction set {machine['isa']}; {machine['date']}; effort: {effort.name}.",
        "",
        f"Targets met: {met} of {len(judged)}. Times are medians over interleaved rounds; the FMA peak was measured "
        "around every call; a competitor slower than 2 s has one round.",
        "",
        f"![Time over that of mi_ext, and memory]({chart_name})",
    ]
    for family, title in titles.items():
        first, *rest = title.split("\n\n")
        lines += ["", f"## {first}", "", *rest, "", table([row for row in rows if row["family"] == family])]
    return "\n".join(lines) + "\n"
