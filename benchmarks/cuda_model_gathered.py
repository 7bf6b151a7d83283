"""What the kernels on gathered scores ask of a GPU's memory, counted without one: a table of cuda_model.

The walk of a fused loss, scores and dx, run in tests/ptxsim on few and on twice as many negatives, so that what starts
and ends it does not count. For each pair: bytes that its warps ask for (32 for every sector of an access) beside the
compulsory ones, a row and its index, and instructions of PTX without copies of registers (lanes: those of a warp × 32).
The time is what those bytes take at the datasheet's peak of the memory, for the pairs of CRD.
"""

import torch

from .cuda_model_counts import GPUS, SPECS, WARP

from gathered_problems import gathered  # isort: skip  (found by the line above)
from gathered_walks import GatheredWalks
from walks import Walks

N, SMALL, V, PAIRS = 4, 512, 2000, 64 * 16384
WIDTHS = ((torch.float32, 64), (torch.float32, 128), (torch.bfloat16, 128), (torch.bfloat16, 512))


def rows(walks: Walks) -> list[dict[str, str]]:
    return [row(GatheredWalks(walks), dtype, d) for dtype, d in WIDTHS]


def row(walks: GatheredWalks, dtype: torch.dtype, d: int) -> dict[str, str]:
    once, twice = (launch(walks, dtype, d, m) for m in (SMALL, 2 * SMALL))

    def each(count) -> float:
        return (count(twice) - count(once)) / (N * SMALL)

    counted = each(lambda s: 32 * (s.global_load_sectors + s.global_store_sectors))
    compulsory = d * torch.finfo(dtype).bits // 8 + 8
    lanes = each(lambda s: WARP * (s.warp_instructions - s.instructions["move"]))
    name = str(dtype).removeprefix("torch.")
    found = {"dtype": name, "d": str(d), "bytes": f"{counted:.0f}", "compulsory": str(compulsory)}
    times = {gpu: f"{1e6 * counted * PAIRS / SPECS[gpu]['dram']:.0f}" for gpus in GPUS.values() for gpu in gpus}
    return found | {"lanes": f"{lanes:.0f} PTX"} | times


def launch(walks: GatheredWalks, dtype: torch.dtype, d: int, m: int):
    """Counts of the walk."""
    p = gathered(N, m, d, V, "bank", dtype)
    walks.gathered_fused(p.x, p.y, p.index, torch.ones((), dtype=torch.float64), p.positive, 0.0, 0.0, False, False)
    return next(stats for stats in walks.launches if "gathered_queries" in stats.kernel)
