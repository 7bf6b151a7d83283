r"""Bounds that decompose mutual information over sub-views of x: each exceeds log K by asking in steps.

    I(x', x''; y) = I(x''; y) + I(x'; y | x'')

The conditional term is InfoNCE with negatives from p(y | x''). These are not drawn: negatives from p(y) are weighted
with w_k = softmax_k(s''_k), self-normalised importance sampling, in one walk over the candidates ([DEMI] eq. 9). That
is exact as K grows; with few candidates the weights rest on fewer still, hard negatives are missing, and the estimate
may exceed the truth.
"""

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor

from .. import validation
from ..preconditions import mean_log_candidates, with_queries
from ..scores import SharedColumnScores, added, importance_cross_entropy_sum
from .contrastive import infonce


def importance_infonce(s1: SharedColumnScores, s2: SharedColumnScores, detach_weights: bool = True) -> Tensor:
    r"""Conditional InfoNCE by importance sampling, an estimate of I(x'; y | x''), at most log K; [DEMI] eq. 9 and B.1.

        log K + mean(p' − logaddexp(p', log(K−1) + LSE_k(s''_k + s'_k) − LSE_k(s''_k)))

    s1: the scores s' of x'; s2: the scores s'' of x'', with the same candidates and positives; LSEs over negatives
    only. A constant s'' gives `infonce` exactly. detach_weights=True gives s'' no gradient: Prop. 3 of [DEMI] holds the
    weights fixed; False lets it flow, as in the paper's pseudo-code.

    Candidate log-weights v enter each LSE once, and Σ e^{v_k} replaces K − 1: the weights are softmax(s'' + v). Two
    `DotScores` on one y tensor take one walk for everything; on two different tensors, embeddings of the same
    candidates by two critics, three walks. TypeError unless both are `DotScores` or both `DenseScores`; ValueError
    where pairs, positives or exclusions differ, and for n = 0 queries. Nats, to maximise.
    """
    with_queries(s1, "importance_infonce")
    total, _ = importance_cross_entropy_sum(s1, s2, (0.0, 0.0, 1.0), detach_weights)
    return (mean_log_candidates(s1) - total / s1.n_queries).to(s1.dtype)


@overload
def decomposed_infonce(
    s1: SharedColumnScores, s2: SharedColumnScores, lam: float, detach_weights: bool = ...
) -> Tensor: ...


@overload
def decomposed_infonce(
    s1: SharedColumnScores, s2: SharedColumnScores, lam: float, detach_weights: bool = ..., return_terms: bool = ...
) -> Any: ...


def decomposed_infonce(
    s1: SharedColumnScores,
    s2: SharedColumnScores,
    lam: float,
    detach_weights: bool = True,
    return_terms: bool = False,
) -> Any:
    r"""λ I_NCE(x'; y) + (1 − λ) (I_NCE(x''; y) + I_IS(x'; y | x'')); [DEMI] eqs. 5 and 10.

    I_IS is `importance_infonce`. The sum of the last two may exceed log K, up to 2 log K; the whole at most
    (2 − λ) log K. s1, s2, detach_weights and errors as `importance_infonce`; ValueError unless 0 ≤ lam ≤ 1.
    All three partitions come from one walk. return_terms=True returns (value, {"first": I_NCE(x'; y),
    "second": I_NCE(x''; y), "conditional": I_IS(x'; y | x'')}), the terms detached. Nats, to maximise.
    """
    if isinstance(lam, Tensor) or not 0 <= lam <= 1:
        raise ValueError(f"lam: expected a number in [0, 1], got {validation.describe(lam)}")
    with_queries(s1, "decomposed_infonce")
    n, log_k = s1.n_queries, mean_log_candidates(s1)
    total, terms = importance_cross_entropy_sum(s1, s2, (lam, 1.0 - lam, 1.0 - lam), detach_weights)
    value = ((2 - lam) * log_k - total / n).to(s1.dtype)
    if not return_terms:
        return value
    estimates = (log_k - terms / n).to(s1.dtype)
    return value, dict(zip(("first", "second", "conditional"), estimates, strict=True))


@overload
def chained_infonce(scores: Sequence[SharedColumnScores], detach_weights: bool = ...) -> Tensor: ...


@overload
def chained_infonce(
    scores: Sequence[SharedColumnScores], detach_weights: bool = ..., return_terms: bool = ...
) -> Any: ...


def chained_infonce(
    scores: Sequence[SharedColumnScores], detach_weights: bool = True, return_terms: bool = False
) -> Any:
    r"""The chain rule over N sub-views, I_NCE(x¹; y) + Σ_{k=2}^N I_IS(x^k; y | x^{<k}); at most N log K; [DEMI] 5, 9.

        I(x¹, …, x^N; y) = I(x¹; y) + Σ_k I(x^k; y | x¹, …, x^{k−1})

    scores: s¹, …, s^N, one source a sub-view, in the order in which they are told, all on the same candidates and
    positives. s¹ is a critic of x¹ and y; s^k one of what x^k says beyond those before it, log p(y | x^{≤k})/p(y |
    x^{<k}) at best, so that the weights of term k are softmax(s¹ + … + s^{k−1}). N = 1 is `infonce`; N = 2 is
    `decomposed_infonce(scores[1], scores[0], 0)`. Every term takes one walk for `DotScores` on one y tensor.
    return_terms=True returns (value, list of the N terms, detached). Errors as `importance_infonce`; ValueError for an
    empty sequence. Nats, to maximise.
    """
    if len(scores) == 0:
        raise ValueError("scores: expected the scores of at least one sub-view, got an empty sequence")
    told, terms = scores[0], [infonce(scores[0].double())]
    for s in scores[1:]:
        terms.append(importance_infonce(s.double(), told, detach_weights))
        told = added(told, s)
    value = torch.stack(terms).sum().to(scores[0].dtype)
    return (value, [t.detach().to(scores[0].dtype) for t in terms]) if return_terms else value
