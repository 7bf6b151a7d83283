"""Bounds by classification: the positive among K candidates."""

import math
import warnings

import torch
from torch import Tensor

from ..log_domain import log_of
from ..preconditions import candidates, mean, mean_log_candidates
from ..scores import Scores


def infonce(scores: Scores) -> Tensor:
    r"""InfoNCE: log K + mean(p − R(0, 0)) ≤ log K.

    $I_\mathrm{NCE} = \mathbb{E}\big[\log \frac{e^{p_i}}{\frac1K \sum_k e^{s_{ik}}}\big]$: [MLC] eq. 2, [MIM] eq. 3,
    [DEMI] eq. 2. Rows with different numbers of candidates take mean log K_i. Nats, to maximise.
    """
    cross_entropy = scores.double().cross_entropy()
    return (mean_log_candidates(scores) - cross_entropy).to(scores.dtype)


def alpha_cpc(scores: Scores, alpha: float) -> Tensor:
    r"""α-CPC: log K + mean(p − R(log α, log β)), β = (K − α)/(K − 1); at most log(K/α).

    [MLC] eq. 5. A lower bound on MI for α ≥ 1 only. ValueError unless 0 < α < K, and where K < 2 or rows differ in K.
    Nats, to maximise.
    """
    s = scores.double()
    n_candidates = candidates(s, "alpha_cpc")
    a, b = _alpha_weights(alpha, n_candidates)
    return (log_of(n_candidates) - s.cross_entropy(a, b)).to(scores.dtype)


def ml_cpc(scores: Scores, alpha: float) -> Tensor:
    r"""Multi-label CPC: log(nK) + mean p − T(log α, log β), β = (K − α)/(K − 1); at most log(K/α).

    [MLC] eq. 7. One softmax over all nK scores: ∂/∂s = 1/n on positives minus that (weighted) softmax. A lower bound on
    MI if and only if α ∈ [`ml_cpc_min_alpha(n, K)`, 1], with a UserWarning outside. ValueError unless 0 < α < K, and
    where K < 2 or rows differ in K. Nats, to maximise.
    """
    s = scores.double()
    n, n_candidates = s.n_queries, candidates(s, "ml_cpc")
    a, b = _alpha_weights(alpha, n_candidates)
    low = ml_cpc_min_alpha(n, n_candidates)
    if _is_known(low) and not low * (1 - 1e-9) <= alpha <= 1 + 1e-9:
        warnings.warn(f"ml_cpc is a lower bound on MI only for alpha in [{low:.7g}, 1], got {alpha:.7g}", stacklevel=2)
    partition = s.log_partition(a, b, reduction="lse")
    return (log_of(n * n_candidates) + mean(s.positive) - partition).to(scores.dtype)


def ml_cpc_min_alpha(n: int, n_candidates: int) -> float:
    """The smallest α for which `ml_cpc` is a bound, K / (n(K − 1) + 1); there its cap is log(n(K − 1) + 1). [MLC]."""
    return n_candidates / (n * (n_candidates - 1) + 1)


def alpha_schedule(epoch: float, epochs: float, start: float = 10.0, end: float = 0.1) -> float:
    """α_e = exp((ln start − ln end)(1 − e/E) + ln end): geometric, from `start` at e = 0 to `end` at e = E; [MLC]."""
    if start <= 0 or end <= 0 or epochs <= 0:
        raise ValueError(f"start, end, epochs: expected positive numbers, got {start}, {end}, {epochs}")
    return end * (start / end) ** (1 - epoch / epochs)


def _alpha_weights(alpha: float, n_candidates: int) -> tuple[float, float | Tensor]:
    """(log α, log β) with β = (K − α)/(K − 1)."""
    if not 0 < alpha < n_candidates:
        raise ValueError(f"alpha: expected a number in (0, K) with K = {n_candidates} candidates, got {alpha}")
    beta = (n_candidates - alpha) / (n_candidates - 1)
    return math.log(alpha), math.log(beta) if _is_known(n_candidates) else log_of(beta)


def _is_known(size: float) -> bool:
    """False where a compiled graph leaves a size open."""
    if not torch.compiler.is_compiling():
        return True
    from torch.fx.experimental.symbolic_shapes import has_static_value  # here, since it takes long to import

    return has_static_value(size)
