"""Losses whose negatives are the other pairs of the batch."""

import math

import torch
from torch import Tensor

from .. import bounds, validation
from ..scores import DotScores, Scores
from .base import ContrastiveLoss, Labels, LossOutput, same_shape, stats_of


class InfoNCE(ContrastiveLoss):
    """−mean log [e^{p_i} / Σ_k e^{s_ik}] = log K − `bounds.infonce`: cross-entropy of the positives; [MLC] eq. 2.

    Minimise. Normalises by default. The positive is in the denominator. Nats.
    forward(query [n, d], candidates [m, d], target=None, labels=None): the positive of query i is candidate target_i
    (default i), all others are negatives unless labels (labels of queries [n], of candidates [m]) agree.
    """

    def __init__(self, temperature: float | Tensor = 0.1, normalize: bool = True):
        super().__init__(temperature, normalize)

    def forward(
        self,
        query: Tensor,
        candidates: Tensor,
        target: Tensor | None = None,
        *,
        labels: Labels = None,
        return_stats: bool = False,
    ) -> LossOutput:
        x, y = self.embed("query", query), self.embed("candidates", candidates)
        scores = DotScores(x, y, self.scale, target=target, labels=labels)
        loss = scores.cross_entropy()
        return (loss, stats_of(scores, bounds.infonce)) if return_stats else loss


class NTXent(ContrastiveLoss):
    """Normalised temperature-scaled cross-entropy of SimCLR: InfoNCE among the 2n views, each without itself.

    Minimise: log K − `bounds.infonce`, K = 2n − 1. Normalises by default. The positive, the other view, is in the
    denominator. Nats. forward(z0 [n, d], z1 [n, d]): two views of the same n items; the mean is over all 2n.
    """

    def __init__(self, temperature: float | Tensor = 0.5, normalize: bool = True):
        super().__init__(temperature, normalize)

    def forward(self, z0: Tensor, z1: Tensor, *, return_stats: bool = False) -> LossOutput:
        scores = self._two_views(z0, z1)
        loss = self._loss(scores)
        return (loss, stats_of(scores, bounds.infonce)) if return_stats else loss

    def _loss(self, scores: Scores) -> Tensor:
        return scores.cross_entropy()

    def _two_views(self, z0: Tensor, z1: Tensor) -> DotScores:
        """2n queries, the same 2n candidates: a view shares its label with itself only; its target is the other."""
        same_shape("z1", z1, "z0", z0)
        views = torch.cat([self.embed("z0", z0), self.embed("z1", z1)])
        itself = torch.arange(views.shape[0], device=views.device)
        return DotScores(views, views, self.scale, target=itself.roll(z0.shape[0]), labels=(itself, itself))


class DCL(NTXent):
    """Decoupled contrastive loss: mean[log Σ_negatives e^{s_ik} − p_i] among the 2n views of `NTXent`.

    Minimise; may be negative. Normalises by default. The positive is **not** in the denominator (log-weight −∞). Nats;
    the mi of its stats is `bounds.infonce` of the same scores. forward(z0 [n, d], z1 [n, d]), n ≥ 2.
    """

    def __init__(self, temperature: float | Tensor = 0.1, normalize: bool = True):
        super().__init__(temperature, normalize)

    def _loss(self, scores: Scores) -> Tensor:
        if scores.n_queries == 2:
            raise ValueError("z0: DCL has no denominator without negatives; expected n ≥ 2 items, got 1")
        return scores.cross_entropy(positive_log_weight=-math.inf)


class CLIP(ContrastiveLoss):
    """½ [mean_i (R_i − p_i) + mean_i (C_i − p_i)]: InfoNCE along rows and along columns of one score matrix.

    Minimise. Normalises by default. The positive is in both denominators. Nats; mi is log n − loss, the mean of the two
    InfoNCE estimates. forward(image [n, d], text [n, d], labels=None): pair i matches; the same label in
    labels = (of images [n], of texts [n]) means never a negative (mi is then the mean over rows of log K_i − loss).
    """

    def __init__(self, temperature: float | Tensor = 0.07, normalize: bool = True):
        super().__init__(temperature, normalize)

    def forward(self, image: Tensor, text: Tensor, *, labels: Labels = None, return_stats: bool = False) -> LossOutput:
        same_shape("text", text, "image", image)
        scores = DotScores(self.embed("image", image), self.embed("text", text), self.scale, labels=labels)
        loss = scores.symmetric_cross_entropy()
        if not return_stats:
            return loss
        return loss, stats_of(scores, lambda s: bounds.infonce(s) + s.cross_entropy() - loss)  # mean log K_i − loss


class SigLIP(ContrastiveLoss):
    """1/n [Σ_i softplus(−p_i) + Σ over negatives softplus(s_ij)]: logistic regression of match against non-match.

    Scores are <x_i, y_j>/T + bias; `bias`: a float or an nn.Parameter. The defaults are where SigLIP starts. Minimise.
    Normalises by default. No denominator: every pair is a term of its own. Nats; mi is `bounds.infonce` of the scores.
    forward(image [n, d], text [n, d], labels=None) as `CLIP`.
    """

    def __init__(self, temperature: float | Tensor = 0.1, bias: float | Tensor = -10.0, normalize: bool = True):
        super().__init__(temperature, normalize)
        validation.scalar("bias", bias)
        self.bias = bias

    def forward(self, image: Tensor, text: Tensor, *, labels: Labels = None, return_stats: bool = False) -> LossOutput:
        same_shape("text", text, "image", image)
        scores = DotScores(self.embed("image", image), self.embed("text", text), self.scale, self.bias, labels=labels)
        if scores.n_queries == 0:
            raise ValueError("image: the mean over n = 0 pairs is undefined; pass at least one pair")
        loss = scores.logistic_loss()
        return (loss, stats_of(scores, bounds.infonce)) if return_stats else loss
