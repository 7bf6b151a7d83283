"""Problems for a GPU and who solves them: mi_ext, plain torch, torch's chunked loss, and other people's kernels.

A competitor is made when its turn comes, so one that is not installed, or lacks something on this machine, says so in
its own row. Everything is forward and backward, but the bank of MoCo and that of CRD get no gradient.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

import mi_ext
from mi_ext import critics
from mi_ext.losses import CLIP, InfoNCE, SigLIP

from . import bank, importance
from . import competitors as c
from . import joint as joint_critic
from .harness import COMPILED, OURS


@dataclass(frozen=True)
class Problem:
    """`losses`: competitor → a loss of the tensors that `inputs` gives; the first `leaves` of them get gradients."""

    name: str
    flops: float
    inputs: Callable[[], list[Tensor]]
    losses: dict[str, Callable[..., Tensor]]
    leaves: int = 2
    tf32: bool = False  # products of float32 may be of TF32

    def call(self, competitor: str) -> Callable:
        inputs = self.inputs()
        fixed = inputs[self.leaves :]
        loss = self.losses[competitor]
        return c.forward_backward(lambda *leaves: loss(*leaves, *fixed), *inputs[: self.leaves])


def inf_cl(x: Tensor, y: Tensor) -> Tensor:
    from inf_cl import cal_flash_loss

    return cal_flash_loss(x, y, scale=c.SCALE, head_dim=min(x.shape[1], 256)).mean()


def cut_cross_entropy(x: Tensor, y: Tensor) -> Tensor:
    """As its package chooses: gradients of blocks that are small everywhere are left out."""
    from cut_cross_entropy import linear_cross_entropy

    return linear_cross_entropy(x * c.SCALE, y, torch.arange(len(x), device=x.device))


def exact_cut_cross_entropy(x: Tensor, y: Tensor) -> Tensor:
    from cut_cross_entropy import linear_cross_entropy

    return linear_cross_entropy(x * c.SCALE, y, torch.arange(len(x), device=x.device), filter_eps=None)


def liger(x: Tensor, y: Tensor) -> Tensor:
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    target = torch.arange(len(x), device=x.device)
    return LigerFusedLinearCrossEntropyFunction.apply(x * c.SCALE, y, target)[0]


def keops(x: Tensor, y: Tensor) -> Tensor:
    from pykeops.torch import LazyTensor

    scores = (LazyTensor((x * c.SCALE)[:, None, :]) | LazyTensor(y[None, :, :])).logsumexp(dim=1)
    return scores.mean() - (x * y).sum(1).mean() * c.SCALE


# name: (module, loss)
PEERS = {
    "inf-cl": ("inf_cl", inf_cl),
    "cut-cross-entropy": ("cut_cross_entropy", cut_cross_entropy),
    "cut-cross-entropy, exact": ("cut_cross_entropy", exact_cut_cross_entropy),
    "Liger": ("liger_kernel", liger),
    "KeOps": ("pykeops", keops),
}


def installed_peers() -> dict[str, Callable]:
    return {name: loss for name, (module, loss) in PEERS.items() if importlib.util.find_spec(module)}


def absent_peers() -> list[str]:
    return sorted({module for module, _ in PEERS.values() if not importlib.util.find_spec(module)})


def both_ways(loss: Callable) -> Callable:
    """CLIP's loss, of one for queries and candidates."""
    return lambda x, y: (loss(x, y) + loss(y, x)) / 2


def plain(loss: Callable) -> dict[str, Callable]:
    return {"eager": loss, COMPILED: c.compiled(loss)}


def rows_on(device: str, dtype: torch.dtype, *sizes: int, d: int) -> list[Tensor]:
    """Unit rows, made on the device: a million of them need not cross over."""
    generator = torch.Generator(device).manual_seed(0)
    return [F.normalize(torch.randn(n, d, generator=generator, device=device), dim=1).to(dtype) for n in sizes]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def in_batch(device: str, dtype: torch.dtype, n: int, d: int) -> Problem:
    """InfoNCE among n pairs: 6 n² d useful flops, scores and two gradients."""
    losses = {OURS: InfoNCE(c.TEMPERATURE, normalize=False), **plain(c.eager_info_nce)}
    losses |= {"torch chunked": c.chunked_info_nce, **installed_peers()}
    inputs = partial(rows_on, device, dtype, n, n, d=d)
    return Problem(f"InfoNCE n=m={n} d={d} {name_of(dtype)}", 6 * n * n * d, inputs, losses)


def clip(device: str, dtype: torch.dtype, n: int, d: int) -> Problem:
    losses = {OURS: CLIP(c.TEMPERATURE, normalize=False), **plain(c.eager_clip)}
    others = {"torch chunked": c.chunked_info_nce, **installed_peers()}
    losses |= {name: both_ways(loss) for name, loss in others.items()}
    inputs = partial(rows_on, device, dtype, n, n, d=d)
    return Problem(f"CLIP n=m={n} d={d} {name_of(dtype)}", 8 * n * n * d, inputs, losses)


def siglip(device: str, dtype: torch.dtype, n: int, d: int) -> Problem:
    losses = {OURS: SigLIP(c.TEMPERATURE, c.BIAS, normalize=False), **plain(c.eager_siglip)}
    inputs = partial(rows_on, device, dtype, n, n, d=d)
    return Problem(f"SigLIP n=m={n} d={d} {name_of(dtype)}", 6 * n * n * d, inputs, losses)


def decomposed(device: str, dtype: torch.dtype, n: int, d: int) -> Problem:
    """Three log-partitions of two query sets: 12 n² d, two products of scores and four of gradients."""
    losses = {OURS: importance.decomposed, **plain(importance.eager_decomposed)}
    inputs = partial(rows_on, device, dtype, n, n, n, d=d)
    return Problem(f"decomposed n=m={n} d={d} {name_of(dtype)}", 12 * n * n * d, inputs, losses, leaves=3)


def moco(device: str, dtype: torch.dtype, n: int, m: int, d: int) -> Problem:
    """One positive beside a queue of m keys; keys and queue get no gradient: 4 n m d."""
    losses = {OURS: bank.info_nce, **plain(bank.eager)}
    inputs = partial(rows_on, device, dtype, n, n, m, d=d)
    return Problem(f"MoCo n={n} queue={m} d={d} {name_of(dtype)}", 4 * n * m * d, inputs, losses, leaves=1)


def crd(device: str, dtype: torch.dtype, n: int, k: int, v: int, d: int) -> Problem:
    """Every query has k negatives of its own among the v rows of a memory: 4 n k d."""

    def inputs() -> list[Tensor]:
        index = torch.randint(v, (n, k), generator=torch.Generator(device).manual_seed(1), device=device)
        return [*rows_on(device, dtype, n, n, v, d=d), index]

    def ours(x, key, memory, index):
        return mi_ext.GatheredScores(x, memory, index, c.SCALE, positive=key).cross_entropy()

    def eager(x, key, memory, index):
        negatives = torch.einsum("nd,nkd->nk", x, memory[index])
        scores = torch.cat([(x * key).sum(1, keepdim=True), negatives], 1) * c.SCALE
        return F.cross_entropy(scores, torch.zeros(n, dtype=torch.int64, device=x.device))

    name = f"CRD n={n} K={k} memory={v} d={d} {name_of(dtype)}"
    return Problem(name, 4 * n * k * d, inputs, {OURS: ours, **plain(eager)}, leaves=1)


def with_memory_gradient(problem: Problem) -> Problem:
    """The memory learns too: 6 n k d."""
    return replace(problem, name=f"{problem.name}, memory learns", flops=1.5 * problem.flops, leaves=3)


def own_negatives(device: str, dtype: torch.dtype, n: int, k: int, d: int) -> Problem:
    """Every query comes with k negatives, which get gradients: 6 n k d."""

    def inputs() -> list[Tensor]:
        x, key, negatives = rows_on(device, dtype, n, n, n * k, d=d)
        return [x, key, negatives.reshape(n, k, d)]

    def ours(x, key, negatives):
        return mi_ext.GatheredScores(x, scale=c.SCALE, negatives=negatives, positive=key).cross_entropy()

    def eager(x, key, negatives):
        scores = torch.cat([(x * key).sum(1, keepdim=True), torch.einsum("nd,nkd->nk", x, negatives)], 1) * c.SCALE
        return F.cross_entropy(scores, torch.zeros(n, dtype=torch.int64, device=x.device))

    name = f"own negatives n={n} K={k} d={d} {name_of(dtype)}"
    return Problem(name, 6 * n * k * d, inputs, {OURS: ours, **plain(eager)}, leaves=3)


def joint(device: str, n: int, h: int, layers: int) -> Problem:
    """InfoNCE of a network on every pair, gradients of its parameters too: 12 n² h flops, or 6 n² h² of two layers."""
    critic = critics.Joint(joint_critic.WIDTH, joint_critic.WIDTH, h, layers)
    parameters = list(critic.parameters())

    def inputs() -> list[Tensor]:
        return [
            *rows_on(device, torch.float32, n, n, d=joint_critic.WIDTH),
            *(p.detach().to(device) for p in parameters),
        ]

    losses = {OURS: partial(joint_critic.ours, critic), **plain(joint_critic.eager)}
    flops = n * n * h * (12 if layers == 1 else 6 * h)
    return Problem(f"joint critic n=m={n} h={h} layers={layers}", flops, inputs, losses, leaves=2 + len(parameters))


def with_tf32(problem: Problem) -> Problem:
    return replace(problem, name=f"{problem.name}, TF32 allowed", tf32=True)


def problems(device: str) -> list[Problem]:
    """The most telling first: what comes last may fall to the time limit. torch.compile takes part in some."""
    half, single = torch.bfloat16, torch.float32
    found = [in_batch(device, dtype, 16384, 128) for dtype in (half, single)]
    found += [moco(device, half, 256, 65536, 128), crd(device, half, 64, 16384, 50000, 128)]
    found += [clip(device, half, 32768, 512), siglip(device, half, 32768, 512)]
    found += [decomposed(device, half, 16384, 128), joint(device, 512, 256, 1), joint(device, 512, 256, 2)]
    more = [with_tf32(in_batch(device, single, 16384, 128))]
    more += [moco(device, single, 256, 65536, 128), crd(device, single, 64, 16384, 50000, 128)]
    more += [with_memory_gradient(crd(device, single, 64, 16384, 50000, 128))]
    more += [own_negatives(device, half, 4096, 64, 128), decomposed(device, single, 16384, 128)]
    more += [in_batch(device, half, n, 128) for n in (4096, 65536, 131072, 262144)]
    more += [in_batch(device, dtype, 16384, d) for d in (64, 256, 512, 1024) for dtype in (half, single)]
    more += [in_batch(device, single, n, 128) for n in (4096, 65536)]
    more += [in_batch(device, torch.float16, 16384, 128)]
    more += [joint(device, 4096, 256, 1), joint(device, 4096, 256, 2)]
    more += [in_batch(device, half, 1048576, 128), in_batch(device, single, 262144, 128)]
    return found + [without_compile(problem) for problem in more]


def tiny_problems(device: str) -> list[Problem]:
    single = torch.float32
    found = [in_batch(device, torch.bfloat16, 96, 64), with_tf32(in_batch(device, single, 64, 16))]
    found += [clip(device, single, 96, 32), siglip(device, single, 96, 32)]
    found += [moco(device, single, 32, 256, 32), crd(device, single, 8, 64, 200, 32)]
    found += [decomposed(device, single, 96, 32)]
    found += [with_memory_gradient(crd(device, single, 8, 64, 200, 32)), own_negatives(device, single, 16, 8, 32)]
    found += [joint(device, 32, 16, layers) for layers in (1, 2)]
    return [in_batch(device, single, 128, 32), *map(without_compile, found)]


def without_compile(problem: Problem) -> Problem:
    """To compile takes longer than all measurements of a problem."""
    return replace(problem, losses={name: loss for name, loss in problem.losses.items() if name != COMPILED})
