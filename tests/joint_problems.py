"""Problems for the joint operators, and the judge: the rule of problems.py, on `mi_ext.reference` in float64.

Signs of hidden units decide gradients, so a unit of the second layer that rounding moves over 0 would change them by
more than rounding: a, b, W1 and b1 are multiples of 1/8 and small, every hidden unit is exact in each dtype, and many
are exactly 0, where the gradient is 0. w is not, so scores round.
"""

import math
from dataclasses import dataclass, replace
from functools import cache

import torch
from problems import moved, wide
from torch import Tensor

from mi_ext import ops, reference

INF = math.inf
NAMES = ("a", "b", "inner_weight", "inner_bias", "last_weight")

# (n, m, h), ragged against vectors, tiles of 4, 6 and 48 queries, of 96 and 128 candidates, runs of 128 units.
SHAPES = [(1, 1, 1), (1, 7, 20), (7, 1, 64), (5, 13, 17), (33, 97, 64), (50, 130, 31), (5, 259, 33), (7, 30, 257)]
SMALL_SHAPES = [(1, 1, 1), (5, 13, 17), (50, 40, 33)]
EXCLUSIONS = ["targets", "labels", "log-weights", "everything"]


@dataclass(frozen=True)
class Problem:
    a: Tensor
    b: Tensor
    inner_weight: Tensor | None
    inner_bias: Tensor | None
    last_weight: Tensor
    bias: Tensor  # float64, 0-dim
    exclusions: reference.Exclusion

    @property
    def tensors(self) -> dict[str, Tensor | None]:
        return {name: getattr(self, name) for name in NAMES}

    @property
    def largest_score(self) -> float:
        tensors = [None if t is None else t.double() for t in self.tensors.values()]
        s = reference.joint_matrix(*tensors[:2], tensors[2:])
        s = s[s.isfinite()].abs()
        return s.max().item() if s.numel() else 0.0

    def to(self, dtype: torch.dtype) -> "Problem":
        return replace(self, **{name: None if t is None else t.to(dtype) for name, t in self.tensors.items()})

    def moved(self) -> "Problem":
        """On the device in use, see `problems.on`."""
        exclusions = tuple(map(moved, self.exclusions))
        tensors = {name: moved(t) for name, t in self.tensors.items()}
        return replace(self, **tensors, bias=moved(self.bias), exclusions=exclusions)


def problem(n: int, m: int, h: int, layers: int, kind: str = "targets", dtype=torch.float64, scale=1.0) -> Problem:
    g = torch.Generator().manual_seed(1000 * n + 10 * m + h)

    def eighths(*shape):
        return torch.randint(-12, 13, shape, generator=g) / torch.tensor(8.0, dtype=torch.float64)

    h1 = h + 3
    inner = (eighths(h1, h), eighths(h1)) if layers == 2 else (None, None)
    last = torch.randn(h1 if layers == 2 else h, generator=g, dtype=torch.float64)
    last = scale * last / (h * (h if layers == 2 else 1)) ** 0.5
    bias = torch.tensor(-0.7, dtype=torch.float64)
    return Problem(eighths(n, h), eighths(m, h), *inner, last, bias, _exclusions(kind, n, m, g)).to(dtype)


def _exclusions(kind: str, n: int, m: int, g: torch.Generator) -> reference.Exclusion:
    labels, v = (None, None), None
    if kind in ("labels", "everything"):
        labels = torch.randint(3, (n,), generator=g) + (1 << 40), torch.randint(4, (m,), generator=g) + (1 << 40)
    if kind in ("log-weights", "everything"):
        v = torch.randn(m, generator=g, dtype=torch.float64)
        v[torch.rand(m, generator=g) < 0.2] = -INF
    return torch.randint(m, (n,), generator=g), *labels, v


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def from_scores(s, dtype):
    """One layer with the scores s_ij = relu(s_ij + C) − C: large negative entries of b turn all other units off."""
    n, m = s.shape
    high = s.abs().max() + 1
    a = torch.cat([s + high, torch.full((n, 1), high.item(), dtype=s.dtype)], 1)
    b = torch.cat([torch.where(torch.eye(m, dtype=torch.bool), 0.0, -4 * high), torch.zeros(m, 1, dtype=s.dtype)], 1)
    last = torch.ones(m + 1, dtype=s.dtype)
    last[-1] = -1
    p = problem(n, m, m + 1, 1)
    target = torch.arange(n) % m
    return replace(p, a=a, b=b, last_weight=last, exclusions=(target, None, None, None)).to(dtype)


def _network(leaf):
    return leaf["inner_weight"], leaf["inner_bias"], leaf["last_weight"]


def _statistics(ops, p, leaf, columns):
    results = ops.joint_statistics(leaf["a"], leaf["b"], _network(leaf), p.exclusions, columns)
    return dict(zip(("positive", "negative_lse", "column_negative_lse"), results, strict=True))


def _cross_entropy(ops, p, leaf, a, b):
    return {"loss": ops.joint_cross_entropy_sum(leaf["a"], leaf["b"], _network(leaf), p.exclusions, a, b)}


def _log_partition(ops, p, leaf, a, b):
    return {"partition": ops.joint_log_partition(leaf["a"], leaf["b"], _network(leaf), p.exclusions, a, b)}


def _softplus(ops, p, leaf):
    return {"sum": ops.joint_softplus_sum(leaf["a"], leaf["b"], _network(leaf), leaf["bias"], p.exclusions)}


def _clipped(ops, p, leaf):
    arguments = leaf["a"], leaf["b"], _network(leaf), leaf["bias"], p.exclusions, 1.5
    return {"clipped": ops.joint_clipped_log_partition(*arguments).detach()}


def _matrix(ops, p, leaf):
    return {"matrix": ops.joint_matrix(leaf["a"], leaf["b"], _network(leaf))}


CALLS = {
    "statistics": lambda *at: _statistics(*at, False),
    "statistics with columns": lambda *at: _statistics(*at, True),
    "cross-entropy": lambda *at: _cross_entropy(*at, 0.0, 0.0),
    "cross-entropy, weighted": lambda *at: _cross_entropy(*at, -0.4, 0.9),
    "cross-entropy, decoupled": lambda *at: _cross_entropy(*at, -INF, 0.3),
    "log-partition": lambda *at: _log_partition(*at, -0.4, 0.9),
    "log-partition, decoupled": lambda *at: _log_partition(*at, -INF, 0.0),
    "softplus": _softplus,
    "clipped": _clipped,
    "matrix": _matrix,
}


def evaluate(implementation, call: str, p: Problem, gradients: bool = True) -> dict[str, Tensor]:
    """Results of one call, and "d…": the gradients of Σ_k <u_k, result_k>, u random, over the finite results."""
    p = p if implementation is reference else p.moved()
    leaves = p.tensors | {"bias": p.bias}
    leaves = {k: None if t is None else t.detach().requires_grad_(gradients) for k, t in leaves.items()}
    results = {k: t for k, t in CALLS[call](implementation, p, leaves).items() if t is not None}
    found = {k: t.detach().cpu() for k, t in results.items()}
    if not gradients:
        return found
    g = torch.Generator().manual_seed(11)
    asked = {k: t for k, t in leaves.items() if t is not None}
    total = sum(0 * t.double().flatten()[:0].sum() for t in asked.values())  # depends on all, so each has a gradient
    for result in results.values():
        upstream = (torch.rand(result.shape, generator=g, dtype=torch.float64) + 0.5).to(result.device)
        total = total + (upstream * torch.where(result.isfinite(), result.double(), 0.0)).sum()
    derivatives = torch.autograd.grad(total, list(asked.values()))
    return found | {f"d{k}": t.cpu() for k, t in zip(asked, derivatives, strict=True)}


@dataclass(frozen=True)
class Expected:
    """What a call on `problem` should give, and what dense torch gives."""

    problem: Problem
    truth: dict[str, Tensor]
    dense: dict[str, Tensor]
    largest_score: float

    @staticmethod
    def of(call: str, p: Problem) -> "Expected":
        return Expected(
            p, *(evaluate(reference, call, p.to(t)) for t in (torch.float64, wide(p.a.dtype))), p.largest_score
        )

    def judge(self, ours: dict[str, Tensor], epsilons: float = 0.0) -> None:
        dtype, broken = self.problem.a.dtype, []
        k = 16 if dtype == torch.float64 else 1
        for name, result in ours.items():
            expected, dense = self.truth[name], self.dense[name]
            special = ~expected.isfinite()
            same = torch.equal(result[special].double().nan_to_num(0.5), expected[special].nan_to_num(0.5))
            error, bar, size = (t[~special].norm().item() for t in (result - expected, dense - expected, expected))
            size = max(size, self._size_of_terms(name))
            tolerance = torch.finfo(wide(dtype)).eps * (k * (1 + self.largest_score) + epsilons)
            if name[1:] in NAMES:
                tolerance += torch.finfo(dtype).eps if wide(dtype) != dtype else 0.0
                if result.dtype != dtype:
                    broken.append(f"{name}: dtype {result.dtype}")
            if not (same and error <= 2 * bar + tolerance * size):
                broken.append(f"{name}: error {error:.3g}, dense {bar:.3g}, truth {size:.3g}")
        assert not broken, "; ".join(broken)

    def _size_of_terms(self, name: str) -> float:
        """Of sums whose terms may cancel: dw = Σ_i a_i da_i / w + …, and db1 = Σ G w 1[Z > 0] with Σ |G| = O(n)."""
        p, size = self.problem, {k: t.norm().item() for k, t in self.truth.items()}
        if name == "dinner_bias":
            return max(size["dinner_weight"], len(p.a) * p.last_weight.double().abs().max().item())
        if name == "dlast_weight":
            return p.a.double().norm().item() * size["da"] / max(p.last_weight.double().norm().item(), 1e-30)
        return 0.0


def check(call: str, p: Problem, epsilons: float = 0.0) -> None:
    Expected.of(call, p).judge(evaluate(ops, call, p), epsilons)


@cache
def expected(call: str, shape, layers: int, kind: str, dtype: torch.dtype) -> Expected:
    """The same for every instruction set, so computed once."""
    return Expected.of(call, problem(*shape, layers, kind, dtype))
