"""Bounds on conditional mutual information I(x'; y | x''): each query has negatives of its own."""

from typing import Any, overload

import torch
from torch import Tensor

from ..negatives import resample
from ..ops.indexing import rows_at
from ..preconditions import mean
from ..scores import GatheredScores, Scores, SharedColumnScores
from .contrastive import infonce


def conditional_infonce(scores: Scores) -> Tensor:
    r"""log K + mean(p − R(0, 0)) ≤ log K with negatives y_k ~ p(y | x''_i) for each query; [DEMI] eq. 6.

    A bound on I(x'; y | x'') if the negatives of query i are drawn given its x'': `GatheredScores`(x', negatives=
    [n, K−1, d] or a bank and an index, positive=y). The arithmetic is that of `infonce`, which it is if the negatives
    are drawn from p(y). Nats, to maximise.
    """
    return infonce(scores)


@overload
def variational_infonce(scores: Scores, kl: Tensor) -> Tensor: ...


@overload
def variational_infonce(scores: Scores, kl: Tensor, return_terms: bool = ...) -> Any: ...


def variational_infonce(scores: Scores, kl: Tensor, return_terms: bool = False) -> Any:
    r"""`conditional_infonce` with negatives y_k ~ τ(y | x''_i) minus mean KL(p(y | x''_i) ‖ τ); [DEMI] eq. 7.

    kl: the divergence of each query, [n] or 0-dim, in nats, from the caller, who knows τ; differentiable. With
    return_terms=True (value, {"conditional": the first term, "kl": the mean divergence}). Nats, to maximise.
    """
    if not isinstance(kl, Tensor) or kl.shape not in ((), (scores.n_queries,)):
        came = tuple(kl.shape) if isinstance(kl, Tensor) else repr(kl)
        raise ValueError(f"kl: expected a tensor () or [n] = ({scores.n_queries},), got {came}")
    conditional, divergence = conditional_infonce(scores), mean(kl).to(scores.dtype)
    value = conditional - divergence
    return (value, {"conditional": conditional, "kl": divergence}) if return_terms else value


def sir_infonce(
    scores2: SharedColumnScores,
    x1: Tensor,
    y: Tensor,
    num_samples: int,
    generator: torch.Generator | None = None,
    *,
    scale: float | Tensor = 1.0,
    bias: float | Tensor | None = None,
    positive: Tensor | None = None,
) -> Tensor:
    r"""`conditional_infonce` with negatives resampled from a bank by importance; [DEMI] eq. 8.

    scores2: s'' of x'' [n] with the bank y [m, d]. For each query, num_samples = K − 1 negatives are drawn from y with
    replacement, w_k = softmax_k s''_k over its negatives, the positive left out (`negatives.resample`): for m → ∞ draws
    from p(y | x''). The bound is then taken on s'_ik = scale · <x1_i, y_ik> + bias, x1 [n, d] the embeddings of x'.
    The positives are y[target] of scores2, or `positive` [n, d] where scores2 has its positives beside the bank. No
    gradient reaches scores2; x1, y, positive, scale and bias get theirs. Nats, to maximise.
    """
    index = resample(scores2, num_samples, generator)
    if y.shape[:1] != (scores2.exclusions.m,):
        raise ValueError(f"y: expected the bank of scores2, {scores2.exclusions.m} rows, got shape {tuple(y.shape)}")
    target = scores2.target
    if target is not None and positive is None:
        positive = rows_at(y, target)
    elif target is not None or positive is None:
        expected = "the positives [n, d]" if target is None else "none, since scores2 has targets"
        raise ValueError(f"positive: expected {expected}")
    return conditional_infonce(GatheredScores(x1, y, index, scale, bias, positive=positive))
