"""Where negatives come from when a batch is not enough: a queue, a memory bank, draws from a softmax of scores.

Queue and MemoryBank keep their rows in buffers: state_dict() saves them, .to() moves them, no gradient reaches them.
They write in place: update them after backward(), which otherwise says that what it needs was modified.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import reference, validation
from .log_domain import log_sum_exp
from .scores import SharedColumnScores, column_blocks

__all__ = ["MemoryBank", "Queue", "resample"]


class Queue(nn.Module):
    """First in, first out: the last `size` keys, as negatives of MoCo.

    Buffers: `queue` [size, dim], random unit vectors at first; `pointer`, int64 0-dim, the row that is written next.
    """

    queue: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int, generator: torch.Generator | None = None):
        super().__init__()
        validation.positive_int("size", size)
        validation.positive_int("dim", dim)
        self.register_buffer("queue", F.normalize(torch.randn(size, dim, generator=generator), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Writes keys [n, dim] as they are at the pointer, which wraps; of more than `size` keys the last stay."""
        size, dim = self.queue.shape
        validation.vectors("keys", keys, dim)
        validation.one_problem("keys", keys, "a queue holds the keys of one sequence of batches")
        n = keys.shape[0]
        kept = min(n, size)
        place = (self.pointer + torch.arange(n - kept, n, device=self.queue.device)) % size
        self.queue[place] = keys[n - kept :].to(self.queue)
        self.pointer.copy_((self.pointer + n) % size)


class MemoryBank(nn.Module):
    """A vector for each of `size` items, a moving average of its embeddings, of unit length; after CRD.

    Buffer: `memory` [size, dim], at first uniform in ±sqrt(3/dim), vectors of about unit length.
    """

    memory: Tensor

    def __init__(self, size: int, dim: int, momentum: float = 0.5, generator: torch.Generator | None = None):
        super().__init__()
        validation.positive_int("size", size)
        validation.positive_int("dim", dim)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: expected a number in [0, 1), got {momentum}")
        self.momentum = momentum
        bound = math.sqrt(3 / dim)
        self.register_buffer("memory", torch.empty(size, dim).uniform_(-bound, bound, generator=generator))

    @torch.no_grad()
    def update(self, index: Tensor, embeddings: Tensor) -> None:
        """memory[index_i] ← normalised(momentum · memory[index_i] + (1 − momentum) · embeddings_i).

        index int64 [n]; embeddings [n, dim]. Of the rows of an item that comes more than once only the last one counts,
        on every device.
        """
        size, dim = self.memory.shape
        validation.vectors("embeddings", embeddings, dim)
        validation.one_problem("embeddings", embeddings, "a memory bank holds one vector for each item")
        validation.candidate_index("index", index, embeddings.shape[0], size, self.memory.device)
        embeddings = embeddings[_last_of_equal(index)]  # rows of one item write the same
        mixed = self.momentum * self.memory[index] + (1 - self.momentum) * embeddings.to(self.memory)
        self.memory[index] = F.normalize(mixed, dim=1)


def _last_of_equal(index: Tensor) -> Tensor:
    """int64 [n]: for each entry the last place of the same value."""
    ordered, order = index.sort(stable=True)
    return order[torch.searchsorted(ordered, index.contiguous(), right=True) - 1]


@torch.no_grad()
def resample(scores: SharedColumnScores, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
    """int64 [n, num_samples]: for each query, negatives drawn with replacement, P(j) = softmax_{j ∈ N_i}(s_ij + v_j).

    The positive is never drawn. By inverse distribution in two steps, so that nothing n×m is held, only blocks of
    columns: the mass of each block decides how a uniform number picks a block; what remains of that number, uniform
    again, picks a candidate by the block's cumulative sums. Each block is scored twice. The same generator state gives
    the same draws. ValueError for a query without negatives and for scores without shared columns.
    """
    validation.positive_int("num_samples", num_samples)
    if not isinstance(scores, SharedColumnScores):
        raise ValueError(f"scores: resampling needs a bank of shared columns, which {type(scores).__name__} has not")
    scores = scores.double()
    n, device = scores.n_queries, scores.exclusions.device
    blocks = list(column_blocks(n, scores.exclusions.m))
    log_mass = [log_sum_exp(_weighted_block(scores, *block), 1) for block in blocks]
    mass = torch.stack(log_mass or [torch.full((n,), -math.inf, device=device)], 1).softmax(1)
    validation.one_problem("scores", mass, "resampling draws from one bank")
    _check_mass(mass)
    uniform_device = device if generator is None else generator.device
    u = torch.rand(n, num_samples, generator=generator, dtype=torch.float64, device=uniform_device).to(device)
    row = torch.arange(n, device=device)[:, None].expand(n, num_samples)
    block_of, rest = _pick(mass, row.reshape(-1), u.reshape(-1))
    drawn = torch.empty_like(block_of)
    for b, (start, stop) in enumerate(blocks):
        (here,) = (block_of == b).nonzero(as_tuple=True)
        if len(here) > 0:
            share = _weighted_block(scores, start, stop).softmax(1).nan_to_num(0.0)  # NaN: no mass here, so not picked
            drawn[here] = start + _pick(share, row.reshape(-1)[here], rest[here])[0]
    return drawn.reshape(n, num_samples)


def _check_mass(mass: Tensor) -> None:
    if validation.readable(mass) and mass.isnan().any():
        row = int(mass.isnan().any(1).nonzero()[0])
        raise ValueError(
            f"scores: query {row} has nothing to draw from: no negatives, all at −inf, or a NaN among them"
        )


def _weighted_block(scores: SharedColumnScores, start: int, stop: int) -> Tensor:
    """float64 [n, stop − start]: s_ij + v_j on negatives, −inf elsewhere."""
    target, x_label, y_label, log_weight = scores.exclusions.tensors
    here = (
        None if target is None else target - start,
        x_label,
        None if y_label is None else y_label[start:stop],
        None if log_weight is None else log_weight[start:stop],
    )
    return reference.weighted_negatives(scores.column_block(start, stop), here)


def _pick(share: Tensor, row: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """(the entry of share[row] in whose part of [0, 1) u falls, where in that part it falls, in [0, 1)).

    All rows are searched in one sorted sequence, row r shifted to [r, r + 1].
    """
    n, width = share.shape
    cumulative = share.cumsum(1)
    cumulative = cumulative / cumulative[:, -1:].clamp_min(torch.finfo(share.dtype).tiny)
    shift = torch.arange(n, device=share.device, dtype=share.dtype)[:, None]
    key = torch.minimum(row + u, torch.nextafter(row + 1.0, row.double()))
    entry = torch.searchsorted((shift + cumulative).reshape(-1), key, right=True) - row * width
    size = share[row, entry]
    below = cumulative[row, entry] - size
    return entry, ((u - below) / size).clamp(0, 1)
