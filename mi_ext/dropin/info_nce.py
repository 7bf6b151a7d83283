"""Stands in for info-nce-pytorch 0.1.4: `from mi_ext.dropin.info_nce import InfoNCE, info_nce`."""

from torch import Tensor, nn

from .. import validation
from ..log_domain import Weight
from ..losses.base import unit_vectors
from ..scores import DotScores, GatheredScores, Scores
from ._base import in_peer_dtype, inverse

__all__ = ["InfoNCE", "info_nce"]


class InfoNCE(nn.Module):
    """`info_nce` with its options kept: forward(query, positive_key, negative_keys=None)."""

    def __init__(self, temperature: Weight = 0.1, reduction: str = "mean", negative_mode: str = "unpaired"):
        super().__init__()
        self.temperature = temperature
        self.reduction = reduction
        self.negative_mode = negative_mode

    def forward(self, query: Tensor, positive_key: Tensor, negative_keys: Tensor | None = None) -> Tensor:
        options = self.temperature, self.reduction, self.negative_mode
        return info_nce(query, positive_key, negative_keys, *options)


def info_nce(
    query: Tensor,
    positive_key: Tensor,
    negative_keys: Tensor | None = None,
    temperature: Weight = 0.1,
    reduction: str = "mean",
    negative_mode: str = "unpaired",
) -> Tensor:
    """−log [e^{p_i} / (e^{p_i} + Σ_negatives e^{s_ij})], scores <x_i, y_j>/temperature of vectors made unit length.

    Minimise. Always normalises. The positive is in the denominator. Nats.
    query [N, D], positive_key [N, D]. negative_keys None: the other queries' keys; [M, D] if "unpaired": these alone,
    for all queries; [N, M, D] if "paired": query i's own. reduction "none" gives [N], "mean" and "sum" a scalar, in the
    dtype of the inputs. temperature: a number or a tensor of one element, which gets a gradient.

    Raises ValueError for wrong dimensions, sizes or reduction, as the peer does; also for a temperature of 0, an
    unknown negative_mode and the mean over N = 0 queries, where the peer gives NaN or fails otherwise.
    """
    _check(query, positive_key, negative_keys, negative_mode)
    validation.one_of("reduction", reduction, ("none", "mean", "sum"))
    scores = _scores(unit_vectors(query), unit_vectors(positive_key), negative_keys, inverse(temperature))
    return in_peer_dtype(scores.cross_entropy(reduction=reduction), query, positive_key)


def _scores(x: Tensor, positive: Tensor, negative_keys: Tensor | None, scale: Weight) -> Scores:
    if negative_keys is None:
        return DotScores(x, positive, scale)
    negatives = unit_vectors(negative_keys)
    if negatives.dim() == 2:
        return DotScores(x, negatives, scale, positive=positive)
    return GatheredScores(x, scale=scale, negatives=negatives, positive=positive)


def _check(query: Tensor, positive_key: Tensor, negative_keys: Tensor | None, negative_mode: str) -> None:
    sides = {"query": query, "positive_key": positive_key}
    for name, t in sides.items():
        if t.dim() != 2:
            raise ValueError(f"{name}: expected 2 dimensions [N, D], got shape {tuple(t.shape)}")
    rows = [("positive_key", positive_key)]
    if negative_keys is not None:
        validation.one_of("negative_mode", negative_mode, ("paired", "unpaired"))
        shape = "[N, M, D]" if negative_mode == "paired" else "[M, D]"
        if negative_keys.dim() != shape.count(",") + 1:
            came = tuple(negative_keys.shape)
            raise ValueError(
                f"negative_keys: expected {shape} where negative_mode is {negative_mode!r}, got shape {came}"
            )
        rows += [("negative_keys", negative_keys)] if negative_mode == "paired" else []
        sides["negative_keys"] = negative_keys
    for name, t in rows:
        if len(t) != len(query):
            raise ValueError(f"{name}: expected as many samples as query, {len(query)}, got {len(t)}")
    for name, t in sides.items():
        if t.shape[-1] != query.shape[-1]:
            raise ValueError(f"{name}: expected vectors of {query.shape[-1]} components like query, got {t.shape[-1]}")
