"""Losses with class labels: several positives a row."""

import torch
from torch import Tensor

from .. import validation
from ..log_domain import log_of
from ..ops.indexing import summed_at
from ..scores import DotScores, column_blocks
from .base import ContrastiveLoss, LossOutput, ranking_stats


class SupCon(ContrastiveLoss):
    """Supervised contrastive loss: mean over anchors of [log Σ_{k≠i} e^{s_ik} − mean over its positives of s_ip].

    The positives of an anchor are the other rows with its label; anchors without one do not count, and if none has one
    the loss is 0 with gradient 0. Minimise. Normalises by default. All positives are in the denominator, the anchor is
    not. Nats; mi is log K − loss with K = n − 1 candidates, InfoNCE averaged over the choice of positive; log_partition
    [n] is the log of the denominator. The linear term is computed by sums over classes, in O(n d) and float64, so that
    a loss below the rounding of the scores, ε/T, is noise around 0. rank is that of the best positive among the rows of
    other labels, which effective_negatives are of: top1 is the accuracy of the nearest neighbour, top5 recall at 5. An
    anchor without a positive ranks last and is left out of both, NaN without any.
    forward(embeddings [n, d], labels [n] integers).
    """

    def __init__(self, temperature: float | Tensor = 0.1, normalize: bool = True):
        super().__init__(temperature, normalize)

    def forward(self, embeddings: Tensor, labels: Tensor, *, return_stats: bool = False) -> LossOutput:
        x = self.embed("embeddings", embeddings)
        n = x.shape[0]
        validation.label_pair((labels, labels), n, n, x)
        if n == 0:
            raise ValueError("embeddings: the mean over n = 0 anchors is undefined; pass at least one row")
        scores = DotScores(x, x, self.scale)  # the default target i leaves row i out of its own denominator
        attraction, n_positives = self._mean_positive_score(x, labels)
        denominator = scores.double().negative_lse
        has_positive = n_positives > 0
        terms = torch.where(has_positive, denominator - attraction, 0.0)
        loss = (terms.sum() / has_positive.sum().clamp_min(1)).to(torch.promote_types(x.dtype, torch.float32))
        if not return_stats:
            return loss
        mi = (log_of(n - 1) - loss).detach()
        stats = {"mi": mi, "log_partition": denominator.detach().to(loss.dtype), "n_negatives": max(n - 2, 0)}
        return loss, stats | self._ranking(scores, labels, has_positive)

    def _ranking(self, scores: DotScores, labels: Tensor, has_positive: Tensor) -> dict:
        with torch.no_grad():
            x, positive = scores.x, scores.x[best_positive(scores, labels)]
            best = DotScores(x, x, scores.scale, positive=positive, labels=(labels, labels))
            ranking = best.ranking()
        if ranking is None:
            return {}
        last = torch.as_tensor(best.n_negatives, device=x.device)
        return ranking_stats(torch.where(has_positive, ranking[0], last), ranking[1], has_positive)

    def _mean_positive_score(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """float64 ([n]: scale (<x_i, Σ_{p: same label} x_p> − <x_i, x_i>) / |P_i|, |P_i|)."""
        x = x.double()
        ordered, _ = labels.sort()
        group, stop = (torch.searchsorted(ordered, labels.contiguous(), right=right) for right in (False, True))
        sums = summed_at(x.shape[0], group, x)  # by the place of the class in the sorted labels
        n_positives = stop - group - 1
        total = (x * (sums[group] - x)).sum(1)
        return self.scale * total / n_positives.clamp_min(1), n_positives


def best_positive(scores: DotScores, labels: Tensor) -> Tensor:
    """int64 [n]: the row that scores highest among the others with the anchor's label, 0 where there is none."""
    n = len(labels)
    row, best = torch.arange(n, device=labels.device), torch.zeros_like(labels, dtype=torch.int64)
    highest = torch.full((n,), -torch.inf, dtype=scores.dtype, device=labels.device)
    for start, stop in column_blocks(n, n):
        other = (labels[:, None] != labels[start:stop]) | (row[:, None] == row[start:stop])
        value, column = scores.column_block(start, stop).masked_fill(other, -torch.inf).max(1)
        best = torch.where(value > highest, start + column, best)
        highest = torch.maximum(highest, value)
    return best
