"""Stands in for lightly 1.6.0: `from mi_ext.dropin.lightly import NTXentLoss, DCLLoss, DCLWLoss`.

All minimise, in nats, and make embeddings unit length. out0, out1 [n, d] are two views of the same n items. With
gather_distributed the negatives are those of all ranks of torch.distributed, whose batches may differ in size: the
gradient's scale is that of `mi_ext.distributed`, as lightly's. Results have the dtype of the inputs.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional as F

from .. import distributed
from ..losses.base import same_shape, unit_vectors
from ..scores import DotScores
from ._base import in_peer_dtype, inverse

__all__ = ["DCLLoss", "DCLWLoss", "MemoryBankModule", "NTXentLoss", "negative_mises_fisher_weights"]


class MemoryBankModule(nn.Module):
    """The last `size[0]` rows it was given, unit vectors at random at first; size = 0: no bank.

    Buffers, not saved by state_dict(): `bank` [num_features, dim], float32; `bank_ptr` [1], the row written next. A
    batch that reaches the end is cut there and the pointer goes to 0. forward(output, labels=None, update=False) gives
    (output, bank before the update, or None), the bank as [dim, num_features] if feature_dim_first. gather_distributed
    writes the rows of all ranks. ValueError for a size that is neither 0 nor (num_features, dim).
    """

    bank: Tensor
    bank_ptr: Tensor

    def __init__(self, size: int | Sequence[int], gather_distributed: bool = False, feature_dim_first: bool = True):
        super().__init__()
        shape = (size,) if isinstance(size, int) else tuple(size)
        if min(shape, default=-1) < 0 or (shape != (0,) and len(shape) != 2):
            raise ValueError(f"memory bank size: expected (num_features, dim), or 0 for no bank, got {size}")
        self.size = shape
        self.gather_distributed = gather_distributed
        self.feature_dim_first = feature_dim_first
        bank = torch.empty(0) if shape == (0,) else F.normalize(torch.randn(shape), dim=-1)
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("bank_ptr", torch.zeros(1, dtype=torch.int64), persistent=False)

    def forward(
        self, output: Tensor, labels: Tensor | None = None, update: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        if self.size[0] == 0:
            return output, None
        bank = self.bank.clone()  # what a backward pass will read is not written to
        if update:
            self._write(output)
        return output, (bank.transpose(0, -1) if self.feature_dim_first else bank)

    @torch.no_grad()
    def _write(self, rows: Tensor) -> None:
        if self.gather_distributed:
            rows, _ = distributed.gather(rows)
        start = int(self.bank_ptr)
        stop = min(start + len(rows), self.size[0])
        self.bank[start:stop] = rows[: stop - start].to(self.bank)
        self.bank_ptr[0] = stop % self.size[0]


class NTXentLoss(nn.Module):
    """mean −log [e^{p_i} / (e^{p_i} + Σ_negatives e^{s_ij})], scores <x_i, y_j>/temperature.

    The positive is in the denominator. Without a bank: 2n queries, each view's positive the other view, its negatives
    all views of all other items. With memory_bank_size = (num_features, dim): n queries out0, their positives out1, the
    rows of the bank as the only negatives; out1 is written to the bank afterwards if out0 asks for a gradient. No
    gradient reaches the bank. Sub-module `memory_bank`. ValueError if |temperature| < 1e-8; it may be negative.
    """

    def __init__(
        self, temperature: float = 0.5, memory_bank_size: int | Sequence[int] = 0, gather_distributed: bool = False
    ):
        super().__init__()
        self.memory_bank = MemoryBankModule(memory_bank_size, gather_distributed)
        self.temperature = temperature
        self.gather_distributed = gather_distributed
        if abs(temperature) < 1e-8:
            raise ValueError(f"temperature: expected at least 1e-8 in absolute value, got {temperature}")
        _check_distributed(gather_distributed)

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        x, y = unit_vectors(out0), unit_vectors(out1)
        _, bank = self.memory_bank(y, update=x.requires_grad)
        if bank is None:
            scores = _two_views(x, y, self.temperature, self.gather_distributed)
        else:
            scores = DotScores(x, bank.T.to(x.device), inverse(self.temperature), positive=y)
        return in_peer_dtype(scores.cross_entropy(), out0, out1)


class DCLLoss(nn.Module):
    """mean [log Σ_negatives e^{s_ij} − w_i p_i] over the 2n views of `NTXentLoss`: decoupled contrastive loss.

    The positive is **not** in the denominator; the loss may be negative, and is −inf for the only item there is.
    w_i = weight_fn(its view, the other view)_i, of unit vectors, [n], 1 without a weight_fn. Yeh et al., Decoupled
    Contrastive Learning, eq. 6. ValueError for a temperature of 0, where the peer gives NaN.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        weight_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
        gather_distributed: bool = False,
    ):
        super().__init__()
        self.temperature = temperature
        self.weight_fn = weight_fn
        self.gather_distributed = gather_distributed
        _check_distributed(gather_distributed)

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        x, y = unit_vectors(out0), unit_vectors(out1)
        scores = _two_views(x, y, self.temperature, self.gather_distributed)
        if not self.weight_fn:
            return in_peer_dtype(scores.cross_entropy(positive_log_weight=-math.inf), out0, out1)
        weight = torch.cat([self.weight_fn(x, y), self.weight_fn(y, x)])
        s = scores.double()
        return in_peer_dtype((s.negative_lse - weight * s.positive).mean(), out0, out1)


class DCLWLoss(DCLLoss):
    """`DCLLoss` with w = `negative_mises_fisher_weights` of the two views."""

    def __init__(self, temperature: float = 0.1, sigma: float = 0.5, gather_distributed: bool = False):
        super().__init__(temperature, partial(negative_mises_fisher_weights, sigma=sigma), gather_distributed)


def negative_mises_fisher_weights(out0: Tensor, out1: Tensor, sigma: float = 0.5) -> Tensor:
    """[n]: 2 − n softmax_i(<out0_i, out1_i>/sigma), without a gradient: less for pairs that are alike."""
    similarity = (out0.detach() * out1.detach()).sum(1) / sigma
    return 2 - len(out0) * similarity.softmax(0)


def _two_views(x: Tensor, y: Tensor, temperature: float, gather_distributed: bool) -> DotScores:
    """Queries: this rank's 2n views; candidates: all ranks'. A view shares its label with itself alone."""
    same_shape("out1", y, "out0", x)
    views = torch.cat([x, y])
    candidates, start = distributed.gather(views) if gather_distributed else (views, 0)
    itself = torch.arange(start, start + len(views), device=views.device)
    labels = itself, torch.arange(len(candidates), device=views.device)
    return DotScores(views, candidates, inverse(temperature), target=itself.roll(len(x)), labels=labels)


def _check_distributed(gather_distributed: bool) -> None:
    if gather_distributed and not torch.distributed.is_available():
        raise ValueError("gather_distributed: expected False, for this build of torch has no torch.distributed")
