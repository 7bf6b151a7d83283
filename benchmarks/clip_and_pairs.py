"""CLIP, multi-label CPC, NWJ and SigLIP, beside our own InfoNCE

Float32, forward and backward, all on the same problem. Useful flops: 6nmd; CLIP 8nmd, since rows and columns must be
known before the gradient.
"""

from functools import partial

from mi_ext import DotScores, bounds
from mi_ext.losses import CLIP, MLCPC, InfoNCE, SigLIP

from . import competitors as c
from . import harness
from .harness import COMPILED, OURS, Case, Effort, Target

SHAPE, TINY = (4096, 128), (96, 16)
INFO_NCE = "mi_ext InfoNCE"


def nwj(x, y):
    return -bounds.nwj(DotScores(x, y, c.SCALE))


# name: (ours, in plain torch, useful flops / nmd, most times the time of InfoNCE)
OBJECTIVES = {
    "CLIP": (CLIP(c.TEMPERATURE, normalize=False), c.eager_clip, 8, 1.5),
    "ML-CPC": (MLCPC(1.0, c.TEMPERATURE, normalize=False), c.eager_ml_cpc, 6, 1.15),
    "NWJ": (nwj, c.eager_nwj, 6, 1.15),
    "SigLIP": (SigLIP(c.TEMPERATURE, c.BIAS, normalize=False), c.eager_siglip, 6, 1.15),
}


def rows(effort: Effort) -> list[dict]:
    return harness.rows(__name__.split(".")[-1], cases(effort), effort)


def cases(effort: Effort) -> list[Case]:
    n, d = TINY if effort.name == "tiny" else SHAPE
    found = []
    for name, (ours, eager, flops, limit) in OBJECTIVES.items():
        targets = {OURS: Target("yardstick_ratio", limit, at_least=False), "eager": Target("ratio", 8)}
        call = partial(build, ours, eager)
        found.append(Case(f"{name} n=m={n} d={d}", (n, n, d), call, flops * n * n * d, targets, INFO_NCE, memory=True))
    return found


def build(ours, eager, n: int, m: int, d: int) -> dict:
    x, y = c.unit_rows(n, d, 0), c.unit_rows(m, d, 1)
    return {
        OURS: c.forward_backward(ours, x, y),
        INFO_NCE: c.forward_backward(InfoNCE(c.TEMPERATURE, normalize=False), x, y),
        COMPILED: c.forward_backward(c.compiled(eager), x, y),
        "eager": c.forward_backward(eager, x, y),
    }
