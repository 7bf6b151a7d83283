"""What kernels ask of a GPU, counted without one. A MODEL: lower bounds from datasheets, no measurement, no prediction.

    python -m benchmarks.cuda_model      needs nvcc; inf-cl and cut-cross-entropy where they and Triton are installed

Each kernel is compiled (sm_80) and run, instruction by instruction, in tests/ptxsim, on SMALL² and (2 SMALL)² scores:
with f = a n² + b n, f(2n) − 2 f(n) = 2 a n², so what it does for each score is known without what it does for each row:
products on tensor cores (flop), special functions (exp2), 128-byte accesses of shared memory (waves), how many times
such an access is repeated for bank conflicts (ways), bytes of global memory, and instructions of PTX (lanes: those of a
warp × 32), of which ptxas makes fewer or more. The time that tensor cores, special functions or shared memory alone
would take at their datasheet peaks bounds the kernel from below; the largest binds. Issue slots, caches, DRAM, latency
and dependencies are left out.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from . import cuda_model_peers

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/cuda")]
SMALL = 256  # queries, and as many candidates: whole tiles of every kernel
GPUS = ("A100-80GB", "H100", "H200")
SIZE = 32768  # queries and candidates that the bounds are for
MODEL = (
    f"A MODEL, no measurement: lower bounds in µs for {SIZE}² scores at datasheet peaks, and the resource that binds."
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda_model", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="a .json file for the counts; beside it a .md table and a .png chart")
    parser.add_argument("--widths", type=int, nargs="*", default=[64, 128], metavar="d")
    arguments = parser.parse_args()
    rows = []
    for d in arguments.widths:
        small, large = (our_launches(n, d) + cuda_model_peers.launches(n, d) for n in (SMALL, 2 * SMALL))
        rows += [row(*kernel, d, once, twice) for (*kernel, once), (*_, twice) in zip(small, large, strict=True)]
    print(MODEL + "\n")
    print("\n".join(table(rows)))
    if arguments.out:
        arguments.out.write_text(json.dumps({"note": MODEL, "rows": rows}, indent=1) + "\n", encoding="utf-8")
        arguments.out.with_suffix(".md").write_text("\n".join([MODEL, "", *table(rows), ""]), encoding="utf-8")
        draw(rows, arguments.out.with_suffix(".png"))


def our_launches(n: int, d: int) -> list[tuple]:
    """(kernel, dtype, counts of its launches)."""
    from compiled import built
    from importance_walks import ImportanceWalks
    from ranking_walks import RankingWalks
    from walks import Walks

    walks = Walks(built())
    pairs, ranks = ImportanceWalks(walks), RankingWalks(walks)
    found = []
    for dtype, tf32 in ((torch.bfloat16, False), (torch.float32, False), (torch.float32, True)):
        walks.tf32 = tf32
        g = torch.Generator().manual_seed(0)
        x, y = (F.normalize(torch.randn(n, d, generator=g), dim=1).to(dtype) for _ in range(2))
        scale, target = torch.tensor(14.0, dtype=torch.float64), torch.arange(n)
        sides = x, y, scale, target, None, None, None
        name = "tf32" if tf32 else str(dtype).removeprefix("torch.")
        walks.dot_statistics(*sides, False)
        found.append(("mi_ext forward", name, walks.launches))
        walks.dot_fused(*sides, None, 0.0, 0.0, False, True)
        found.append(("mi_ext forward and gradients", name, walks.launches))
        ranks.dot_ranking(*sides, None)
        found.append(("mi_ext ranks and entropies", name, walks.launches))
        weights, log_mass = (0.5, 0.5, 0.5), torch.full((n,), 5.0, dtype=torch.float64)
        two = x, x.flip(0), y, scale, scale, target, None, None, None
        pairs.importance_fused(*two, None, None, log_mass, *weights, True, True)
        found.append(("mi_ext two query sets, forward and gradients", name, walks.launches))
    return found


def row(kernel: str, dtype: str, d: int, once: list, twice: list) -> dict:
    """Of all launches of a call together, for one score."""
    from ptxsim import roofline

    def each(count) -> float:
        return (sum(map(count, twice)) - 2 * sum(map(count, once))) / (2 * SMALL**2)

    found = {
        "kernel": kernel,
        "dtype": dtype,
        "d": d,
        "flop": each(lambda s: sum(s.mma_flops.values())),
        "exp2": each(lambda s: s.mufu),
        "lanes": each(lambda s: 32 * s.warp_instructions),
        "waves": each(lambda s: s.shared_wavefronts),
        "ways": sum(s.shared_wavefronts for s in twice) / sum(s.shared_accesses for s in twice),
        "global bytes": each(lambda s: 32 * (s.global_load_sectors + s.global_store_sectors)),
    }
    for gpu in GPUS:
        seconds = {
            name: each(lambda s, name=name, gpu=gpu: roofline(s, gpu)[name]) for name in ("tensor", "mufu", "shared")
        }
        bounds = {name: 1e6 * value * SIZE**2 for name, value in seconds.items()}
        binding = max(bounds, key=bounds.get)
        found[gpu] = {"microseconds": bounds[binding], "binds": binding, "bounds": bounds}
    return found


def draw(rows: list[dict], path: Path, gpu: str = "H100") -> None:
    """A bar for each resource of each call, 16-bit and TF32 kernels."""
    calls = [r for r in rows if r["dtype"] != "float32"]
    figure = Figure((9, 1 + 0.55 * len(calls)), layout="constrained")
    axes = figure.subplots()
    for k, resource in enumerate(("tensor", "mufu", "shared")):
        places = [i + 0.27 * (k - 1) for i in range(len(calls))]
        axes.barh(places, [r[gpu]["bounds"][resource] for r in calls], 0.25, label=resource)
    axes.set_yticks(range(len(calls)), [f"{r['kernel']}\n{r['dtype']}, d = {r['d']}" for r in calls], fontsize=7)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel=f"MODEL, no measurement: lower bound on {gpu} for {SIZE}² scores, µs")
    axes.legend()
    figure.savefig(path, dpi=110)


def table(rows: list[dict]) -> list[str]:
    headings = list(rows[0])
    lines = [headings, ["---"] * len(headings), *([text(value) for value in row.values()] for row in rows)]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def text(value) -> str:
    if isinstance(value, dict):
        return f"{value['microseconds']:.0f} ({value['binds']})"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
