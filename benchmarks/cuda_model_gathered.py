"""What the kernels on gathered scores ask of a GPU's memory, counted without one. A MODEL, as `cuda_model`.

    python -m benchmarks.cuda_model_gathered      needs nvcc

The walk of a fused loss, scores and dx, run in tests/ptxsim on few and on twice as many negatives, so that what starts
and ends it does not count. For each pair: bytes that its warps ask for (32 for every sector of an access) beside the
compulsory ones, a row and its index, and instructions of PTX (lanes: those of a warp × 32). The time is what those
bytes take at the datasheet's peak of the memory, for the pairs of CRD.
"""

import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/cuda")]
N, SMALL, V, PAIRS = 4, 512, 2000, 64 * 16384
WIDTHS = ((torch.float32, 64), (torch.float32, 128), (torch.bfloat16, 128), (torch.bfloat16, 512))


def main() -> None:
    from compiled import built
    from gathered_walks import GatheredWalks
    from ptxsim.counters import SPECS
    from walks import Walks

    walks = GatheredWalks(Walks(built()))
    gpus = ("A100-80GB", "H100", "H200")
    print("A MODEL, no measurement: bytes and lanes of a pair, and µs for CRD's pairs at the peak of the memory.\n")
    lines = [["dtype", "d", "bytes", "compulsory", "lanes", *gpus]]
    lines.append(["---"] * len(lines[0]))
    for dtype, d in WIDTHS:
        once, twice = (launch(walks, dtype, d, m) for m in (SMALL, 2 * SMALL))

        def each(count, once=once, twice=twice) -> float:
            return (count(twice) - count(once)) / (N * SMALL)

        counted = each(lambda s: 32 * (s.global_load_sectors + s.global_store_sectors))
        compulsory = d * torch.finfo(dtype).bits // 8 + 8
        times = [f"{1e6 * counted * PAIRS / SPECS[gpu]['dram']:.0f}" for gpu in gpus]
        lanes = each(lambda s: 32 * s.warp_instructions)
        name = str(dtype).removeprefix("torch.")
        lines.append([name, str(d), f"{counted:.0f}", str(compulsory), f"{lanes:.0f}", *times])
    print("\n".join("| " + " | ".join(cells) + " |" for cells in lines))


def launch(walks, dtype: torch.dtype, d: int, m: int):
    """Counts of the walk."""
    from gathered_problems import gathered

    p = gathered(N, m, d, V, "bank", dtype)
    walks.gathered_fused(p.x, p.y, p.index, torch.ones((), dtype=torch.float64), p.positive, 0.0, 0.0, False, False)
    return next(stats for stats in walks.launches if "gathered_queries" in stats.kernel)


if __name__ == "__main__":
    main()
