"""Contrastive representation distillation as RepDistiller has it (crd/criterion.py, crd/memory.py).

from mi_ext.dropin.crd import ContrastLoss, ContrastMemory, CRDLoss
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..log_domain import log_of
from ..losses.base import computed_if
from ..ops.autograd import Operator
from ..scores import GatheredScores

_EPSILON = 1e-7


class CRDLoss(nn.Module):
    """The student's embedding against the teacher's memory and the teacher's against the student's; shape (1,).

        Σ over both ways of 1/n Σ_i [softplus(C − s_i0) + Σ_k softplus(s_ik − C) + K log(1 + ε/c)]
        s_ik = <x_i, memory row>/T,    c = K/n_data,    C = log Z + log(c + ε),    ε = 1e-7

    which is `ContrastLoss` of both results of `ContrastMemory`, without their [n, K + 1]. opt has s_dim, t_dim,
    feat_dim, n_data, nce_k (K), nce_t (T) and nce_m, the momentum. Sub-modules as the original's: embed_s, embed_t,
    contrast, criterion_t, criterion_s; both embeddings are trained, the memories are not.

    Minimise; nats. Normalises. No denominator: every pair is a term of its own. `mi_ext.losses.CRD` is this loss with
    statistics. forward(f_s [n, …], f_t [n, …], idx int64 [n], contrast_idx=None or int64 [n, K + 1]) as
    `ContrastMemory`.
    """

    def __init__(self, opt: Any):
        super().__init__()
        self.embed_s = Embed(opt.s_dim, opt.feat_dim)
        self.embed_t = Embed(opt.t_dim, opt.feat_dim)
        self.contrast = ContrastMemory(opt.feat_dim, opt.n_data, opt.nce_k, opt.nce_t, opt.nce_m)
        self.criterion_t = ContrastLoss(opt.n_data)
        self.criterion_s = ContrastLoss(opt.n_data)

    def forward(self, f_s: Tensor, f_t: Tensor, idx: Tensor, contrast_idx: Tensor | None = None) -> Tensor:
        f_s, f_t = self.embed_s(f_s), self.embed_t(f_t)
        memory = self.contrast
        index = memory.rows(idx, contrast_idx)
        ways = (f_s, memory.memory_v2, 2, self.criterion_s), (f_t, memory.memory_v1, 3, self.criterion_t)
        student, teacher = (self._way(x, bank, index, slot, criterion.n_data) for x, bank, slot, criterion in ways)
        memory.update(f_s, f_t, idx)
        return (student + teacher).reshape(1).to(f_s.dtype)

    def _way(self, x: Tensor, bank: Tensor, index: Tensor, slot: int, n_data: int) -> Tensor:
        positive, negatives, scale = bank[index[:, 0]], index[:, 1:], 1 / self.contrast.temperature
        n, n_negatives = negatives.shape

        def mean_exponential() -> Tensor:
            scores = GatheredScores(x, bank, negatives, scale, positive=positive).double()
            return (scores.log_partition(reduction="lse") - log_of(n * (n_negatives + 1))).exp()

        c = n_negatives / n_data
        shift = self.contrast.normalizer(slot, mean_exponential).double().log() + math.log(c + _EPSILON)
        scores = GatheredScores(x, bank, negatives, scale, -shift, positive=positive).double()
        return scores.logistic_loss() + n_negatives * math.log1p(_EPSILON / c)


class ContrastMemory(nn.Module):
    """e^{s_ik}/Z of v1 against the second memory and of v2 against the first: two of [n, K + 1, 1], positive first.

    Z = n_data · mean e^s over the first batch, then kept, without a gradient. Buffers as the original's: `params` =
    [K, T, Z_v1, Z_v2, momentum], Z < 0 while unset, of which all hold once loaded, K too; and `memory_v1`, `memory_v2`
    [outputSize, inputSize], the momentum averages of v1 and v2, of unit length, updated after use at every call. Does
    not normalise v1 and v2.

    forward(v1 [n, inputSize], v2 [n, inputSize], y int64 [n], idx=None): y names the items, idx int64 [n, K + 1] the
    rows to compare with, idx[:, 0] = y; by default the others are drawn uniformly from all items. Kept for the backward
    pass: the results, the indices and a copy of the memories, never n·K vectors.
    """

    params: Tensor
    memory_v1: Tensor
    memory_v2: Tensor

    def __init__(self, inputSize: int, outputSize: int, K: int, T: float = 0.07, momentum: float = 0.5):
        super().__init__()
        self.nLem = outputSize
        self.K = K
        self.register_buffer("params", torch.tensor([K, T, -1, -1, momentum]))
        bound = math.sqrt(3 / inputSize)
        self.register_buffer("memory_v1", torch.empty(outputSize, inputSize).uniform_(-bound, bound))
        self.register_buffer("memory_v2", torch.empty(outputSize, inputSize).uniform_(-bound, bound))
        self.register_load_state_dict_post_hook(_loaded)

    @property
    def temperature(self) -> Tensor:
        return self.params[1].to(torch.float64, copy=True)  # Z beside it is written before the backward pass

    def forward(self, v1: Tensor, v2: Tensor, y: Tensor, idx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        index = self.rows(y, idx)
        out_v1 = self._exponentials(v1, self.memory_v2, index, 2)
        out_v2 = self._exponentials(v2, self.memory_v1, index, 3)
        self.update(v1, v2, y)
        return out_v1, out_v2

    def rows(self, y: Tensor, idx: Tensor | None) -> Tensor:
        """int64 [n, K + 1]: idx, or y before uniform draws."""
        shape = y.shape[0], self.K + 1
        if idx is None:
            idx = torch.randint(self.nLem, shape, device=y.device)
            idx[:, 0] = y
        return idx.view(shape)

    @torch.no_grad()
    def normalizer(self, slot: int, mean_exponential: Callable[[], Tensor]) -> Tensor:
        """Z in params[slot], set to n_data · mean_exponential() if it has not been."""
        z = self.params[slot].clone()

        def first() -> Tensor:
            return (mean_exponential() * len(self.memory_v1)).to(z)

        self.params[slot] = z = computed_if(z < 0, first, z)
        return z

    @torch.no_grad()
    def update(self, v1: Tensor, v2: Tensor, y: Tensor) -> None:
        momentum = self.params[4].double()
        for memory, v in ((self.memory_v1, v1), (self.memory_v2, v2)):
            mixed = momentum * memory[y] + (1 - momentum) * v.to(memory)
            memory.index_copy_(0, y, nn.functional.normalize(mixed, dim=1))

    def _exponentials(self, v: Tensor, bank: Tensor, index: Tensor, slot: int) -> Tensor:
        bank = bank.to(v.dtype, copy=True)  # its rows are updated before the backward pass
        out = torch.exp(_BankProducts.apply(v, bank, index)[:, :, None] / self.temperature)
        return out / self.normalizer(slot, lambda: out.mean())


def _loaded(memory: ContrastMemory, _: Any) -> None:
    memory.K = int(memory.params[0])  # read here, since reading it at every call would break a compiled graph


@torch.library.custom_op("mi_ext::bank_products", mutates_args=())
def _bank_products(x: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    out = x.new_empty(index.shape)
    for row, vector, place in zip(out, x, index, strict=True):
        torch.mv(bank.index_select(0, place), vector, out=row)
    return out


@_bank_products.register_fake
def _(x: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    return x.new_empty(index.shape)


class _BankProducts(Operator):
    """[n, k]: <x_i, bank[index_ik]>, the vectors of one query at a time; the gradient goes to x alone."""

    raw = "bank_products"

    @staticmethod
    def forward(x: Tensor, bank: Tensor, index: Tensor) -> Tensor:
        return _bank_products(x, bank, index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        bank, index = ctx.saved_tensors
        return nn.functional.embedding_bag(index, bank, per_sample_weights=upstream, mode="sum"), None, None


class ContrastLoss(nn.Module):
    """−1/n Σ_i [log x_i0/(x_i0 + c + ε) + Σ_k log c/(x_ik + c + ε)], c = K/n_data, ε = 1e-7; shape (1,).

    The logistic loss of noise-contrastive estimation, to minimise, in nats. forward(x [n, K + 1, 1]): likelihoods of
    `ContrastMemory`, the positive first.
    """

    def __init__(self, n_data: int):
        super().__init__()
        self.n_data = n_data

    def forward(self, x: Tensor) -> Tensor:
        c = (x.shape[1] - 1) / self.n_data
        positive, negatives = x[:, 0], x[:, 1:]
        terms = -torch.log(positive / (positive + (c + _EPSILON))).sum(0) + torch.log(
            (negatives + (c + _EPSILON)) / c
        ).sum((0, 1))
        return terms / len(x)


class Embed(nn.Module):
    """A linear map to dim_out of each row, flattened, and unit length."""

    def __init__(self, dim_in: int = 1024, dim_out: int = 128):
        super().__init__()
        self.linear = nn.Linear(dim_in, dim_out)
        self.l2norm = Normalize(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.l2norm(self.linear(x.flatten(1)))


class Normalize(nn.Module):
    """x_i / (Σ_j x_ij^p)^{1/p}, p = `power`."""

    def __init__(self, power: float = 2):
        super().__init__()
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        return x / x.pow(self.power).sum(1, keepdim=True).pow(1.0 / self.power)
