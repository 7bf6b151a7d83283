"""What users write today for the same objectives: plain PyTorch, its chunked loss, and the products alone."""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.07
SCALE = 1 / TEMPERATURE
BIAS = -10.0  # of SigLIP
CHUNK = 256  # queries in a block of torch's chunked loss


def unit_rows(n: int, d: int, seed: int, dtype=torch.float32) -> Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1).to(dtype)


def forward_backward(loss: Callable[..., Tensor], *inputs: Tensor) -> Callable:
    """A call that returns the loss and its gradients by the inputs, made anew each time."""

    def call():
        leaves = [t.detach().requires_grad_() for t in inputs]
        value = loss(*leaves)
        value.backward()
        return value.detach(), *(t.grad for t in leaves)

    return call


def forward(loss: Callable[..., Tensor], *inputs: Tensor) -> Callable:
    return torch.no_grad()(lambda: loss(*inputs))


def compiled(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.compile, when it is first called: its import alone takes seconds."""

    @cache
    def program() -> Callable[..., Tensor]:
        return torch.compile(loss, dynamic=False)

    return lambda *inputs: program()(*inputs)


def eager_info_nce(x: Tensor, y: Tensor, scale: float = SCALE) -> Tensor:
    return F.cross_entropy(x @ y.T * scale, torch.arange(len(x), device=x.device))


def chunked_info_nce(x: Tensor, y: Tensor) -> Tensor:
    """torch's own way around the score matrix: a block of queries at a time."""
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK)
    return F.linear_cross_entropy(x * SCALE, y, torch.arange(len(x), device=x.device), options=options)


def three_products(x: Tensor, y: Tensor) -> Callable:
    """Scores and both gradients as bare matrix products, with nothing between them."""

    def call():
        scores = torch.mm(x, y.T)
        return torch.mm(scores, y), torch.mm(scores.T, x)

    return call


def eager_clip(x: Tensor, y: Tensor, scale: float = SCALE) -> Tensor:
    scores, target = x @ y.T * scale, torch.arange(len(x), device=x.device)
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2


def eager_ml_cpc(x: Tensor, y: Tensor, scale: float = SCALE) -> Tensor:
    """Multi-label CPC with α = 1: one softmax over all n² scores."""
    scores = x @ y.T * scale
    return torch.logsumexp(scores, (0, 1)) - math.log(len(x)) - scores.diagonal().mean()


def eager_nwj(x: Tensor, y: Tensor, scale: float = SCALE) -> Tensor:
    """The leanest form: without a mask, positives are subtracted from the sum of exponentials again."""
    scores, n = x @ y.T * scale, len(x)
    positive = scores.diagonal()
    return (scores.exp().sum() - positive.exp().sum()) / (n * (n - 1)) / math.e - positive.mean()


def eager_siglip(x: Tensor, y: Tensor, scale: float = SCALE, bias: float = BIAS) -> Tensor:
    """The leanest form: softplus(−p) = softplus(p) − p, so that no matrix of signs is needed."""
    scores = x @ y.T * scale + bias
    return (F.softplus(scores).sum() - scores.diagonal().sum()) / len(x)
