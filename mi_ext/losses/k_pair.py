"""The K-pair loss: plain products, no temperature."""

from torch import Tensor

from .. import bounds
from ..scores import DotScores, GatheredScores
from .base import ContrastiveLoss, LossOutput, same_shape, stats_of


class KPair(ContrastiveLoss):
    """mean log(1 + Σ_k exp(<x_i, y_ik> − <x_i, y_i>)) = log K − `bounds.infonce`: the multi-class N-pair loss.

    Scores are plain products: no temperature, and embeddings are not normalised. Minimise. The positive is in the
    denominator. Nats. forward(query [n, d], positive [n, d], negatives=None): negatives [n, K−1, d] of each query; by
    default the positives of the other queries, K = n. Sohn, Improved Deep Metric Learning with Multi-class N-pair Loss
    Objective, eq. 6 and 7.
    """

    def __init__(self) -> None:
        super().__init__(1.0, normalize=False)

    def forward(
        self, query: Tensor, positive: Tensor, negatives: Tensor | None = None, *, return_stats: bool = False
    ) -> LossOutput:
        x, y = self.embed("query", query), self.embed("positive", positive)
        same_shape("positive", y, "query", x)
        scores = DotScores(x, y) if negatives is None else GatheredScores(x, negatives=negatives, positive=y)
        loss = scores.cross_entropy()
        return (loss, stats_of(scores, bounds.infonce)) if return_stats else loss
