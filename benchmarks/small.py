"""Small batches, forward and backward, where launching operations takes longer than they do

Float32, n queries, n candidates; losses normalise their inputs, in plain torch by F.normalize. Times are those of 100
steps, one after the other. Useful flops as in in_batch and clip_and_pairs.
"""

from collections.abc import Callable
from functools import partial

from torch.nn import functional as F

from mi_ext.losses import CLIP, InfoNCE, SigLIP

from . import competitors as c
from . import harness
from .clip_and_pairs import nwj
from .harness import COMPILED, OURS, Case, Effort

STEPS = 100
SHAPES = {
    "full": [(n, 128) for n in (8, 32, 128, 512)],
    "quick": [(32, 128), (128, 128)],
    "tiny": [(16, 8)],
}


def normalized(loss: Callable) -> Callable:
    return lambda x, y: loss(F.normalize(x, dim=-1), F.normalize(y, dim=-1))


# name: (ours, in plain torch, useful flops / nmd)
OBJECTIVES = {
    "InfoNCE": (InfoNCE(c.TEMPERATURE), normalized(c.eager_info_nce), 6),
    "CLIP": (CLIP(c.TEMPERATURE), normalized(c.eager_clip), 8),
    "SigLIP": (SigLIP(c.TEMPERATURE, c.BIAS), normalized(c.eager_siglip), 6),
    "NWJ": (nwj, c.eager_nwj, 6),
}


def rows(effort: Effort) -> list[dict]:
    return harness.rows(__name__.split(".")[-1], cases(effort), effort)


def cases(effort: Effort) -> list[Case]:
    return [
        Case(f"{name} n=m={n} d={d}", (n, n, d), partial(build, ours, eager), STEPS * flops * n * n * d)
        for name, (ours, eager, flops) in OBJECTIVES.items()
        for n, d in SHAPES[effort.name]
    ]


def build(ours: Callable, eager: Callable, n: int, m: int, d: int) -> dict:
    x, y = c.unit_rows(n, d, 0), c.unit_rows(m, d, 1)
    losses = {OURS: ours, COMPILED: c.compiled(eager), "eager": eager}
    return {name: repeated(c.forward_backward(loss, x, y)) for name, loss in losses.items()}


def repeated(step: Callable) -> Callable:
    def call():
        for _ in range(STEPS):
            step()

    return call
