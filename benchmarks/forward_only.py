"""InfoNCE in a batch, the value only

Float32, no gradient asked for. Useful flops: 2nmd, the scores.
"""

import torch

from mi_ext.losses import InfoNCE

from . import competitors as c
from . import harness
from .harness import COMPILED, OURS, Case, Effort, Target

SHAPES = {
    "full": [(1024, 128), (4096, 64), (4096, 128), (16384, 128)],
    "quick": [(4096, 128)],
    "tiny": [(96, 16)],
}


def rows(effort: Effort) -> list[dict]:
    return harness.rows(__name__.split(".")[-1], cases(effort), effort)


def cases(effort: Effort) -> list[Case]:
    return [
        Case(f"n=m={n} d={d}", (n, n, d), build, 2 * n * n * d, targets(n), memory=(n, d) == (4096, 128))
        for n, d in SHAPES[effort.name]
    ]


def targets(n: int) -> dict[str, Target]:
    return {OURS: Target("peak_share", 0.85)} if n >= 2048 else {}


def build(n: int, m: int, d: int) -> dict:
    x, y = c.unit_rows(n, d, 0), c.unit_rows(m, d, 1)
    return {
        OURS: c.forward(InfoNCE(c.TEMPERATURE, normalize=False), x, y),
        "one bare product": lambda: torch.mm(x, y.T),
        "torch chunked": c.forward(c.chunked_info_nce, x, y),
        COMPILED: c.forward(c.compiled(c.eager_info_nce), x, y),
        "eager": c.forward(c.eager_info_nce, x, y),
    }
