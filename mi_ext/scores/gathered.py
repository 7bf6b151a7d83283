"""`GatheredScores`: every query has negatives of its own."""

from typing import Any

import torch
from torch import Tensor

from .. import ops, validation
from ..log_domain import Weight, free_of, log_of
from .source import Ranking, Scores, Statistics


class GatheredScores(Scores):
    """s_ik = scale · <x_i, y_ik> + bias with K − 1 negatives y_ik for each query; they are read where they lie.

    x [n, d]. The negatives are rows of a bank: bank [V, d] and index int64 [n, K−1], y_ik = bank[index_ik], where a row
    that comes twice counts twice; or they are given: negatives [n, K−1, d]. positive [n, d]: the vector of each query's
    positive, beside the negatives. Mixed floating dtypes are promoted. All get gradients if they ask for them, a bank a
    dense one; no array of n·(K−1)·d elements is made. All queries have as many negatives: where there are fewer, draw
    with replacement; rows that only fill up would count as negatives.

    scale: finite and not 0 (it may be negative), 1/temperature; bias: finite; each a float or a 0-dim tensor, which
    gets a gradient. There are no columns shared by queries: `bounds.tuba`, `bounds.interpolated` and shuffled pairs are
    ValueErrors. Raises TypeError or ValueError naming the argument; an index outside the bank is named by its position,
    but for one on a GPU, which nothing waits to look at: its query's terms become NaN.
    """

    x: Tensor
    y: Tensor
    index: Tensor | None
    scale: Weight
    bias: Weight
    _positive_vectors: Tensor

    def __init__(
        self,
        x: Tensor,
        bank: Tensor | None = None,
        index: Tensor | None = None,
        scale: Weight = 1.0,
        bias: Weight | None = None,
        *,
        negatives: Tensor | None = None,
        positive: Tensor,
    ):
        validation.no_compiled_vmap()
        validation.floating_matrix("x", x)
        validation.beside("positive", positive, x)
        y = validation.own_negatives(x, bank, index, negatives)
        validation.scalar("scale", scale, non_zero=True)
        validation.scalar("bias", 0.0 if bias is None else bias)
        dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), positive.dtype)
        super().__init__(x.shape[0], dtype)
        self.x, self.y, self.index = x.to(dtype), validation.distinct(y, x).to(dtype), index
        self.scale = scale if isinstance(scale, Tensor) else float(scale)
        self.bias = 0.0 if bias is None else bias.double() if isinstance(bias, Tensor) else float(bias)
        self._positive_vectors = positive

    @property
    def n_negatives(self) -> int:
        return self.y.shape[1] if self.index is None else self.index.shape[1]

    @property
    def negative_mass(self) -> float:
        return 1.0 * self.n_queries * self.n_negatives

    @property
    def log_negative_mass(self) -> Weight:
        return log_of(self.negative_mass)

    def negative_softplus_sum(self) -> Tensor:
        return ops.gathered_softplus_sum(self.x, self.y, self.index, self.scale, self.bias).to(self.dtype)

    def clipped_log_partition(self, tau: float) -> Tensor:
        with torch.no_grad():
            arguments = self.x, self.y, self.index, self.scale, self.bias, tau
            return ops.gathered_clipped_log_partition(*arguments).to(self.dtype)

    def _statistics(self, columns: bool = False) -> Statistics:
        return self._keep("statistics", self._compute_statistics)

    def _compute_statistics(self) -> Statistics:
        negative_lse = ops.gathered_negative_lse(self.x, self.y, self.index, self.scale)
        return self._positive(), negative_lse + self.bias, None

    def _compute_ranking(self) -> Ranking:
        vectors = self._positive_vectors.to(self.x.dtype)
        negative_lse, *rest = ops.gathered_ranking(self.x, self.y, self.index, self.scale, vectors)
        return self._positive(), negative_lse + self.bias, *rest

    def _positive(self) -> Tensor:
        return self._unbiased_positive() + self.bias

    def _unbiased_positive(self) -> Tensor:
        """float64 [n]: scale · <x_i, positive_i>."""
        return self._keep("positive", lambda: self.scale * (self.x.double() * self._positive_vectors.double()).sum(1))

    def _cross_entropy_sum(self, a: Any, b: Any) -> Tensor:
        if not self._fuses(a, b):
            return super()._cross_entropy_sum(a, b)
        arguments = self.x, self.y, self.index, self.scale, self._unbiased_positive(), a, b
        return free_of(ops.gathered_cross_entropy_sum(*arguments), self.bias)

    def _global_log_partition(self, a: Any, b: Any) -> Tensor:
        if not self._fuses(a, b):
            return super()._global_log_partition(a, b)
        positive = self._unbiased_positive()
        return ops.gathered_log_partition(self.x, self.y, self.index, self.scale, positive, a, b) + self.bias

    def _fuses(self, a: Weight, b: Weight) -> bool:
        """One pass gives value and gradient: for constant log-weights, unless the statistics are already there."""
        return not (isinstance(a, Tensor) or isinstance(b, Tensor) or self._has("statistics"))
