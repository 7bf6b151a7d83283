"""InfoNCE in a batch, forward and backward

Float32, n queries, n candidates, positives on the diagonal. Useful flops: 6nmd (scores, gradient by queries, gradient
by candidates). "three bare products" are these alone, by torch.mm. Targets of the ratios: how many times longer a
competitor takes than mi_ext.
"""

from mi_ext.losses import InfoNCE

from . import competitors as c
from . import harness
from .harness import COMPILED, OURS, Case, Effort, Target

SHAPES = {
    "full": [(n, d) for n in (1024, 4096, 16384) for d in (64, 128)] + [(4096, 512)],
    "quick": [(1024, 128), (4096, 128)],
    "tiny": [(96, 16)],
}
RATIOS = {
    4096: {"eager": 6, COMPILED: 4.5, "torch chunked": 2.5},
    16384: {"eager": 10, COMPILED: 5, "torch chunked": 2.5},
}


def rows(effort: Effort) -> list[dict]:
    return harness.rows(__name__.split(".")[-1], cases(effort), effort)


def cases(effort: Effort) -> list[Case]:
    return [
        Case(f"n=m={n} d={d}", (n, n, d), build, 6 * n * n * d, targets(n, d), memory=(n, d) == (4096, 128))
        for n, d in SHAPES[effort.name]
    ]


def targets(n: int, d: int) -> dict[str, Target]:
    if n < 2048 or d > 128:
        return {}
    ratios = {name: Target("ratio", limit) for name, limit in RATIOS[n].items()}
    return {OURS: Target("peak_share", 0.85), **ratios}


def build(n: int, m: int, d: int) -> dict:
    x, y = c.unit_rows(n, d, 0), c.unit_rows(m, d, 1)
    return {
        OURS: c.forward_backward(InfoNCE(c.TEMPERATURE, normalize=False), x, y),
        "three bare products": c.three_products(x, y),
        "torch chunked": c.forward_backward(c.chunked_info_nce, x, y),
        COMPILED: c.forward_backward(c.compiled(c.eager_info_nce), x, y),
        "eager": c.forward_backward(c.eager_info_nce, x, y),
    }
