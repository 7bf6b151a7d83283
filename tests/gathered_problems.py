"""Problems for the operators on gathered scores, judged like those on dot scores: see `problems`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from problems import INF, Expected, moved, wide
from torch import Tensor

from mi_ext import ops, reference

# (n, m, d, V), ragged against vectors, groups of 16 rows, blocks of 256 and, with few queries, parts of them.
SHAPES = [
    (1, 1, 1, 1),
    (1, 7, 20, 5),
    (5, 17, 8, 3),
    (17, 33, 64, 50),
    (3, 257, 65, 40),
    (2, 700, 128, 1000),
    (40, 100, 100, 90),
    (2, 31, 257, 7),
]
# Banks of more than 8 MB, by bytes of an element: what lies in a block of 256 KB is read by one query after another.
IN_BLOCKS = {8: (16, 1100, 128, 8400), 4: (4, 2200, 512, 4200), 2: (8, 2200, 512, 8400)}
# Indices that name so much of a bank that all its scores are computed: one query, ragged sizes, blocks of queries.
DENSE = [(1, 2000, 65, 130), (16, 200, 20, 100), (37, 350, 128, 257), (210, 400, 33, 300)]
KINDS = ["bank", "skewed bank", "negatives", "shared negatives"]
ALL = frozenset({"x", "y", "scale", "bias", "positive"})


@dataclass(frozen=True)
class Gathered:
    """`positive` [n] float64: scores from outside."""

    x: Tensor
    y: Tensor
    index: Tensor | None
    scale: float
    bias: float
    positive: Tensor

    @property
    def largest_score(self) -> float:
        s = reference.gathered_scores(self.x.double(), self.y.double(), self.index, self.scale, self.bias)
        s = s[s.isfinite()].abs()
        return s.max().item() if s.numel() else 0.0

    def to(self, dtype: torch.dtype) -> "Gathered":
        return replace(self, x=self.x.to(dtype), y=self.y.to(dtype))

    def moved(self) -> "Gathered":
        return replace(self, **{name: moved(getattr(self, name)) for name in ("x", "y", "index", "positive")})


def gathered(n: int, m: int, d: int, rows: int, kind: str = "bank", dtype=torch.float64, scale: float = 1.3, seed=0):
    g = torch.Generator().manual_seed(1000 * n + 10 * m + d + seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    x, positive, index = normal(n, d) / d**0.25, normal(n), None
    if kind == "negatives":
        y = normal(n, m, d)
    elif kind == "shared negatives":  # the same for each query, without a copy
        y = normal(1, m, d).expand(n, m, d)
    else:
        y, index = normal(rows, d), torch.randint(rows, (n, m), generator=g)
        if kind == "skewed bank":  # most pairs point to one row, and half of the rows to none
            index = torch.where(torch.rand(n, m, generator=g) < 0.6, rows // 3, index // 2)
    return Gathered(x.to(dtype), (y / d**0.25).to(dtype), index, scale, -0.7, positive)


CALLS: dict[str, Callable] = {
    "negative_lse": lambda ops, p, t: ops.gathered_negative_lse(t["x"], t["y"], p.index, t["scale"]),
    "cross-entropy": lambda ops, p, t: _partition(ops.gathered_cross_entropy_sum, p, t, 0.0, 0.0),
    "cross-entropy, weighted": lambda ops, p, t: _partition(ops.gathered_cross_entropy_sum, p, t, -0.4, 0.9),
    "cross-entropy, decoupled": lambda ops, p, t: _partition(ops.gathered_cross_entropy_sum, p, t, -INF, 0.3),
    "log-partition": lambda ops, p, t: _partition(ops.gathered_log_partition, p, t, -0.4, 0.9),
    "log-partition, decoupled": lambda ops, p, t: _partition(ops.gathered_log_partition, p, t, -INF, 0.0),
    "softplus": lambda ops, p, t: ops.gathered_softplus_sum(t["x"], t["y"], p.index, t["scale"], t["bias"]),
    "clipped": lambda ops, p, t: ops.gathered_clipped_log_partition(
        t["x"], t["y"], p.index, t["scale"], t["bias"], 1.5
    ).detach(),
}


def _partition(function, p, t, a, b):
    return function(t["x"], t["y"], p.index, t["scale"], t["positive"], a, b)


def evaluate(implementation, call: str, p: Gathered, wanted=ALL) -> dict[str, Tensor]:
    """{"value"} and "d…": gradients of Σ_i u_i value_i, u random, over the values that are finite."""
    p = p if implementation is reference else p.moved()
    scalars = {k: p.x.new_full((), getattr(p, k), dtype=torch.float64) for k in ("scale", "bias")}
    leaves = {"x": p.x, "y": p.y, **scalars, "positive": p.positive}
    leaves = {k: t.detach().requires_grad_(k in wanted) for k, t in leaves.items()}
    value = CALLS[call](implementation, p, leaves)
    upstream = torch.rand(value.shape, generator=torch.Generator().manual_seed(11), dtype=torch.float64) + 0.5
    total = (upstream.to(value.device) * torch.where(value.isfinite(), value, 0.0)).sum()
    asked = {k: t for k, t in leaves.items() if t.requires_grad}
    total = total + sum(0 * t.flatten()[:0].sum() for t in asked.values())  # depends on all, so each has a gradient
    gradients = torch.autograd.grad(total, list(asked.values())) if asked else ()
    found = {"value": value} | {f"d{k}": g for k, g in zip(asked, gradients, strict=True)}
    return {k: t.detach().cpu() for k, t in found.items()}


def expected_of(call: str, p: Gathered, wanted=ALL) -> Expected:
    truth, dense = (evaluate(reference, call, p.to(t), wanted | {"x"}) for t in (torch.float64, wide(p.x.dtype)))
    return Expected(p, truth, dense, p.largest_score)


def check(call: str, p: Gathered, wanted=ALL, epsilons: float = 0.0) -> None:
    expected_of(call, p, wanted).judge(evaluate(ops, call, p, wanted), epsilons)


@cache
def expected(call: str, shape, kind: str, dtype: torch.dtype) -> Expected:
    """Of `gathered(*shape, kind, dtype)`: the same for every instruction set, so computed once."""
    return expected_of(call, gathered(*shape, kind, dtype))
