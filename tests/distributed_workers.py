"""What each rank of tests/test_distributed.py computes, and the same on one process from the explicit score matrix."""

import math
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from distributed_peers import CASES, compared
from torch import Tensor, nn
from torch.nn import functional as F

from mi_ext import DenseScores, DotScores, bounds
from mi_ext.distributed import RingScores, gather, sum_gradient

ROWS = {2: (5, 3), 3: (4, 5, 2)}
D = 6


class Batch(NamedTuple):
    """A rank's share of the batch, or all of it: embeddings, a weight and a label for each row."""

    x: Tensor
    y: Tensor
    weight: Tensor
    label: Tensor

    def part(self, rank: int, rows: tuple[int, ...]) -> "Batch":
        return Batch(*(t.split(rows)[rank] for t in self))


def batch(n: int) -> Batch:
    g = torch.Generator().manual_seed(n)
    x, y = (torch.randn(n, D, generator=g, dtype=torch.float64) for _ in range(2))
    return Batch(x, y, torch.rand(n, generator=g, dtype=torch.float64) + 0.5, torch.randint(3, (n,), generator=g))


def ring(b: Batch, scale, bias, **options) -> RingScores:
    return RingScores(b.x, b.y, scale, bias, **options)


def dense(b: Batch, scale, bias) -> DenseScores:
    return DenseScores(scale * b.x @ b.y.T + bias)


def dense_but_for_labels(b: Batch, scale, bias) -> DenseScores:
    negative = (b.label[:, None] != b.label) | torch.eye(len(b.x), dtype=torch.bool)
    return DenseScores(torch.where(negative, scale * b.x @ b.y.T + bias, -math.inf))


def beside_gathered(b: Batch, scale, bias) -> DotScores:
    candidates, start = gather(b.y)
    return DotScores(b.x, candidates, scale, bias, start + torch.arange(len(b.x)))


def weighted(b: Batch, scores, *log_weights) -> Tensor:
    return (b.weight * scores.cross_entropy(*log_weights, reduction="none")).sum()


def both_directions(make: Callable) -> Callable:
    return lambda b, *scalars: sum(weighted(b, make(c, *scalars)) for c in (b, b._replace(x=b.y, y=b.x)))


# (a rank's loss of its Batch, scale and bias; the sum of all ranks' losses from the whole Batch)
LOSSES: dict[str, tuple[Callable, Callable]] = {
    "cross-entropy": (lambda b, *at: weighted(b, ring(b, *at)), lambda b, *at: weighted(b, dense(b, *at))),
    "weighted cross-entropy": (
        lambda b, *at: weighted(b, ring(b, *at), -0.4, 0.9),
        lambda b, *at: weighted(b, dense(b, *at), -0.4, 0.9),
    ),
    "decoupled": (
        lambda b, *at: weighted(b, ring(b, *at), -math.inf),
        lambda b, *at: weighted(b, dense(b, *at), -math.inf),
    ),
    "labels": (
        lambda b, *at: weighted(b, ring(b, *at, labels=(b.label, b.label))),
        lambda b, *at: weighted(b, dense_but_for_labels(b, *at)),
    ),
    "log-partition": (
        lambda b, *at: (b.weight * ring(b, *at).log_partition()).sum(),
        lambda b, *at: (b.weight * dense(b, *at).log_partition()).sum(),
    ),
    "softplus": (
        lambda b, *at: ring(b, *at).negative_softplus_sum(),
        lambda b, *at: dense(b, *at).negative_softplus_sum(),
    ),
    "both directions": (both_directions(ring), both_directions(dense)),
    "gathered": (lambda b, *at: weighted(b, beside_gathered(b, *at)), lambda b, *at: weighted(b, dense(b, *at))),
    "queries are candidates": (
        lambda b, *at: weighted(b, RingScores(b.x, b.x, *at)),
        lambda b, *at: weighted(b, DenseScores(at[0] * b.x @ b.x.T + at[1])),
    ),
}


def value_and_gradients(loss: Callable, b: Batch, wanted: str = "xy") -> dict[str, Tensor]:
    leaves = {"x": b.x, "y": b.y, "scale": torch.tensor(0.7).double(), "bias": torch.tensor(-0.3).double()}
    leaves = {k: t.clone().requires_grad_(k in wanted or len(k) > 1) for k, t in leaves.items()}
    value = loss(b._replace(x=leaves["x"], y=leaves["y"]), leaves["scale"], leaves["bias"])
    asked = {k: t for k, t in leaves.items() if t.requires_grad}
    gradients = torch.autograd.grad(value, list(asked.values()), materialize_grads=True)
    return {"value": value.detach(), **dict(zip(asked, gradients, strict=True))}


class Encoder(nn.Module):
    """Two towers and a temperature, as DistributedDataParallel trains them."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(5)
        self.towers = nn.ParameterList(torch.randn(D, 4, generator=g, dtype=torch.float64) for _ in range(2))
        self.log_scale = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))

    def forward(self, b: Batch):
        x, y = (F.normalize(t @ w, dim=1) for t, w in zip((b.x, b.y), self.towers, strict=True))
        return x, y, self.log_scale.exp()

    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters()]


def trained_by_ddp(b: Batch, ranks: int, n_all: int, scores: Callable) -> list[Tensor]:
    encoder = nn.parallel.DistributedDataParallel(Encoder())
    x, y, scale = encoder(b)
    loss = scores(b._replace(x=x, y=y), scale, None).cross_entropy() * len(b.x) * ranks / n_all
    loss.backward()
    return encoder.module.gradients()


def whole_loss_by_ddp(b: Batch) -> list[Tensor]:
    """Every rank computes the loss of the whole batch."""
    encoder = nn.parallel.DistributedDataParallel(Encoder())
    x, y, scale = encoder(b)
    DotScores(gather(x)[0], gather(y)[0], scale).cross_entropy().backward()
    return encoder.module.gradients()


def messages(b: Batch, rank: int) -> dict[str, str]:
    """Of errors that every rank raises where ranks disagree."""
    first = rank == 0
    calls = {
        "width": lambda: gather(b.x[:, : 4 if first else 6]),
        "dtype": lambda: gather(b.x.float() if first else b.x),
        "requires_grad": lambda: gather(b.x.clone().requires_grad_(first)),
        "need of a gradient": lambda: RingScores(b.x.clone().requires_grad_(first), b.y),
        "use of labels": lambda: RingScores(b.x, b.y, labels=(b.label, b.label) if first else None),
        "columns": lambda: RingScores(b.x, b.y).column_negative_lse,
        "second derivative": lambda: second_derivative(b),
    }
    found = {}
    for name, call in calls.items():
        try:
            call()
        except (ValueError, RuntimeError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def second_derivative(b: Batch) -> None:
    x = b.x.clone().requires_grad_()
    (dx,) = torch.autograd.grad(RingScores(x, b.y).cross_entropy(), x, create_graph=True)
    dx.square().sum().backward()


def saved_bytes(b: Batch) -> tuple[int, int]:
    """(bytes that a rank keeps for its backward pass, bytes of its own x and y)."""
    x, y = (t.clone().requires_grad_() for t in (b.x, b.y))
    saved = {}

    def pack(t):
        saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        RingScores(x, y, 0.5)._statistics()
    return sum(saved.values()), x.nbytes + y.nbytes


def results(rank: int, ranks: int) -> dict:
    rows = ROWS[ranks]
    whole = batch(sum(rows))
    b = whole.part(rank, rows)
    found = {name: value_and_gradients(loss, b) for name, (loss, _) in LOSSES.items()}
    found["queries alone"] = value_and_gradients(LOSSES["cross-entropy"][0], b, wanted="x")
    found["softplus, candidates alone"] = value_and_gradients(LOSSES["softplus"][0], b, wanted="y")
    alone = b if rank == 0 else Batch(*(t[:0] for t in b))
    for name in ("cross-entropy", "softplus", "gathered"):
        found[f"rows on one rank, {name}"] = value_and_gradients(LOSSES[name][0], alone)
        found[f"bfloat16, {name}"] = value_and_gradients(
            LOSSES[name][0], b._replace(x=b.x.bfloat16(), y=b.y.bfloat16())
        )
    scores = RingScores(b.x, b.y, 0.7, -0.3)
    found["statistics"] = {
        "clipped": scores.clipped_log_partition(0.5),
        "infonce": bounds.infonce(scores),
        "n_candidates": scores.n_candidates,
        "n_negatives": RingScores(b.x, b.y, labels=(b.label, b.label)).n_negatives,
        "rows": gather(b.x),
    }
    found["float32"] = RingScores(b.x.float(), b.y.float(), 0.7).cross_entropy()
    for name, scores_of in (("ring", ring), ("gathered", beside_gathered)):
        found[f"DDP, {name}"] = trained_by_ddp(b, ranks, sum(rows), scores_of)
    found["DDP, whole loss"] = whole_loss_by_ddp(b)
    found["messages"] = messages(b, rank)
    found["saved bytes"] = saved_bytes(Batch(*(t.repeat(40, *[1] * (t.dim() - 1)) for t in b)))
    group = dist.new_group([0, ranks - 1])
    if rank in (0, ranks - 1):
        found["group"] = RingScores(b.x, b.y, 0.7, group=group).cross_entropy(reduction="sum")
    t = torch.ones((), requires_grad=True)
    (found["summed gradient"],) = torch.autograd.grad(sum_gradient(t) * (rank + 1), t)
    found["peers"] = {name: compared(case, rank, ranks) for name, case in CASES.items()}
    return found


def worker(rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    place = {"init_method": f"file://{folder}/store", "rank": rank, "world_size": ranks}
    dist.init_process_group("gloo", timeout=timedelta(seconds=60), **place)
    try:
        torch.save(results(rank, ranks), Path(folder) / f"{rank}.pt")
    except Exception:
        traceback.print_exc()
        raise
    finally:
        dist.destroy_process_group()
