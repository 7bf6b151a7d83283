"""Problems for the operators of `mi_ext.ops`, and the judge that compares their results with the truth.

The truth is `mi_ext.reference` in float64 on the very numbers that the operator gets. Every result r and every gradient
passes if, in the Euclidean norm over the whole tensor,

    ‖r − truth‖ ≤ 2 ‖dense − truth‖ + tolerance · ‖truth‖

where *dense* is the reference in the inputs' own dtype, but float32 for 16-bit inputs: no score is ever rounded to 16
bits. tolerance = k ε (1 + max |s_ij|): ε is the machine epsilon of the dtype that is computed in, and a score off by
its last digit changes its exponential by ε |s|, even where dense torch happens to be exact. k = 1, but 16 in float64,
where the truth is dense torch itself and rounds as much as what it judges. Gradients of 16-bit inputs come back
rounded, and products of 16-bit matrices may round the weights in their sums: their tolerance has the ε of 16 bits
added. dscale is Σ_i <x_i, dx_i> / scale, a sum in which terms may cancel: its size is that of ‖x‖ ‖dx‖ / scale.
"""

import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from mi_ext import _C, ops, reference

INF = math.inf
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
# With AMX, large float32 products are made of bfloat16 parts; of "by parts", small ones too.
PARTS = ", by parts"
ISAS = [*_C.available_isas(), *(isa + PARTS for isa in _C.available_isas() if isa.endswith("+amx"))]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

# (n, m, d), ragged against every block of the engine: vectors, tiles of 6, blocks of 96, chunks of 64.
SHAPES = [
    (1, 1, 1),
    (1, 7, 20),
    (7, 1, 64),
    (5, 13, 1),
    (17, 17, 20),
    (33, 97, 64),
    (96, 96, 65),
    (100, 193, 100),
    (193, 31, 128),
    (130, 70, 257),
]
SMALL_SHAPES = [(1, 1, 1), (5, 13, 1), (33, 97, 64), (100, 61, 65)]

EXCLUSIONS = ["plain", "targets", "labels", "wide labels", "log-weights", "everything", "everything, external"]
LAYOUTS = ["contiguous", "rows apart", "strided", "transposed", "expanded rows", "expanded columns", "offset"]


_device = "cpu"


@contextmanager
def on(device: str):
    """The operators, not the reference, get their problems on this device; fixtures `device` and `isa`."""
    global _device
    before, _device = _device, device
    yield device
    _device = before


def moved(t: Tensor | None) -> Tensor | None:
    """On the device in use, in the same layout of memory: strides, gaps and offset."""
    if t is None or _device == "cpu":
        return t
    storage = t.detach().as_strided((t.untyped_storage().nbytes() // t.element_size(),), (1,), 0)
    return storage.to(_device).as_strided(t.shape, t.stride(), t.storage_offset())


@dataclass(frozen=True)
class Problem:
    """Arguments of the operators; `external` [n] float64 stands for the positives where there is no target."""

    x: Tensor
    y: Tensor
    scale: float
    bias: float
    exclusions: reference.Exclusion
    external: Tensor | None

    @property
    def largest_score(self) -> float:
        s = self.scale * (self.x.double() @ self.y.double().T) + self.bias
        s = s[s.isfinite()].abs()
        return s.max().item() if s.numel() else 0.0

    def to(self, dtype: torch.dtype) -> "Problem":
        return replace(self, x=self.x.to(dtype), y=self.y.to(dtype))

    def moved(self) -> "Problem":
        exclusions = tuple(map(moved, self.exclusions))
        return replace(self, x=moved(self.x), y=moved(self.y), exclusions=exclusions, external=moved(self.external))


def problem(n: int, m: int, d: int, kind: str = "targets", dtype=torch.float64, scale: float = 1.3, seed=0) -> Problem:
    g = torch.Generator().manual_seed(1000 * n + 10 * m + d + seed)
    x, y = (torch.randn(rows, d, generator=g, dtype=torch.float64) / d**0.25 for rows in (n, m))
    return Problem(x.to(dtype), y.to(dtype), scale, -0.7, *_exclusions(kind, n, m, g))


def _exclusions(kind: str, n: int, m: int, g: torch.Generator):
    """(exclusions, external positive)."""
    target = torch.randint(m, (n,), generator=g) if kind in ("targets", "labels", "log-weights", "everything") else None
    labels = (None, None)
    if kind in ("labels", "everything", "everything, external"):
        labels = torch.randint(3, (n,), generator=g), torch.randint(4, (m,), generator=g)
    elif kind == "wide labels":  # equal in their low 32 bits, so that only all 64 tell them apart
        labels = tuple((torch.randint(-2, 3, (k,), generator=g) << 32) + 7 for k in (n, m))
    log_weight = None
    if kind.startswith(("log-weights", "everything")):
        log_weight = torch.randn(m, generator=g, dtype=torch.float64)
        log_weight[torch.rand(m, generator=g) < 0.2] = -INF
    external = torch.randn(n, generator=g, dtype=torch.float64) if target is None else None
    return (target, *labels, log_weight), external


def excluded_log_weights(n: int, m: int, value: float) -> reference.Exclusion:
    """Two candidates of that log-weight are nobody's negatives: everyone's positive, and one whose label all share."""
    v = torch.zeros(m, dtype=torch.float64)
    v[3] = v[m - 2] = value
    labels = torch.zeros(n, dtype=torch.int64), (torch.arange(m) != 3).long()
    return torch.full((n,), m - 2), *labels, v


def from_scores(s: Tensor, dtype=torch.float64, scale: float = 1.0, target: Tensor | None = None) -> Problem:
    """The problem whose scores are scale · s, by unit vectors as candidates; without a target, arange(n) mod m."""
    n, m = s.shape
    target = torch.arange(n) % m if target is None else target
    return Problem(s.to(dtype), torch.eye(m, dtype=dtype), scale, 0.0, (target, None, None, None), None)


def laid_out(t: Tensor, layout: str) -> Tensor:
    """The values of t (the first row, or column, repeated for expanded ones) in another layout of memory."""
    n, d = t.shape
    if layout == "rows apart":
        return torch.cat([t, t.new_full((n, 3), math.nan)], 1)[:, :d]
    if layout == "strided":
        return torch.stack([t, torch.full_like(t, math.nan)], 2).reshape(n, 2 * d)[:, ::2]
    if layout == "transposed":
        return t.T.contiguous().T
    if layout == "expanded rows":
        return t[:1].expand(n, d)
    if layout == "expanded columns":
        return t[:, :1].expand(n, d)
    if layout == "offset":
        return torch.cat([t.new_full((1, d), math.nan), t])[1:]
    return t


def _positive_of(p: Problem, leaves):
    return leaves.get("external") if p.exclusions[0] is None else None


def _statistics(ops, p, leaf, columns):
    results = ops.dot_statistics(leaf["x"], leaf["y"], leaf["scale"], (*p.exclusions[:3], leaf["v"]), columns)
    return dict(zip(("positive", "negative_lse", "column_negative_lse"), results, strict=True))


def _cross_entropy(ops, p, leaf, a, b):
    exclusions = (*p.exclusions[:3], leaf["v"])
    sides = leaf["x"], leaf["y"], leaf["scale"], exclusions, _positive_of(p, leaf)
    return {"loss": ops.dot_cross_entropy_sum(*sides, a, b)}


def _log_partition(ops, p, leaf, a, b):
    exclusions = (*p.exclusions[:3], leaf["v"])
    sides = leaf["x"], leaf["y"], leaf["scale"], exclusions, _positive_of(p, leaf)
    return dict(zip(("partition", "positive"), ops.dot_log_partition(*sides, a, b), strict=True))


def _softplus(ops, p, leaf):
    results = ops.dot_softplus_sum(leaf["x"], leaf["y"], leaf["scale"], leaf["bias"], p.exclusions)
    return dict(zip(("sum", "positive"), results, strict=True))


def _clipped(ops, p, leaf):
    value = ops.dot_clipped_log_partition(leaf["x"], leaf["y"], leaf["scale"], leaf["bias"], p.exclusions, 1.5)
    return {"clipped": value.detach()}


def _two_query_sets(leaf):
    """x1, x2, y, scale1, scale2: the second set is exact in every dtype, so that one leaf stands for both."""
    return leaf["x"], -0.5 * leaf["x"].flip(0), leaf["y"], leaf["scale"], 0.6 * leaf["scale"]


def _importance(ops, p, leaf):
    results = ops.importance_statistics(*_two_query_sets(leaf), p.exclusions)
    return dict(zip(("positive1", "positive2", "lse1", "lse2", "joint_lse"), results, strict=True))


def _importance_objective(ops, p, leaf, weights):
    external = _positive_of(p, leaf)
    external = None if external is None else (external, 0.3 * external)
    log_mass = torch.linspace(1, 3, len(p.x), dtype=torch.float64, device=leaf["x"].device)
    sides = *_two_query_sets(leaf), p.exclusions, external, log_mass
    return {"loss": ops.importance_cross_entropy_sum(*sides, weights, detach_weights=False)[0]}


CALLS: dict[str, Callable] = {
    "statistics": lambda *at: _statistics(*at, False),
    "statistics with columns": lambda *at: _statistics(*at, True),
    "cross-entropy": lambda *at: _cross_entropy(*at, 0.0, 0.0),
    "cross-entropy, weighted": lambda *at: _cross_entropy(*at, -0.4, 0.9),
    "cross-entropy, decoupled": lambda *at: _cross_entropy(*at, -INF, 0.3),
    "log-partition": lambda *at: _log_partition(*at, -0.4, 0.9),
    "log-partition, decoupled": lambda *at: _log_partition(*at, -INF, 0.0),
    "softplus": _softplus,
    "clipped": _clipped,
    "importance": lambda *at: _importance(*at),
    "importance objective": lambda *at: _importance_objective(*at, (0.4, 0.7, 1.2)),
}
LOG_WEIGHT_GRADIENT = [name for name in CALLS if not name.startswith(("softplus", "clipped", "importance"))]
ALL = frozenset({"x", "y", "scale", "bias", "external"})


def evaluate(implementation, call: str, p: Problem, wanted=ALL) -> dict[str, Tensor]:
    """Results of one call, and "d…": the gradients of Σ_k <u_k, result_k>, u random, over the results that are finite.

    `wanted`: the inputs that ask for a gradient; "v", the log-weights, is not among the usual ones.
    """
    p = p if implementation is reference else p.moved()
    scalars = {k: p.x.new_full((), getattr(p, k), dtype=torch.float64) for k in ("scale", "bias")}
    leaves = {"x": p.x, "y": p.y, **scalars, "external": p.external, "v": p.exclusions[3]}
    leaves = {k: t if t is None else t.detach().requires_grad_(k in wanted) for k, t in leaves.items()}
    results = {k: t for k, t in CALLS[call](implementation, p, leaves).items() if t is not None}
    g = torch.Generator().manual_seed(11)
    total = p.x.new_zeros((), dtype=torch.float64)
    for result in results.values():
        upstream = (torch.rand(result.shape, generator=g, dtype=torch.float64) + 0.5).to(p.x.device)
        total = total + (upstream * torch.where(result.isfinite(), result, 0.0)).sum()
    asked = {k: t for k, t in leaves.items() if t is not None and t.requires_grad}
    total = total + sum(0 * t.flatten()[:0].sum() for t in asked.values())  # depends on all, so each has a gradient
    gradients = torch.autograd.grad(total, list(asked.values())) if asked else ()
    found = results | {f"d{k}": g for k, g in zip(asked, gradients, strict=True)}
    return {k: t.detach().cpu() for k, t in found.items()}


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which the operators compute."""
    return torch.promote_types(dtype, torch.float32)


@dataclass(frozen=True)
class Expected:
    """What a call on `problem` should give, and what dense torch gives."""

    problem: Problem
    truth: dict[str, Tensor]
    dense: dict[str, Tensor]
    largest_score: float

    @staticmethod
    def of(call: str, p: Problem, wanted=ALL) -> "Expected":
        truth, dense = (evaluate(reference, call, p.to(t), wanted | {"x"}) for t in (torch.float64, wide(p.x.dtype)))
        return Expected(p, truth, dense, p.largest_score)

    def judge(self, ours: dict[str, Tensor], epsilons: float = 0.0) -> None:
        """Raises AssertionError with every result that breaks the rule at the top of this file.

        `epsilons` is added to k (1 + max |s_ij|).
        """
        dtype = self.problem.x.dtype
        broken = []
        for name, result in ours.items():
            expected, dense = self.truth[name], self.dense[name]
            special = ~expected.isfinite()
            same = torch.equal(result[special].double().nan_to_num(0.5), expected[special].nan_to_num(0.5))
            error, bar, size = (t[~special].norm().item() for t in (result - expected, dense - expected, expected))
            if name == "dscale" and "dx" in self.truth:
                p = self.problem
                size = max(size, (p.x.double().norm() * self.truth["dx"].norm() / abs(p.scale)).item())
            if not (same and error <= 2 * bar + self._tolerance(name, epsilons) * size):
                broken.append(f"{name}: error {error:.3g}, dense {bar:.3g}, truth {size:.3g}")
            if name in ("dx", "dy") and result.dtype != dtype:
                broken.append(f"{name}: dtype {result.dtype}")
        assert not broken, "; ".join(broken)

    def _tolerance(self, name: str, epsilons: float) -> float:
        dtype = self.problem.x.dtype
        k = 16 if dtype == torch.float64 else 1
        is_short = wide(dtype) != dtype and name in ("dx", "dy", "dscale")
        rounding = torch.finfo(wide(dtype)).eps * (k * (1 + self.largest_score) + epsilons)
        return rounding + (torch.finfo(dtype).eps if is_short else 0.0)


def check(call: str, p: Problem, wanted=ALL, epsilons: float = 0.0) -> None:
    Expected.of(call, p, wanted).judge(evaluate(ops, call, p, wanted), epsilons)


@cache
def expected(call: str, shape, kind: str, dtype: torch.dtype, wanted=ALL) -> Expected:
    """Of `problem(*shape, kind, dtype)`: the same for every instruction set, so computed once."""
    return Expected.of(call, problem(*shape, kind, dtype), wanted)
