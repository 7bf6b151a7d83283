"""InfoNCE in a batch from 16-bit embeddings, beside our own float32

Forward and backward. Useful flops: 6nmd, here too as a share of the float32 peak, which 16-bit products may exceed.
Ratios: time over that of mi_ext in 16 bits. The gradients of mi_ext are rounded to 16 bits once, at the end.
"""

from functools import partial

import torch

from mi_ext.losses import InfoNCE

from . import competitors as c
from . import harness
from .harness import COMPILED, OURS, Case, Effort, Target

SHAPE, TINY = (4096, 128), (96, 16)
FLOAT32 = "mi_ext float32"


def rows(effort: Effort) -> list[dict]:
    return harness.rows(__name__.split(".")[-1], cases(effort), effort)


def cases(effort: Effort) -> list[Case]:
    n, d = TINY if effort.name == "tiny" else SHAPE
    return [
        Case(f"{name} n=m={n} d={d}", (n, n, d), partial(build, dtype), 6 * n * n * d, targets, memory=bool(targets))
        for name, dtype, targets in (
            ("bfloat16", torch.bfloat16, {FLOAT32: Target("ratio", 1.75)}),
            ("float16", torch.float16, {}),
        )
    ]


def build(dtype: torch.dtype, n: int, m: int, d: int) -> dict:
    x, y = c.unit_rows(n, d, 0, dtype), c.unit_rows(m, d, 1, dtype)
    ours = InfoNCE(c.TEMPERATURE, normalize=False)
    return {
        OURS: c.forward_backward(ours, x, y),
        FLOAT32: c.forward_backward(ours, x.float(), y.float()),
        "three bare products": c.three_products(x, y),
        COMPILED: c.forward_backward(c.compiled(c.eager_info_nce), x, y),
        "eager": c.forward_backward(c.eager_info_nce, x, y),
    }
