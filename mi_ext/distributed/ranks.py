"""This process among others: what they tell each other, and what they send."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from ..ops.autograd import asks_for_gradient

_DTYPES = torch.float64, torch.float32, torch.float16, torch.bfloat16


@dataclass(frozen=True)
class Ranks:
    """This process among those of a process group."""

    group: "dist.ProcessGroup | None"  # a build of torch without torch.distributed has no such class
    rank: int
    size: int

    @staticmethod
    def of(group: "dist.ProcessGroup | None") -> "Ranks":
        if not (dist.is_available() and dist.is_initialized()):
            return Ranks(None, 0, 1)
        group = dist.group.WORLD if group is None else group
        rank = dist.get_rank(group)
        if rank < 0:
            raise ValueError("group: expected a process group with this process in it, got one without")
        return Ranks(group, rank, dist.get_world_size(group))

    def rows(self, name: str, t: Tensor, asking: tuple[Tensor, ...], **given: bool) -> list[int]:
        """Rows of t on every rank. Everything else about it, and who asks for gradients, must be the same on all.

        A rank whose `asking` ask for none has no backward pass to meet the others in.
        """
        if self.size == 1:
            return [len(t)]
        facts = {
            "width": t.shape[1],
            "dtype": _DTYPES.index(t.dtype),
            "requires_grad": asks_for_gradient(t),
            "need of a gradient": asks_for_gradient(*asking),
            **given,
        }
        mine = torch.tensor([len(t), *facts.values()], device=t.device)
        table = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(table, mine, group=self.group)
        rows, *columns = torch.stack(table).T.tolist()
        for (fact, value), values in zip(facts.items(), columns, strict=True):
            if len(set(values)) > 1:
                came = [_DTYPES[v] if fact == "dtype" else type(value)(v) for v in values]
                raise ValueError(f"{name}: expected the same {fact} on every rank, got {came} on ranks 0, 1, …")
        return rows

    def all_gather(self, t: Tensor, rows: list[int]) -> Tensor:
        if self.size == 1:
            return t
        own = _padded(t, max(rows))
        blocks = [torch.empty_like(own) for _ in rows]
        dist.all_gather(blocks, own, group=self.group)
        return torch.cat([block[:n] for block, n in zip(blocks, rows, strict=True)])

    def reduce_scatter(self, t: Tensor, rows: list[int]) -> Tensor:
        """This rank's rows of the sum over ranks of t [N, d]."""
        blocks = [_padded(block, max(rows)) for block in t.split(rows)]
        own = torch.empty_like(blocks[0])
        dist.reduce_scatter(own, blocks, group=self.group)
        return own[: rows[self.rank]]


def _padded(t: Tensor, rows: int) -> Tensor:
    return F.pad(t, (0, 0) * (t.dim() - 1) + (0, rows - len(t))).contiguous()


class Hop:
    """A tensor on its way to the next rank, and one of `rows` rows on its way here from the previous rank."""

    def __init__(self, ranks: Ranks, t: Tensor, rows: int, tag: int):
        self._sent = t.contiguous()  # alive until it has left
        self._received = t.new_empty(rows, *t.shape[1:])
        assert ranks.group is not None  # there is another rank
        after, before = (dist.get_global_rank(ranks.group, (ranks.rank + step) % ranks.size) for step in (1, -1))
        send = dist.P2POp(dist.isend, self._sent, after, ranks.group, tag)
        receive = dist.P2POp(dist.irecv, self._received, before, ranks.group, tag)
        self._work = dist.batch_isend_irecv([send, receive])

    def arrived(self) -> Tensor:
        for work in self._work:
            work.wait()
        return self._received
