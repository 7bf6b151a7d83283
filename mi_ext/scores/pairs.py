"""Two sources of scores for the same pairs of queries and candidates: their sum, and their importance partitions.

s'_ij = s1, s''_ij = s2     row i and column j mean the same in both, and so do positives and exclusions
"""

from typing import Any, cast

import torch
from torch import Tensor

from .. import validation
from ..log_domain import log_weighted_mean, row_cross_entropy
from .dense import DenseScores
from .dot import DotScores
from .shared_columns import SharedColumnScores


def added(s1: SharedColumnScores, s2: SharedColumnScores) -> SharedColumnScores:
    """The scores s'_ij + s''_ij, again a source of the same kind. Errors as `check_same_pairs`."""
    check_same_pairs(s1, s2)
    return cast(Any, s1).plus(s2)  # of two kinds that can be added


def importance_cross_entropy_sum(
    s1: SharedColumnScores, s2: SharedColumnScores, weights: tuple[float, float, float], detach_weights: bool
) -> tuple[Tensor, Tensor]:
    """float64 (Σ_k w_k T_k, (T_1, T_2, T_3) detached [3]) with the sums over rows

        T_1 = Σ softplus(a' − p'),   T_2 = Σ softplus(a'' − p''),   T_3 = Σ softplus(log M + a* − a'' − p')

    a', a'', a* = log-sum-exps of s' + v, s'' + v, s' + s'' + v over the negatives; M_i = Σ_{j ∈ N_i} e^{v_j}, K − 1
    without v: T_3 is the cross-entropy with M_i times the mean of e^{s'} under the weights softmax(s'' + v), without a
    gradient to s'' if detach_weights. One walk over the candidates for two `DotScores` on the same y. Errors as
    `check_same_pairs`.
    """
    check_same_pairs(s1, s2)
    if isinstance(s1, DotScores) and isinstance(s2, DotScores) and s1.fuses_with(s2):
        return s1.fused_importance(s2, weights, detach_weights)
    s1, s2 = s1.double(), s2.double()
    constant = cast(Any, s2).detached() if detach_weights else s2
    log_mean = log_weighted_mean(cast(Any, s1).plus(constant).double().negative_lse, constant.double().negative_lse)
    rows = (
        s1.cross_entropy(reduction="none"),
        s2.cross_entropy(reduction="none"),
        row_cross_entropy(s1.positive, log_mean, 0.0, s1.log_row_mass),
    )
    terms = torch.stack([row.sum() for row in rows])
    return sum(w * t for w, t in zip(weights, terms, strict=True) if w != 0), terms.detach()


def check_same_pairs(s1: SharedColumnScores, s2: SharedColumnScores) -> None:
    """TypeError or ValueError, by name, unless both are of one kind, with the same pairs, positives and exclusions."""
    if not any(isinstance(s1, kind) and isinstance(s2, kind) for kind in (DotScores, DenseScores)):
        names = f"{type(s1).__name__} and {type(s2).__name__}"
        raise TypeError(f"s1, s2: expected both as DotScores or both as DenseScores, got {names}")
    e1, e2 = s1.exclusions, s2.exclusions
    if (e1.n, e1.m) != (e2.n, e2.m):
        raise ValueError(f"s2: expected the {e1.n} queries and {e1.m} candidates of s1, got {e2.n} and {e2.m}")
    if (e1.target is None) != (e2.target is None):
        raise ValueError("s1, s2: expected positives among the candidates in both, or positive= in both")
    described = "target", "labels of x", "labels of y", "candidate_log_weight"
    for name, t1, t2 in zip(described, e1.tensors, e2.tensors, strict=True):
        if not _agree(t1, t2):
            raise ValueError(f"s2: expected the {name} of s1, got another; build both on the same pairs")


def _agree(a: Tensor | None, b: Tensor | None) -> bool:
    """Equal, as far as can be seen while tracing."""
    if a is None or b is None:
        return a is b
    return a is b or not (validation.readable(a) and validation.readable(b)) or torch.equal(a, b)
