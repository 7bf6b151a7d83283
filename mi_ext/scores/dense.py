"""`DenseScores`: a given matrix."""

import torch
from torch import Tensor

from .. import reference, validation
from .exclusions import Exclusions
from .shared_columns import SharedColumnScores
from .source import Ranking, Statistics


class DenseScores(SharedColumnScores):
    """A given score matrix: the fallback for any critic, and the version to read.

    matrix [n, m], rows = queries; target int64 [n], the column of each query's positive, default arange(n), which needs
    m ≥ n. All other columns are negatives, and counted: a score of −inf adds nothing to a sum of exponentials, but its
    pair is one of the K and N⁻, as in the closed forms of [MLC]. To leave candidates out of both, take a source with
    labels and log-weights. Raises TypeError or ValueError by argument.
    """

    matrix: Tensor

    def __init__(self, matrix: Tensor, target: Tensor | None = None):
        validation.floating_matrix("matrix", matrix, "[n, m]")
        n, m = matrix.shape
        target = validation.target_or_default(target, n, m, matrix)
        super().__init__(Exclusions(n, m, matrix.device, target), matrix.dtype)
        self.matrix = matrix.to(self.dtype)

    def _compute_statistics(self, columns: bool) -> Statistics:
        positive, lse, column_lse = reference.statistics(self.matrix, self.exclusions.tensors, columns)
        return positive.double(), lse.double(), None if column_lse is None else column_lse.double()

    def negative_softplus_sum(self) -> Tensor:
        return reference.softplus_sum(self.matrix.double(), self.exclusions.tensors).to(self.dtype)

    def clipped_log_partition(self, tau: float) -> Tensor:
        with torch.no_grad():
            return reference.clipped_log_partition(self.matrix.double(), self.exclusions.tensors, tau).to(self.dtype)

    def shuffled(self, index: Tensor) -> Tensor:
        self._check_index(index)
        return self.matrix.gather(1, index[:, None]).squeeze(1).to(self.dtype)

    def plus(self, other: "DenseScores") -> "DenseScores":
        return DenseScores(self.matrix + other.matrix, self.target)

    def detached(self) -> "DenseScores":
        return DenseScores(self.matrix.detach(), self.target)

    def _compute_ranking(self) -> Ranking:
        with torch.no_grad():
            positive, lse, entropy, rank = reference.ranking(self.matrix, self.exclusions.tensors)
            return positive.double(), lse.double(), entropy.double(), rank

    def column_block(self, start: int, stop: int) -> Tensor:
        return self.matrix[:, start:stop].to(self.dtype)
