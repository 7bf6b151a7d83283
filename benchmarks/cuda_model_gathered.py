"""What the kernels on gathered scores ask of a GPU's memory, counted without one. A MODEL, as `cuda_model`.

    python -m benchmarks.cuda_model_gathered      needs nvcc

A fused loss with the gradients of queries and of a bank, run in tests/ptxsim on few and on twice as many negatives, so
that what starts and ends a walk does not count. For each pair: bytes that its warps ask for (32 for every sector of an
access) beside the compulsory ones, and instructions of PTX (lanes: those of a warp × 32). The time is what those bytes
take at the datasheet's peak of the memory, for the pairs of CRD; queries, which stay in cache, count as well.
"""

import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/cuda")]
N, SMALL, V, PAIRS = 4, 512, 2000, 64 * 16384
KERNELS = {"gathered_queries": "scores and dx", "gathered_bankI": "dy of the bank"}
WIDTHS = ((torch.float32, 64), (torch.float32, 128), (torch.bfloat16, 128), (torch.bfloat16, 512))


def main() -> None:
    from compiled import built
    from gathered_walks import GatheredWalks
    from ptxsim.counters import SPECS
    from walks import Walks

    walks = GatheredWalks(Walks(built()))
    gpus = ("A100-80GB", "H100", "H200")
    print("A MODEL, no measurement: bytes and lanes of a pair, and µs for CRD's pairs at the peak of the memory.\n")
    lines = [["kernel", "dtype", "d", "bytes", "compulsory", "lanes", *gpus]]
    lines.append(["---"] * len(lines[0]))
    for dtype, d in WIDTHS:
        once, twice = (launches(walks, dtype, d, m) for m in (SMALL, 2 * SMALL))
        for kernel, what in KERNELS.items():

            def each(count, kernel=kernel, once=once, twice=twice) -> float:
                before, after = (next(count(s) for s in stats if kernel in s.kernel) for stats in (once, twice))
                return (after - before) / (N * SMALL)

            counted = each(lambda s: 32 * (s.global_load_sectors + s.global_store_sectors))
            read = d * torch.finfo(dtype).bits // 8 + (8 + 4 if kernel == "gathered_queries" else 4 + 8 + 4)
            times = [f"{1e6 * counted * PAIRS / SPECS[gpu]['dram']:.0f}" for gpu in gpus]
            name = str(dtype).removeprefix("torch.")
            lanes = each(lambda s: 32 * s.warp_instructions)
            lines.append([what, name, str(d), f"{counted:.0f}", str(read), f"{lanes:.0f}", *times])
    print("\n".join("| " + " | ".join(cells) + " |" for cells in lines))


def launches(walks, dtype: torch.dtype, d: int, m: int) -> list:
    from gathered_problems import gathered

    p = gathered(N, m, d, V, "bank", dtype)
    walks.gathered_fused(p.x, p.y, p.index, torch.ones((), dtype=torch.float64), p.positive, 0.0, 0.0, False, True)
    return walks.launches


if __name__ == "__main__":
    main()
