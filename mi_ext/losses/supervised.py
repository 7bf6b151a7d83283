"""Losses with class labels: several positives a row."""

import torch
from torch import Tensor

from .. import validation
from ..log_domain import log_of
from ..scores import DotScores
from .base import ContrastiveLoss, LossOutput


class SupCon(ContrastiveLoss):
    """Supervised contrastive loss: mean over anchors of [log Σ_{k≠i} e^{s_ik} − mean over its positives of s_ip].

    The positives of an anchor are the other rows with its label; anchors without one do not count, and if none has one
    the loss is 0 with gradient 0. Minimise. Normalises by default. All positives are in the denominator, the anchor is
    not. Nats; mi is log K − loss with K = n − 1 candidates, InfoNCE averaged over the choice of positive; log_partition
    [n] is the log of the denominator. The linear term is computed by sums over classes, in O(n d).
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
        scores = DotScores(x, x, self.scale).double()  # the default target i leaves row i out of its own denominator
        attraction, n_positives = self._mean_positive_score(x, labels)
        denominator = scores.negative_lse
        has_positive = n_positives > 0
        terms = torch.where(has_positive, denominator - attraction, 0.0)
        loss = (terms.sum() / has_positive.sum().clamp_min(1)).to(torch.promote_types(x.dtype, torch.float32))
        if not return_stats:
            return loss
        mi = (log_of(n - 1) - loss).detach()
        return loss, {"mi": mi, "log_partition": denominator.detach().to(loss.dtype), "n_negatives": max(n - 2, 0)}

    def _mean_positive_score(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """float64 ([n]: scale (<x_i, Σ_{p: same label} x_p> − <x_i, x_i>) / |P_i|, |P_i|)."""
        x = x.double()
        ordered, _ = labels.sort()
        group, stop = (torch.searchsorted(ordered, labels.contiguous(), right=right) for right in (False, True))
        sums = torch.zeros_like(x).index_add(0, group, x)  # by the place of the class in the sorted labels
        n_positives = stop - group - 1
        total = (x * (sums[group] - x)).sum(1)
        return self.scale * total / n_positives.clamp_min(1), n_positives
