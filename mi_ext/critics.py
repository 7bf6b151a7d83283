r"""Critics f(x, y) as modules: `critic(x [n, dx], y [m, dy], target=None)` gives `Scores`, rows = x, columns = y.

Keyword arguments of the scores pass through: positive [n, dy] (one for each query beside the candidates, which goes the
way of y), labels and candidate_log_weight. `Bilinear`, `Separable` and `Cosine` give `DotScores`, `Joint` gives
`JointScores`.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .scores import DotScores, JointScores

__all__ = ["Bilinear", "Cosine", "Joint", "Separable", "mlp"]


class Bilinear(nn.Module):
    """f(x, y) = xᵀ W y, W [dx, dy]: `DotScores` of x W and y. Bilinear critic of [MIM]."""

    def __init__(self, dx: int, dy: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dx, dy))
        nn.init.normal_(self.weight, std=1 / math.sqrt(dx * dy))

    def forward(self, x: Tensor, y: Tensor, target: Tensor | None = None, **options: Any) -> DotScores:
        return DotScores(x @ self.weight, y, target=target, **options)


class Separable(nn.Module):
    """f(x, y) = <g(x), h(y)>, two encoders into one space: `DotScores` of their outputs. Separable critic of [MIM]."""

    def __init__(self, encode_x: nn.Module, encode_y: nn.Module):
        super().__init__()
        self.encode_x = encode_x
        self.encode_y = encode_y

    def forward(
        self, x: Tensor, y: Tensor, target: Tensor | None = None, *, positive: Tensor | None = None, **options: Any
    ) -> DotScores:
        positive = None if positive is None else self.encode_y(positive)
        return DotScores(self.encode_x(x), self.encode_y(y), target=target, positive=positive, **options)


class Cosine(nn.Module):
    """f(x, y) = cos(x, y)/T with a learned temperature: T = exp(−log_scale), T = `temperature` at the start."""

    def __init__(self, temperature: float = 0.07):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature: expected a positive number, got {temperature}")
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(
        self, x: Tensor, y: Tensor, target: Tensor | None = None, *, positive: Tensor | None = None, **options: Any
    ) -> DotScores:
        positive = None if positive is None else F.normalize(positive, dim=1)
        x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
        return DotScores(x, y, self.log_scale.exp(), target=target, positive=positive, **options)


class Joint(nn.Module):
    r"""f(x, y) = MLP([x; y]) with one or two hidden layers of relu units: the concatenating critic of [MIM].

    `linears`: nn.Linear with W0 [hidden, dx + dy] (x before y), then for layers=2 [hidden, hidden], last [1, hidden].
    Gives `JointScores`: the first layer is split, W0 [x; y] + b0 = a(x) + b(y), and the hidden units of a tile of pairs
    exist at a time, never those of all n·m. Only relu: a network with another activation is scored densely,
    `DenseScores(network(pairs).view(n, m))`. Raises ValueError for other `layers` and for inputs of other widths.
    """

    def __init__(self, dx: int, dy: int, hidden: int, layers: int = 1):
        super().__init__()
        if layers not in (1, 2):
            raise ValueError(f"layers: expected 1 or 2 hidden layers, got {layers}")
        self.dx, self.dy = dx, dy
        widths = [dx + dy] + [hidden] * layers + [1]
        self.linears = nn.ModuleList(nn.Linear(i, o) for i, o in zip(widths[:-1], widths[1:], strict=True))

    def forward(self, x: Tensor, y: Tensor, target: Tensor | None = None, **options: Any) -> JointScores:
        return JointScores(x, y, self, target, **options)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths, input first, with relu between them: an encoder for `Separable`."""
    layers = [part for pair in zip(widths[:-1], widths[1:], strict=True) for part in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])
