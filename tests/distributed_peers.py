"""Losses over several ranks, peers' own and those of `mi_ext.dropin`, for the ranks of tests/test_distributed.py."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from mi_ext.dropin import inf_cl, lightly, open_clip

sys.path.append(str(Path(__file__).parent / "dropin"))
from peers import by_name, load  # noqa: E402
from side_by_side import evaluate  # noqa: E402

ROWS, D = 4, 6  # on each rank: peers need batches of one size
LIGHTLY = "lightly", "lightly.loss", "lightly.models", "lightly.models.modules", "lightly.models.utils"


class Case(NamedTuple):
    """`loss(module)` of the peer's module, or of ours, is a function of (x, y, scale, bias)."""

    peer: str
    bare: tuple[str, ...]
    ours: object
    loss: Callable
    dtype: torch.dtype = torch.float64


def of_open_clip(name: str, **options) -> Case:
    def loss(module) -> Callable:
        return getattr(module, name)(rank=dist.get_rank(), world_size=dist.get_world_size(), **options)

    return Case("open_clip.loss", ("open_clip",), open_clip, loss)


def of_lightly(module_name: str, name: str, *options) -> Case:
    def loss(module) -> Callable:
        instance = getattr(module, name)(0.3, *options, gather_distributed=True)
        return lambda x, y, scale, bias: instance(x, y)

    return Case(f"lightly.loss.{module_name}", LIGHTLY, lightly, loss)


def with_a_bank(module) -> Callable:
    """The losses of two steps: the second has the rows of all ranks' first among its negatives."""
    if module is not lightly:  # what the bank needs of the module that `load` left empty
        module.MemoryBankModule.__init__.__globals__["utils"].concat_all_gather = all_rows
    torch.manual_seed(3)
    instance = module.NTXentLoss(0.3, (4 * ROWS, D), gather_distributed=True).double()
    return lambda x, y, scale, bias: instance(x, y) + instance(y, x)


def all_rows(t: Tensor) -> Tensor:
    blocks = [torch.empty_like(t) for _ in range(dist.get_world_size())]
    dist.all_gather(blocks, t)
    return torch.cat(blocks)


def of_inf_cl(name: str) -> Case:
    """The peer's own ring in either case: its kernels run on GPUs alone, and their results are the same."""

    def loss(module) -> Callable:
        function = getattr(module, name if module is inf_cl else "cal_ring_loss")
        return lambda x, y, scale, bias: function(x, y, scale=scale, head_dim=D)

    return Case("inf_cl", (), inf_cl, loss, torch.float32)


CASES = {
    "ClipLoss": of_open_clip("ClipLoss"),
    "ClipLoss, local loss": of_open_clip("ClipLoss", local_loss=True),
    "ClipLoss, gather with grad": of_open_clip("ClipLoss", gather_with_grad=True),
    "ClipLoss, both": of_open_clip("ClipLoss", local_loss=True, gather_with_grad=True),
    **{
        f"SigLipLoss, {how}": of_open_clip("SigLipLoss", dist_impl=how)
        for how in ("bidir", "shift", "reduce", "gather")
    },
    "NTXentLoss": of_lightly("ntx_ent_loss", "NTXentLoss", 0),
    "NTXentLoss with a bank": Case("lightly.loss.ntx_ent_loss", LIGHTLY, lightly, with_a_bank),
    "DCLLoss": of_lightly("dcl_loss", "DCLLoss", None),
    "DCLWLoss": of_lightly("dcl_loss", "DCLWLoss", 0.5),
    "cal_inf_loss": of_inf_cl("cal_inf_loss"),
    "cal_ring_loss": of_inf_cl("cal_ring_loss"),
}


def compared(case: Case, rank: int, ranks: int):
    """[[value, *gradients] of ours, of the peer's] on this rank; None where the peer is not installed."""
    if importlib.util.find_spec(case.peer.partition(".")[0]) is None:
        return None
    g = torch.Generator().manual_seed(1)
    x, y = (F.normalize(torch.randn(ROWS * ranks, D, generator=g, dtype=case.dtype), dim=1) for _ in range(2))
    inputs = [t.split(ROWS)[rank] for t in (x, y)] + [torch.tensor(v, dtype=case.dtype) for v in (5.0, -1.0)]
    named, wanted = by_name(inputs)
    losses = [case.loss(module) for module in (case.ours, load(case.peer, *case.bare))]
    return [evaluate(lambda f=f, **values: f(*values.values()), named, wanted) for f in losses]
