"""Each query with negatives of its own, rows of a bank of 50 000

Float32, forward and backward, index [n, m] drawn uniformly. Useful flops: 4nmd (scores, gradient by queries), 6nmd with
a gradient of the bank. "softplus" is one way of CRD: −log σ(p − c) − Σ log σ(c − s). Plain PyTorch copies n·m rows of
the bank. The extra memory of mi_ext without a gradient of the bank stays below 5 MB.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_ext import GatheredScores

from . import competitors as c
from . import harness
from .harness import COMPILED, OURS, Case, Effort, Target

SHAPES = {"full": (64, 16384, 128), "quick": (64, 16384, 128), "tiny": (8, 40, 16)}
ROWS = {"full": 50_000, "quick": 50_000, "tiny": 200}
MEGABYTE = 10**6


def rows(effort: Effort) -> list[dict]:
    return harness.rows(__name__.split(".")[-1], cases(effort), effort)


def cases(effort: Effort) -> list[Case]:
    n, m, d = shape = SHAPES[effort.name]
    bank_rows = ROWS[effort.name]
    objectives = {
        "InfoNCE": (info_nce, eager_info_nce, False),
        "InfoNCE, bank gradient": (info_nce, eager_info_nce, True),
        "softplus": (softplus, eager_softplus, False),
    }
    return [
        Case(
            f"{name} n={n} m={m} d={d} V={bank_rows}",
            shape,
            partial(build, *objective, bank_rows),
            (6 if objective[2] else 4) * n * m * d,
            targets(with_memory=effort.memory and not objective[2]),
            memory=True,
        )
        for name, objective in objectives.items()
    ]


def targets(with_memory: bool) -> dict[str, Target]:
    memory = {OURS: Target("memory", 5 * MEGABYTE, at_least=False)} if with_memory else {}
    return {"eager": Target("ratio", 40), **memory}


def info_nce(x: Tensor, positive: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    return GatheredScores(x, bank, index, c.SCALE, positive=positive).cross_entropy()


def softplus(x: Tensor, positive: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    scores = GatheredScores(x, bank, index, c.SCALE, c.BIAS, positive=positive)
    return (F.softplus(-scores.positive).sum() + scores.negative_softplus_sum()) / len(x)


def logits(x: Tensor, positive: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    """[n, 1 + m]: the positive, then the negatives."""
    negatives = (bank[index] @ x[:, :, None]).squeeze(2)
    return torch.cat([(x * positive).sum(1, keepdim=True), negatives], dim=1) * c.SCALE


def eager_info_nce(x: Tensor, positive: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    return F.cross_entropy(logits(x, positive, bank, index), torch.zeros(len(x), dtype=torch.int64))


def eager_softplus(x: Tensor, positive: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    s = logits(x, positive, bank, index) + c.BIAS
    return (F.softplus(-s[:, 0]).sum() + F.softplus(s[:, 1:]).sum()) / len(x)


def build(ours, plain, with_bank: bool, bank_rows: int, n: int, m: int, d: int) -> dict:
    x, positive, bank = (c.unit_rows(size, d, seed) for seed, size in enumerate((n, n, bank_rows)))
    index = torch.randint(bank_rows, (n, m), generator=torch.Generator().manual_seed(3))
    inputs = (x, positive, bank) if with_bank else (x, positive)

    def call(loss):
        fixed = () if with_bank else (bank,)
        return c.forward_backward(lambda *leaves: loss(*leaves, *fixed, index), *inputs)

    return {OURS: call(ours), COMPILED: call(c.compiled(plain)), "eager": call(plain)}
