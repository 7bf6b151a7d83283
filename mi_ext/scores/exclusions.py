"""Which (query, candidate) pairs are negatives, and how many there are, in O(n + m).

Candidate j is a negative of query i unless j = target_i, x_label_i = y_label_j or v_j = −inf.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import reference, validation
from ..log_domain import log_of, log_sum_exp
from ..ops.indexing import summed_at, within


def sum_over_equal(values: Tensor, keys: Tensor, weight: Tensor) -> Tensor:
    """For each of the values the sum of the weights whose keys equal it; no shape depends on data, as with unique."""
    keys, order = keys.sort()
    sums = torch.cat([weight.new_zeros(1), weight[order].cumsum(0)])
    start, stop = (torch.searchsorted(keys, values.contiguous(), right=right) for right in (False, True))
    return sums[stop] - sums[start]


@dataclass(frozen=True)
class Exclusions:
    """target int64 [n], x_label int64 [n], y_label int64 [m], candidate_log_weight v [m]; each may be None."""

    n: int
    m: int
    device: torch.device
    target: Tensor | None = None
    x_label: Tensor | None = None
    y_label: Tensor | None = None
    candidate_log_weight: Tensor | None = None

    @property
    def tensors(self) -> reference.Exclusion:
        """The tuple that `mi_ext.ops` and `mi_ext.reference` take."""
        return self.target, self.x_label, self.y_label, self.candidate_log_weight

    @property
    def uniform(self) -> bool:
        """Every row has the same number of negatives, known without looking at data."""
        return self.x_label is None and self.candidate_log_weight is None

    def row_counts(self) -> int | Tensor:
        """Number of negatives of a query: an int where all rows agree and data can be read at once, else int64 [n]."""
        all_but_positive = max(self.m - int(self.target is not None), 0)
        if self.uniform or self.n == 0:
            return all_but_positive
        kept = self._kept_columns()
        count = kept.sum().expand(self.n)
        if self.x_label is not None and self.y_label is not None:
            count = count - sum_over_equal(self.x_label, self.y_label, kept)
        if self.target is not None:
            target = within(self.target, self.m)
            count = count - kept[target] * self._has_other_label(target)
        if validation.readable(count) and bool((count == count[0]).all()):
            return int(count[0])
        return count

    def column_counts(self) -> Tensor:
        """float64 [m]: number of queries of which candidate j is a negative."""
        count = torch.full((self.m,), self.n, device=self.device)
        if self.x_label is not None and self.y_label is not None:
            count = count - sum_over_equal(self.y_label, self.x_label, torch.ones_like(self.x_label))
        if self.target is not None:
            target = within(self.target, self.m)
            count = count - summed_at(self.m, target, self._has_other_label(target))
        return (count * self._kept_columns()).double()

    def log_column_mass(self) -> Tensor:
        """float64 [m]: log Σ e^{v_j} over the pairs of column j, −inf for a column that is nobody's negative."""
        log_count = self.column_counts().log()
        if self.candidate_log_weight is None:
            return log_count
        return log_count + self.candidate_log_weight.double()

    def mass(self) -> float | Tensor:
        """N⁻: the number of (query, negative) pairs, or Σ e^{v_j} over them."""
        if self.uniform:
            return 1.0 * self.n * self.row_counts()
        if self.candidate_log_weight is None:
            return self.column_counts().sum()
        return log_sum_exp(self.log_column_mass()).exp()

    def log_mass(self) -> float | Tensor:
        """log N⁻, −inf without negatives."""
        if self.candidate_log_weight is None:
            return log_of(self.mass())
        return log_sum_exp(self.log_column_mass())

    def _kept_columns(self) -> Tensor:
        if self.candidate_log_weight is None:
            return torch.ones(self.m, dtype=torch.int64, device=self.device)
        return (self.candidate_log_weight != -math.inf).long()

    def _has_other_label(self, target: Tensor) -> Tensor:
        """int64 [n]: 1 where the positive is not already excluded by its label."""
        if self.x_label is None or self.y_label is None:
            return torch.ones_like(target)
        return (self.x_label != self.y_label[target]).long()
