r"""Bounds on mutual information: each takes scores and returns an estimate in nats, 0-dim, to **maximise**.

    p_i              score of query i with its positive; K candidates a query, the positive counted; n queries
    lse_i            log-sum-exp over the negatives of query i
    R_i(a, b)        logaddexp(p_i + a, b + lse_i); T(a, b) = log Σ_i exp R_i(a, b)
    N⁻               number of (query, negative) pairs, Σ e^{v_j} over them when candidates carry log-weights v
    mean_neg         mean over all those pairs

Papers: [DEMI] Decomposing Mutual Information for Representation Learning; [MIM] On Mutual Information Maximization for
Representation Learning; [ETA] Improved Mutual Information Estimation; [MLC] Multi-label Contrastive Predictive Coding;
[DIM] Learning deep representations by mutual information estimation and maximization; [POOLE] On Variational Bounds of
Mutual Information; [SMILE] Understanding the Limitations of Variational Mutual Information Estimators.

Every function raises ValueError for n = 0 queries, and those with a mean over negatives for no negatives at all.
"""

from .conditional import conditional_infonce, sir_infonce, variational_infonce
from .contrastive import alpha_cpc, alpha_schedule, infonce, ml_cpc, ml_cpc_min_alpha
from .decomposed import chained_infonce, decomposed_infonce, importance_infonce
from .eta import eta_dv_convex, sobolev_penalty
from .variational import (
    DonskerVaradhanEMA,
    conditional_eta_dv,
    donsker_varadhan,
    eta_dv,
    f_mine,
    interpolated,
    jensen_shannon,
    nwj,
    smile,
    tuba,
)

__all__ = [
    "DonskerVaradhanEMA",
    "alpha_cpc",
    "alpha_schedule",
    "chained_infonce",
    "conditional_eta_dv",
    "conditional_infonce",
    "decomposed_infonce",
    "donsker_varadhan",
    "eta_dv",
    "eta_dv_convex",
    "f_mine",
    "importance_infonce",
    "infonce",
    "interpolated",
    "jensen_shannon",
    "ml_cpc",
    "ml_cpc_min_alpha",
    "nwj",
    "sir_infonce",
    "smile",
    "sobolev_penalty",
    "tuba",
    "variational_infonce",
]
