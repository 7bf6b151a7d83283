"""The decomposed objective of two sub-views: three log-partitions in one walk

Float32, n queries of either view on the same n candidates, forward and backward. "decomposed": InfoNCE of each view and
the conditional one, λ = ½, useful flops 12nmd (two products of scores, four of gradients). "conditional" is the last
alone, its weights detached: 8nmd, since s'' gets no gradient. "mi_ext InfoNCE" is that of one view.
"""

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_ext import DotScores, bounds
from mi_ext.losses import InfoNCE

from . import competitors as c
from . import harness
from .harness import COMPILED, OURS, Case, Effort, Target

SHAPES = {"full": [(4096, 128), (4096, 64)], "quick": [(4096, 128)], "tiny": [(96, 16)]}
LAMBDA = 0.5
INFO_NCE = "mi_ext InfoNCE"


def scores(x1: Tensor, x2: Tensor, y: Tensor) -> tuple[DotScores, DotScores]:
    return DotScores(x1, y, c.SCALE), DotScores(x2, y, c.SCALE)


def decomposed(x1: Tensor, x2: Tensor, y: Tensor) -> Tensor:
    return -bounds.decomposed_infonce(*scores(x1, x2, y), LAMBDA)


def conditional(x1: Tensor, x2: Tensor, y: Tensor) -> Tensor:
    return -bounds.importance_infonce(*scores(x1, x2, y))


def eager_decomposed(x1: Tensor, x2: Tensor, y: Tensor) -> Tensor:
    s1, s2, target = x1 @ y.T * c.SCALE, x2 @ y.T * c.SCALE, torch.arange(len(x1), device=x1.device)
    second = F.cross_entropy(s2, target) + dense_conditional(s1, s2)
    return LAMBDA * F.cross_entropy(s1, target) + (1 - LAMBDA) * second - (2 - LAMBDA) * math.log(len(x1))


def eager_conditional(x1: Tensor, x2: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        s2 = x2 @ y.T * c.SCALE
    return dense_conditional(x1 @ y.T * c.SCALE, s2) - math.log(len(x1))


def dense_conditional(s1: Tensor, s2: Tensor) -> Tensor:
    """mean softplus(log(n − 1) + LSE(s'' + s') − LSE(s'') − p'), the weights detached."""
    s2, positive = s2.detach().clone().fill_diagonal_(-math.inf), s1.diagonal()
    log_mean = torch.logsumexp(s1 + s2, 1) - torch.logsumexp(s2, 1)
    return F.softplus(math.log(len(s1) - 1) + log_mean - positive).mean()


# name: (ours, in plain torch, useful flops / nmd, targets)
OBJECTIVES = {
    "decomposed": (
        decomposed,
        eager_decomposed,
        12,
        {OURS: Target("yardstick_ratio", 2.3, at_least=False), "eager": Target("ratio", 7)},
    ),
    "conditional": (conditional, eager_conditional, 8, {}),
}


def rows(effort: Effort) -> list[dict]:
    return harness.rows(__name__.split(".")[-1], cases(effort), effort)


def cases(effort: Effort) -> list[Case]:
    found = []
    for name, (ours, eager, flops, limits) in OBJECTIVES.items():
        for n, d in SHAPES[effort.name]:
            targets, call = (limits if d == 128 else {}), partial(build, ours, eager)
            case = Case(f"{name} n=m={n} d={d}", (n, n, d), call, flops * n * n * d, targets, INFO_NCE, d == 128)
            found.append(case)
    return found


def build(ours, eager, n: int, m: int, d: int) -> dict:
    x1, x2, y = c.unit_rows(n, d, 0), c.unit_rows(n, d, 2), c.unit_rows(m, d, 1)
    return {
        OURS: c.forward_backward(ours, x1, x2, y),
        INFO_NCE: c.forward_backward(InfoNCE(c.TEMPERATURE, normalize=False), x1, y),
        COMPILED: c.forward_backward(c.compiled(eager), x1, x2, y),
        "eager": c.forward_backward(eager, x1, x2, y),
    }
