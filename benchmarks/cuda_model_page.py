"""The tables and the chart of cuda_model."""

from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure

from .cuda_model_counts import RESOURCES, SIZE
from .cuda_model_targets import targets

MODEL = f"A MODEL, no measurement, no prediction: µs that {SIZE}² scores take at least, at the datasheets' peaks."
NOTES = """\
Counted by `python -m benchmarks.cuda_model` without a GPU. For each score: flop, products on tensor cores; exp2,
special functions; fp32, additions and products of float32; lanes, warp instructions × 32, on the shortest way through
the main loop in machine code (SASS), or where that was not found of PTX without copies of registers; waves, 128-byte
accesses of shared memory, bank conflicts included, and how many times more those make them; L2 bytes, all that warps
ask for. DRAM: what launches read and write, once each, for all scores. float32 is made of three products of TF32, tf32
of one.

Times are of each resource alone, over all launches of a call. Least: launches follow each other, each takes at least
its longest resource; in brackets what binds most of that. Left out: latency, dependencies, poor overlap, caches from
one launch to the next. The A100 is held against sm_80 code, H100 and H200 against sm_90 code: ours of 16 bits by wgmma
where such a kernel is chosen, else by mma.sync, which does not reach the tensor peak of an H100 that it is held
against. Of what CLIP keeps of columns the DRAM bytes are counted too low.

Peers run in the configurations that their packages choose, compiled by Triton: for sm_90 its dot products are wgmma.
cut-cross-entropy filters nothing (`filter_eps=None`). Of Liger the Triton kernel is counted, and of its products, which
torch.mm makes chunk by chunk, the flops and each operand and result once to or from DRAM, but not their instructions
and shared memory. Its chunk of scores (8 MiB at d = 128) may stay in the second-level cache: the DRAM bound is without.
"""
COLOURS = dict(zip(RESOURCES, ("#1f77b4", "#d62728", "#9467bd", "#2ca02c", "#ff7f0e", "#7f7f7f"), strict=True))
TASKS = {"forward": ", forward", "forward and gradients": ", forward and gradients"}


def page(rows: list[dict], gathered: list[dict], joint: dict[str, float]) -> str:
    calls = list(dict.fromkeys(map(call_of, rows)))
    rows = sorted(rows, key=lambda row: calls.index(call_of(row)))  # stable: the first width stays first
    lines = ["# Counted work of CUDA kernels", "", f"**{MODEL}**", "", NOTES]
    lines += [f"## Summary, {rows[0]['width']}", "", "<!-- --8<-- [start:summary] -->"]
    lines += [*table(summary_cells([row for row in rows if row["width"] == rows[0]["width"]]))]
    lines += ["<!-- --8<-- [end:summary] -->", "", "## Targets", "", "<!-- --8<-- [start:targets] -->"]
    lines += [*table(targets(rows, gathered, joint)), "<!-- --8<-- [end:targets] -->", ""]
    for width in dict.fromkeys(row["width"] for row in rows):
        chosen = [row for row in rows if row["width"] == width]
        size = chosen[0]["size"]
        lines += [f"## {width}: for each score", "", *table(map(work_cells, chosen)), ""]
        lines += [f"## {width}: lower bounds in µs for {size}² scores", ""]
        lines += [*table(cells for row in chosen for cells in bound_cells(row)), ""]
    lines += ["## Gathered scores: bytes and lanes of a pair, and µs for CRD's pairs at the peak of the memory", ""]
    return "\n".join([*lines, *table(gathered)]) + "\n"


def work_cells(row: dict) -> dict[str, str]:
    counts = {name: f"{row[name]:.4g}" for name in ("flop", "exp2", "fp32")}
    counts |= {"lanes": f"{row['lanes']:.4g} {row['lanes of']}", "waves": f"{row['waves']:.3g}"}
    counts |= {"conflicts": f"{row['conflicts']:.2f}×", "L2 bytes": f"{row['L2 bytes']:.3g}"}
    return {**names(row), **counts, "DRAM": f"{row['DRAM bytes'] / 1e6:.0f} MB"}


def bound_cells(row: dict) -> Iterable[dict[str, str]]:
    for gpu, each in row["bounds"].items():
        yield {**names(row), "GPU": gpu, **{name: f"{each[name]:.0f}" for name in RESOURCES}, "least": least(row, gpu)}


def summary_cells(rows: list[dict]) -> Iterable[dict[str, str]]:
    """A line for each call, the bounds of all GPUs in it."""
    for call in dict.fromkeys(map(call_of, rows)):
        same = [row for row in rows if call_of(row) == call]
        line = {
            "call": call[0],
            "dtype": call[1],
            "flop": " / ".join(dict.fromkeys(f"{row['flop']:.0f}" for row in same)),
        }
        line["lanes, sm_80 / sm_90"] = " / ".join(f"{row['lanes']:.1f}" for row in same) + f" {same[0]['lanes of']}"
        line["waves, sm_80 / sm_90"] = " / ".join(f"{row['waves']:.2f}" for row in same)
        yield line | {gpu: least(row, gpu) for row in same for gpu in row["least"]}


def names(row: dict) -> dict[str, str]:
    return {"call": row["kernel"], "dtype": row["dtype"], "code": row["code"]}


def call_of(row: dict) -> tuple[str, str]:
    return row["kernel"], row["dtype"]


def least(row: dict, gpu: str) -> str:
    time, resource = row["least"][gpu]
    return f"{time:.0f} ({resource})"


def table(rows: Iterable[dict[str, str]]) -> list[str]:
    rows = list(rows)
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)] if rows else []
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def draw(rows: list[dict], path: Path) -> None:
    """A bar to the least time of each call, and a mark for the time of every resource; A100 and H100."""
    width = rows[0]["width"]
    tasks = {name: [r for r in rows if r["width"] == width and is_drawn(r, end)] for name, end in TASKS.items()}
    heights = [len(set(map(call_of, chosen))) for chosen in tasks.values()]
    figure = Figure((13, 2.6 + 0.36 * sum(heights)), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, height_ratios=heights)
    for line, (task, chosen) in zip(axes, tasks.items(), strict=True):
        for place, gpu in zip(line, ("A100-80GB", "H100"), strict=True):
            draw_bounds(place, [r for r in chosen if gpu in r["bounds"]], gpu)
            place.set_title(f"{task}: {gpu}", loc="left", fontsize=10)
    for place in axes[-1]:
        place.set_xlabel(f"µs for {SIZE}² scores, {width} (logarithmic)")
    figure.suptitle("A MODEL of CUDA kernels, no measurement: the least time at datasheet peaks, by resource")
    handles = [axes[0, 0].scatter([], [], s=40, color=colour, label=name) for name, colour in COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(path, dpi=110)


def is_drawn(row: dict, end: str) -> bool:
    return row["kernel"].endswith(end) and "two query sets" not in row["kernel"]


def draw_bounds(axes, rows: list[dict], gpu: str, least: float = 50) -> None:
    for i, row in enumerate(sorted(rows, key=lambda row: row["least"][gpu])):
        each, (time, most) = row["bounds"][gpu], row["least"][gpu]
        ours = row["kernel"].startswith("mi_ext")
        axes.barh(i, time, 0.62, color=COLOURS[most], alpha=0.45 if ours else 0.2)
        for name in RESOURCES:
            if each[name] >= least:
                axes.plot(each[name], i, "o", color=COLOURS[name], markersize=6, markeredgecolor="white")
        label = f"{row['kernel'].split(', ')[0]}, {row['dtype']}"
        beside = {"textcoords": "offset points", "va": "center", "fontsize": 8, "annotation_clip": False}
        axes.annotate(f"{time:,.0f} {most}", (time, i), (7, 0), **beside)
        weight = "bold" if ours else "normal"
        axes.annotate(label, (least, i), (-6, 0), ha="right", fontweight=weight, **beside)
    axes.set(xscale="log", xlim=(least, 1.2e5), yticks=[], ylim=(len(rows) - 0.4, -0.6))
    axes.spines[["top", "right", "left"]].set_visible(False)
