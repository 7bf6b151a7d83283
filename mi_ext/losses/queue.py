"""Losses with one positive beside a queue of negatives."""

from torch import Tensor

from .. import bounds, validation
from ..log_domain import log_of
from ..scores import DotScores
from .base import ContrastiveLoss, LossOutput, same_shape, stats_of


class MoCo(ContrastiveLoss):
    """Momentum contrast: −mean log [e^{p_i} / (e^{p_i} + Σ_queue e^{s_ij})], one positive beside m queued negatives.

    Minimise: log K − `bounds.infonce`, K = m + 1. Normalises query and key by default; the queue is taken as it is:
    enqueue keys normalised, as MoCo does, for scores that are cosines. The positive is in the denominator. Nats. The
    gradient goes to the query only: keys and queue are detached. forward(query [n, d], key [n, d], queue [m, d]).
    """

    def __init__(self, temperature: float | Tensor = 0.07, normalize: bool = True):
        super().__init__(temperature, normalize)

    def forward(self, query: Tensor, key: Tensor, queue: Tensor, *, return_stats: bool = False) -> LossOutput:
        scores = self._beside_queue(query, key, queue)
        loss = scores.cross_entropy()
        return (loss, stats_of(scores, bounds.infonce)) if return_stats else loss

    def _beside_queue(self, query: Tensor, key: Tensor, queue: Tensor) -> DotScores:
        same_shape("key", key, "query", query)
        validation.floating_matrix("queue", queue, "[m, d]")
        x = self.embed("query", query)
        key = self.embed("key", key).detach()
        return DotScores(x, queue.detach(), self.scale, positive=key)


class MLCPC(MoCo):
    """Multi-label CPC: log(K/α) − `bounds.ml_cpc`(scores, α) ≥ 0, one softmax over all queries' scores; [MLC] eq. 7.

    Minimise. Normalises by default. The positives are in the one denominator, with weight α. Nats; mi is
    `bounds.ml_cpc`. forward(query [n, d], key [n, d], queue=None): without a queue the other keys of the batch are the
    negatives (K = n) and keys get gradients; with a queue [m, d] as `MoCo` (K = m + 1). Set `alpha` between epochs for
    `bounds.alpha_schedule`; grad_scale="1/alpha" divides the loss by α as the authors' script does, so that a schedule
    of α is one of step sizes too.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        temperature: float | Tensor = 0.07,
        normalize: bool = True,
        grad_scale: str = "none",
    ):
        super().__init__(temperature, normalize)
        validation.one_of("grad_scale", grad_scale, ("none", "1/alpha"))
        self.alpha = alpha
        self.grad_scale = grad_scale

    def forward(
        self, query: Tensor, key: Tensor, queue: Tensor | None = None, *, return_stats: bool = False
    ) -> LossOutput:
        if queue is None:
            same_shape("key", key, "query", query)
            scores = DotScores(self.embed("query", query), self.embed("key", key), self.scale)
        else:
            scores = self._beside_queue(query, key, queue)
        bound = bounds.ml_cpc(scores.double(), self.alpha)
        loss = log_of(scores.n_candidates / self.alpha) - bound
        loss = (loss / self.alpha if self.grad_scale == "1/alpha" else loss).to(scores.dtype)
        return (loss, stats_of(scores, lambda s: bound.to(s.dtype))) if return_stats else loss
