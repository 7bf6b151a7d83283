"""Joint critic: a network on every concatenated pair, InfoNCE, forward and backward

Float32, the gradients of x, y and all parameters; d = 20 each, h hidden units. Useful flops: one hidden layer 12nmh
(an addition, a relu, a product and a sum for each unit, three times over), with two 6nmh². A share of the FMA peak says
little of one layer, which does no multiply-adds. "eager" splits the first layer as mi_ext does, n + m products, and
holds the n×m×h hidden units. "bare products" are the three products of two layers, n·m×h×h, alone, by torch.mm.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_ext import critics

from . import competitors as c
from . import harness
from .harness import COMPILED, OURS, Case, Effort, Target

WIDTH = 20
# (n, h, layers); 128, 256, 2 is a step of the Gaussian staircase.
SHAPES = {
    "full": [(512, 256, 1), (512, 512, 1), (128, 256, 1), (128, 256, 2), (512, 256, 2)],
    "quick": [(512, 256, 1), (128, 256, 2)],
    "tiny": [(32, 16, 1), (32, 16, 2)],
}
TARGETS = {
    1: {"eager": Target("ratio", 120), COMPILED: Target("ratio", 45)},
    2: {"bare products": Target("ratio", 1)},
}


def rows(effort: Effort) -> list[dict]:
    return harness.rows(__name__.split(".")[-1], cases(effort), effort)


def cases(effort: Effort) -> list[Case]:
    found = []
    for n, h, layers in SHAPES[effort.name]:
        flops = 12 * n * n * h if layers == 1 else 6 * n * n * h * h
        name = f"n=m={n} h={h}, {'one hidden layer' if layers == 1 else 'two hidden layers'}"
        targets = TARGETS[layers] if layers == 2 or n >= 512 else {}
        call = partial(build, layers)
        found.append(Case(name, (n, n, h), call, flops, targets, memory=(n, h) == (512, 256)))
    return found


def build(layers: int, n: int, m: int, h: int) -> dict:
    torch.manual_seed(0)
    critic = critics.Joint(WIDTH, WIDTH, h, layers)
    parameters = list(critic.parameters())
    x, y = torch.randn(n, WIDTH), torch.randn(m, WIDTH)
    competitors = {OURS: c.forward_backward(partial(ours, critic), x, y, *parameters)}
    if layers == 2:
        competitors["bare products"] = bare_products(n * m, h)
    competitors[COMPILED] = c.forward_backward(c.compiled(eager), x, y, *parameters)
    competitors["eager"] = c.forward_backward(eager, x, y, *parameters)
    return competitors


def ours(critic: critics.Joint, x: Tensor, y: Tensor, *weights: Tensor) -> Tensor:
    names = [name for name, _ in critic.named_parameters()]
    scores = torch.func.functional_call(critic, dict(zip(names, weights, strict=True)), (x, y))
    return scores.cross_entropy()


def eager(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, *others: Tensor) -> Tensor:
    """others: weight and bias of each further layer."""
    a, b = F.linear(x, weight[:, : x.shape[1]]), F.linear(y, weight[:, x.shape[1] :], bias)
    hidden = a[:, None, :] + b
    for weight, bias in zip(others[::2], others[1::2], strict=True):
        hidden = F.linear(hidden.relu(), weight, bias)
    return F.cross_entropy(hidden.squeeze(2), torch.arange(len(x), device=x.device))


def bare_products(pairs: int, h: int):
    """H W1ᵀ, dZ W1 and dZᵀ H, with nothing between them."""
    hidden, weight = torch.randn(pairs, h), torch.randn(h, h)

    def call():
        products = torch.mm(hidden, weight.T)
        return torch.mm(products, weight), torch.mm(products.T, hidden)

    return call
