"""Contrastive losses as modules: each takes embeddings and returns a loss, 0-dim, in nats, to **minimise**.

Common to all. `temperature` T: a float, or an nn.Parameter to learn it; scores are <x_i, y_j>/T. `normalize=True`
divides embeddings by their length first: scores are cosines over T. Results are float32, or float64 for such inputs.
`forward(..., return_stats=True)` returns (loss, stats) with, detached:
    mi             the estimate of mutual information that belongs to the loss, in nats
    log_partition  [n]: R_i(0, 0), the log of the sum of exp(score) over a row's positive and negatives
    n_negatives    negatives of a row (an int, or int64 [n] where rows differ)
Errors are those of `DotScores`: TypeError or ValueError naming the argument; a loss of no queries is a ValueError.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import bounds, validation
from .log_domain import softplus
from .score_source import Scores
from .scores import DotScores


class ContrastiveLoss(nn.Module):
    """What the losses share: a temperature and whether embeddings are normalised."""

    def __init__(self, temperature: float | Tensor, normalize: bool):
        super().__init__()
        validation.scalar("temperature", temperature, non_zero=True)
        self.temperature = temperature
        self.normalize = normalize

    @property
    def scale(self) -> float | Tensor:
        return 1.0 / self.temperature

    def _embed(self, name: str, z: Tensor) -> Tensor:
        """Rows of unit length if `normalize`; lengths in at least float32, since 1e-12 is 0 in float16."""
        validation.floating_matrix(name, z)
        if not self.normalize:
            return z
        return F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=1).to(z.dtype)


class InfoNCE(ContrastiveLoss):
    """−mean log [e^{p_i} / Σ_k e^{s_ik}] = log K − `bounds.infonce`: cross-entropy of the positives; [MLC] eq. 2.

    Minimise. Normalises by default. The positive is in the denominator. Nats.
    forward(query [n, d], candidates [m, d], target=None, labels=None): the positive of query i is candidate target_i
    (default i), all others are negatives unless labels (labels of queries [n], of candidates [m]) agree.
    """

    def __init__(self, temperature: float | Tensor = 0.1, normalize: bool = True):
        super().__init__(temperature, normalize)

    def forward(self, query: Tensor, candidates: Tensor, target=None, *, labels=None, return_stats: bool = False):
        x, y = self._embed("query", query), self._embed("candidates", candidates)
        scores = DotScores(x, y, self.scale, target=target, labels=labels)
        loss = scores.cross_entropy()
        return (loss, _stats(scores, bounds.infonce)) if return_stats else loss


class NTXent(ContrastiveLoss):
    """Normalised temperature-scaled cross-entropy of SimCLR: InfoNCE among the 2n views, each without itself.

    Minimise: log K − `bounds.infonce`, K = 2n − 1. Normalises by default. The positive, the other view, is in the
    denominator. Nats. forward(z0 [n, d], z1 [n, d]): two views of the same n items; the mean is over all 2n.
    """

    def __init__(self, temperature: float | Tensor = 0.5, normalize: bool = True):
        super().__init__(temperature, normalize)

    def forward(self, z0: Tensor, z1: Tensor, *, return_stats: bool = False):
        scores = self._two_views(z0, z1)
        loss = self._loss(scores)
        return (loss, _stats(scores, bounds.infonce)) if return_stats else loss

    def _loss(self, scores: Scores) -> Tensor:
        return scores.cross_entropy()

    def _two_views(self, z0: Tensor, z1: Tensor) -> DotScores:
        """2n queries, the same 2n candidates: a view shares its label with itself only; its target is the other."""
        _same_shape("z1", z1, "z0", z0)
        views = torch.cat([self._embed("z0", z0), self._embed("z1", z1)])
        itself = torch.arange(len(views), device=views.device)
        return DotScores(views, views, self.scale, target=itself.roll(len(z0)), labels=(itself, itself))


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

    def forward(self, image: Tensor, text: Tensor, *, labels=None, return_stats: bool = False):
        _same_shape("text", text, "image", image)
        scores = DotScores(self._embed("image", image), self._embed("text", text), self.scale, labels=labels)
        s = scores.double()
        columns = softplus(s.column_negative_lse - s.positive)
        loss = ((s.cross_entropy() + columns.mean()) / 2).to(scores.dtype)
        if not return_stats:
            return loss
        return loss, _stats(scores, lambda s: bounds.infonce(s) + s.cross_entropy() - loss)  # mean log K_i − loss


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

    def forward(self, image: Tensor, text: Tensor, *, labels=None, return_stats: bool = False):
        _same_shape("text", text, "image", image)
        scores = DotScores(self._embed("image", image), self._embed("text", text), self.scale, self.bias, labels=labels)
        if scores.n_queries == 0:
            raise ValueError("image: the mean over n = 0 pairs is undefined; pass at least one pair")
        s = scores.double()
        negatives = s.negative_softplus_sum()
        loss = ((softplus(-s.positive).sum() + negatives) / s.n_queries).to(scores.dtype)
        return (loss, _stats(scores, bounds.infonce)) if return_stats else loss


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

    def forward(self, embeddings: Tensor, labels: Tensor, *, return_stats: bool = False):
        x = self._embed("embeddings", embeddings)
        n = len(x)
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
        mi = (_log(n - 1) - loss).detach()
        return loss, {"mi": mi, "log_partition": denominator.detach().to(loss.dtype), "n_negatives": max(n - 2, 0)}

    def _mean_positive_score(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """float64 ([n]: scale (<x_i, Σ_{p: same label} x_p> − <x_i, x_i>) / |P_i|, |P_i|)."""
        x = x.double()
        _, group, size = torch.unique(labels, return_inverse=True, return_counts=True)
        sums = x.new_zeros(len(size), x.shape[1]).index_add(0, group, x)
        n_positives = size[group] - 1
        total = (x * (sums[group] - x)).sum(1)
        return self.scale * total / n_positives.clamp_min(1), n_positives


class MoCo(ContrastiveLoss):
    """Momentum contrast: −mean log [e^{p_i} / (e^{p_i} + Σ_queue e^{s_ij})], one positive beside m queued negatives.

    Minimise: log K − `bounds.infonce`, K = m + 1. Normalises query and key by default; the queue is taken as it is:
    enqueue keys normalised, as MoCo does, for scores that are cosines. The positive is in the denominator. Nats. The
    gradient goes to the query only: keys and queue are detached. forward(query [n, d], key [n, d], queue [m, d]).
    """

    def __init__(self, temperature: float | Tensor = 0.07, normalize: bool = True):
        super().__init__(temperature, normalize)

    def forward(self, query: Tensor, key: Tensor, queue: Tensor, *, return_stats: bool = False):
        scores = self._beside_queue(query, key, queue)
        loss = scores.cross_entropy()
        return (loss, _stats(scores, bounds.infonce)) if return_stats else loss

    def _beside_queue(self, query: Tensor, key: Tensor, queue: Tensor) -> DotScores:
        x = self._embed("query", query)
        key = self._embed("key", key).detach()
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

    def forward(self, query: Tensor, key: Tensor, queue: Tensor | None = None, *, return_stats: bool = False):
        if queue is None:
            _same_shape("key", key, "query", query)
            scores = DotScores(self._embed("query", query), self._embed("key", key), self.scale)
        else:
            scores = self._beside_queue(query, key, queue)
        bound = bounds.ml_cpc(scores.double(), self.alpha)
        loss = math.log(scores.n_candidates / self.alpha) - bound
        loss = (loss / self.alpha if self.grad_scale == "1/alpha" else loss).to(scores.dtype)
        return (loss, _stats(scores, lambda s: bound.to(s.dtype))) if return_stats else loss


def _stats(scores: Scores, estimate) -> dict:
    with torch.no_grad():
        log_partition = scores.log_partition()  # walks over the scores once; the estimate reuses its statistics
        return {"mi": estimate(scores).detach(), "log_partition": log_partition, "n_negatives": scores.n_negatives}


def _same_shape(name: str, t: Tensor, other_name: str, other: Tensor) -> None:
    if t.shape != other.shape:
        raise ValueError(f"{name}: expected the shape of {other_name}, {tuple(other.shape)}, got {tuple(t.shape)}")


def _log(value: int) -> float:
    return math.log(value) if value > 0 else -math.inf
