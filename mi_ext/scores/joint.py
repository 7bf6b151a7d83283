"""`JointScores`: a network on concatenated pairs, reduced tile by tile."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops, validation
from ..log_domain import Weight, free_of
from ..ops.indexing import rows_at
from ..reference import Exclusion
from .exclusions import Exclusions
from .shared_columns import SharedColumnScores
from .source import Ranking, Statistics


class JointScores(SharedColumnScores):
    """s_ij = MLP([x_i; y_j]) with one or two hidden layers of relu units: no n×m×h tensor of them is ever stored.

        a = x W0xᵀ [n, h],  b = y W0yᵀ + b0 [m, h]           the first layer, W0 = [W0x, W0y]: n + m products, not n·m
        s_ij = <w, relu(a_i + b_j)> + b_last                                            one hidden layer
        s_ij = <w, relu(W1 relu(a_i + b_j) + b1)> + b_last                              two hidden layers

    x [n, dx]; y [m, dy]; critic: `critics.Joint(dx, dy, hidden, layers)`, whose parameters get gradients as x and y do.
    Dtypes are promoted together, and 16-bit ones to float32. The positives: `positive` [n, dy], one for each query
    beside the candidates (a queue, a memory bank), K = m + 1; or `target` int64 [n], y[target_i] that of query i, by
    default arange(n), which needs m ≥ n, K = m. labels, candidate_log_weight: as for `DotScores`, the latter without a
    gradient. The concatenating critic of [MIM]; other activations, or more layers: `DenseScores` of the critic's own
    matrix.

    Raises TypeError or ValueError naming the argument; giving both `target` and `positive` is an error. A second
    derivative is an error by name.
    """

    a: Tensor
    b: Tensor
    network: tuple
    bias: Tensor
    _positive_b: Any  # Tensor or None

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        critic: nn.Module,
        target: Tensor | None = None,
        *,
        positive: Tensor | None = None,
        labels: tuple[Tensor, Tensor] | None = None,
        candidate_log_weight: Tensor | None = None,
    ):
        validation.no_compiled_vmap()
        first, *inner, last = _linears(critic)
        widths: dict[str, Any] = {"x": critic.dx, "y": critic.dy}
        for name, t, width in zip("xy", (x, y), widths.values(), strict=True):
            validation.floating_matrix(name, t)
            if t.shape[1] != width:
                raise ValueError(f"{name}: expected width {width}, got shape {tuple(t.shape)}")
        validation.same_device("y", y, x.device)
        n, m = x.shape[0], y.shape[0]
        validation.log_weight_per_candidate(candidate_log_weight, m, x)
        dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), first.weight.dtype)
        if positive is None:
            target = validation.target_or_default(target, n, m, x)
        else:
            validation.external_positive(positive, target, x, widths["y"])
            dtype = torch.promote_types(dtype, positive.dtype)
        x_label, y_label = validation.label_pair(labels, n, m, x)
        super().__init__(Exclusions(n, m, x.device, target, x_label, y_label, candidate_log_weight), dtype)

        def wide(t: Tensor) -> Tensor:
            return t.to(self.dtype)

        weight_x, weight_y = wide(first.weight).split([critic.dx, critic.dy], dim=1)
        self.a = wide(F.linear(wide(x), weight_x))
        self.b = wide(F.linear(wide(y), weight_y, wide(first.bias)))
        self._positive_b = None if positive is None else wide(F.linear(wide(positive), weight_y, wide(first.bias)))
        second = (wide(inner[0].weight), wide(inner[0].bias)) if inner else (None, None)
        self.network = *second, wide(last.weight).squeeze(0)
        self.bias = last.bias.double().squeeze(0)

    def negative_softplus_sum(self) -> Tensor:
        value = ops.joint_softplus_sum(self.a, self.b, self.network, self.bias, self.exclusions.tensors)
        return value.to(self.dtype)

    def clipped_log_partition(self, tau: float) -> Tensor:
        with torch.no_grad():
            tensors = self.exclusions.tensors
            value = ops.joint_clipped_log_partition(self.a, self.b, self.network, self.bias, tensors, tau)
            return value.to(self.dtype)

    def shuffled(self, index: Tensor) -> Tensor:
        self._check_index(index)
        return self._row_scores(self.b[index]).to(self.dtype)

    def column_block(self, start: int, stop: int) -> Tensor:
        return (ops.joint_matrix(self.a, self.b[start:stop], self.network) + self.bias).to(self.dtype)

    def _positive(self) -> Tensor:
        if self._has_statistics():
            return self._statistics()[0]
        return self._keep("positive", self._positive_scores)

    def _positive_scores(self) -> Tensor:
        return self._row_scores(self._positive_b if self.target is None else rows_at(self.b, self.target))

    def _compute_statistics(self, columns: bool) -> Statistics:
        tensors = self.exclusions.tensors
        positive, lse, column_lse = ops.joint_statistics(self.a, self.b, self.network, tensors, columns)
        positive = self._positive_scores() if positive is None else positive + self.bias
        return positive, lse + self.bias, None if column_lse is None else column_lse + self.bias

    def _compute_ranking(self) -> Ranking:
        b, exclusions = self.b, self.exclusions.tensors
        if self._positive_b is not None:
            b, exclusions = self._with_positives_as_columns(self._positive_b)
        positive, negative_lse, *rest = ops.joint_ranking(self.a, b, self.network, exclusions)
        return positive + self.bias, negative_lse + self.bias, *rest

    def _with_positives_as_columns(self, positive_b: Tensor) -> tuple[Tensor, Exclusion]:
        """(b [m + n, h], exclusions): positives beside the candidates as candidates that are nobody's negatives."""
        _, x_label, y_label, v = self.exclusions.tensors
        n, m = len(self.a), len(self.b)
        labels = (x_label, None if x_label is None or y_label is None else torch.cat([y_label, x_label]))
        v = self.a.new_zeros(m, dtype=torch.float64) if v is None else v.double()
        removed = torch.full((n,), -math.inf, dtype=torch.float64, device=self.a.device)
        target = torch.arange(m, m + n, device=self.a.device)
        return torch.cat([self.b, positive_b]), (target, *labels, torch.cat([v, removed]))

    def _cross_entropy_sum(self, a: Any, b: Any) -> Tensor:
        if not self._fuses(a, b):
            return super()._cross_entropy_sum(a, b)
        total = ops.joint_cross_entropy_sum(self.a, self.b, self.network, self.exclusions.tensors, a, b)
        return free_of(total, self.bias)

    def _global_log_partition(self, a: Any, b: Any) -> Tensor:
        if not self._fuses(a, b):
            return super()._global_log_partition(a, b)
        return ops.joint_log_partition(self.a, self.b, self.network, self.exclusions.tensors, a, b) + self.bias

    def _fuses(self, a: Weight, b: Weight) -> bool:
        """One operator gives value and gradient: for constant log-weights and positives among the candidates, unless
        the statistics are already there."""
        unknown = isinstance(a, Tensor) or isinstance(b, Tensor) or self._positive_b is not None
        return not (unknown or self._has_statistics())

    def _row_scores(self, b: Tensor) -> Tensor:
        """float64 [n]: the scores of (x_i, y_i) for first layers a_i and b_i, b [n, h]."""
        inner_weight, inner_bias, last_weight = self.network
        hidden = (self.a + b).relu()
        if inner_weight is not None:
            hidden = F.linear(hidden, inner_weight, inner_bias).relu()
        return (hidden @ last_weight).double() + self.bias


def _linears(critic: nn.Module) -> list[nn.Linear]:
    linears = list(getattr(critic, "linears", ()))
    if len(linears) not in (2, 3):
        raise TypeError(
            f"critic: expected critics.Joint with one or two hidden layers, got {validation.describe(critic)}"
        )
    return linears
