"""What sources with the same candidates for all queries have in common."""

from abc import abstractmethod

import torch
from torch import Tensor

from .. import validation
from ..ops.autograd import cast
from .exclusions import Exclusions
from .source import Scores, Statistics


class SharedColumnScores(Scores):
    """Scores of n queries with the same m candidates, less some exclusions."""

    exclusions: Exclusions

    def __init__(self, exclusions: Exclusions, dtype: torch.dtype):
        super().__init__(exclusions.n, dtype)
        self.exclusions = exclusions

    @property
    def target(self) -> Tensor | None:
        """int64 [n]: the column of each query's positive; None when positives were given beside the candidates."""
        return self.exclusions.target

    @property
    def n_negatives(self) -> int | Tensor:
        return self._keep("row_counts", self.exclusions.row_counts)

    def _log_row_mass(self) -> Tensor:
        count = self.n_negatives
        if not isinstance(count, Tensor):  # torch.full: a number of the host, which a GPU need not wait for
            count = torch.full((), count, dtype=torch.float64, device=self.exclusions.device)
        return count.double().log()

    @property
    def negative_mass(self) -> float | Tensor:
        return self._keep("mass", self.exclusions.mass)

    @property
    def log_negative_mass(self) -> float | Tensor:
        return self._keep("log mass", self.exclusions.log_mass)

    @property
    def column_negatives(self) -> Tensor:
        return self._keep("column_counts", self.exclusions.column_counts)

    @property
    def log_column_mass(self) -> Tensor:
        return self._keep("log_column_mass", self.exclusions.log_column_mass)

    @property
    def column_negative_lse(self) -> Tensor:
        lse = self._statistics(columns=True)[2]
        assert lse is not None  # asked for
        return cast(lse, self.dtype)

    def _statistics(self, columns: bool = False) -> Statistics:
        if not columns and not self._has("statistics with columns"):
            return self._keep("statistics", lambda: self._compute_statistics(False))
        return self._keep("statistics with columns", lambda: self._compute_statistics(True))

    def _has_statistics(self) -> bool:
        return self._has("statistics") or self._has("statistics with columns")

    @abstractmethod
    def _compute_statistics(self, columns: bool) -> Statistics: ...

    def _check_index(self, index: Tensor) -> None:
        validation.candidate_index("index", index, self.n_queries, self.exclusions.m, self.exclusions.device)
