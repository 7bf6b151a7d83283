"""A few queries against a large bank without gradient, one positive beside it

InfoNCE, MoCo and ML-CPC with a queue, float32, forward and backward. Useful flops: 4nmd (scores, gradient by queries).
"MoCo" normalises queries and keys on every call; the queue holds normalised keys. torch's chunked loss has no positives
beside the candidates: it gets the n positives as further candidates, n more negatives for each query. It is left out
where it cannot compute the objective.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_ext import DotScores
from mi_ext.losses import MLCPC, MoCo

from . import competitors as c
from . import harness
from .harness import COMPILED, OURS, Case, Effort, Target

SHAPE, TINY = (256, 65536, 128), (32, 200, 16)
TARGETS = {"eager": Target("ratio", 8), "torch chunked": Target("ratio", 3.5)}


def rows(effort: Effort) -> list[dict]:
    return harness.rows(__name__.split(".")[-1], cases(effort), effort)


def cases(effort: Effort) -> list[Case]:
    n, m, d = shape = TINY if effort.name == "tiny" else SHAPE
    builders = {"InfoNCE": build_info_nce, "MoCo": build_moco, "ML-CPC": build_ml_cpc}
    return [
        Case(f"{name} n={n} m={m} d={d}", shape, build, 4 * n * m * d, TARGETS, memory=name == "InfoNCE")
        for name, build in builders.items()
    ]


def info_nce(x: Tensor, key: Tensor, bank: Tensor) -> Tensor:
    return DotScores(x, bank, c.SCALE, positive=key).cross_entropy()


def logits(x: Tensor, key: Tensor, bank: Tensor) -> Tensor:
    """[n, 1 + m]: the positive, then the bank."""
    return torch.cat([(x * key).sum(1, keepdim=True), x @ bank.T], dim=1) * c.SCALE


def eager(x: Tensor, key: Tensor, bank: Tensor) -> Tensor:
    return F.cross_entropy(logits(x, key, bank), torch.zeros(len(x), dtype=torch.int64, device=x.device))


def eager_moco(x: Tensor, key: Tensor, bank: Tensor) -> Tensor:
    return eager(F.normalize(x), F.normalize(key), bank)


def eager_ml_cpc(x: Tensor, key: Tensor, bank: Tensor) -> Tensor:
    s = logits(x, key, bank)
    return torch.logsumexp(s, (0, 1)) - math.log(len(x)) - s[:, 0].mean()


def build_info_nce(n: int, m: int, d: int) -> dict:
    x, key, bank = inputs(n, m, d)
    candidates = torch.cat([key, bank])
    chunked = c.forward_backward(lambda x: c.chunked_info_nce(x, candidates), x)
    return build(info_nce, eager, n, m, d) | {"torch chunked": chunked}


def build_moco(n: int, m: int, d: int) -> dict:
    return build(MoCo(c.TEMPERATURE), eager_moco, n, m, d)


def build_ml_cpc(n: int, m: int, d: int) -> dict:
    return build(MLCPC(1.0, c.TEMPERATURE, normalize=False), eager_ml_cpc, n, m, d)


def build(ours, plain, n: int, m: int, d: int) -> dict:
    x, key, bank = inputs(n, m, d)

    def call(loss):
        return c.forward_backward(lambda x: loss(x, key, bank), x)

    return {OURS: call(ours), COMPILED: call(c.compiled(plain)), "eager": call(plain)}


def inputs(n: int, m: int, d: int) -> list[Tensor]:
    return [c.unit_rows(size, d, seed) for seed, size in enumerate((n, n, m))]
