"""What a bound asks of its scores, and the errors that say so."""

import torch
from torch import Tensor

from . import validation
from .log_domain import log_of
from .scores import Scores, SharedColumnScores


def mean(t: Tensor) -> Tensor:
    """The mean over queries, of which there must be one."""
    if t.numel() == 0:
        raise ValueError("scores: the mean over n = 0 queries is undefined; pass at least one query")
    return t.mean()


def with_queries(scores: Scores, bound: str) -> None:
    """n ≥ 1."""
    if scores.n_queries == 0:
        raise ValueError(f"scores: {bound} needs n ≥ 1 queries, got n = 0")


def mean_log_candidates(scores: Scores) -> float | Tensor:
    """mean log K_i, log K where all rows agree."""
    k = scores.n_candidates
    return k.double().log().mean() if isinstance(k, Tensor) else log_of(k)


def log_negative_mass(scores: Scores) -> float | Tensor:
    """log N⁻, where N⁻ > 0."""
    mass, log_mass = scores.negative_mass, scores.log_negative_mass
    if isinstance(mass, Tensor):
        is_empty = isinstance(log_mass, Tensor) and validation.readable(log_mass) and bool(log_mass == -torch.inf)
    else:
        is_empty = mass == 0
    if is_empty:
        raise ValueError("scores: a mean over 0 negatives is undefined; pass more candidates or exclude fewer")
    return log_mass


def candidates(scores: Scores, bound: str) -> int:
    """K ≥ 2, the same in every row, for n ≥ 1 queries."""
    with_queries(scores, bound)
    n_candidates = scores.n_candidates
    if isinstance(n_candidates, Tensor):
        validation.one_problem("scores", n_candidates, f"{bound} needs the number of candidates K of each row at once")
        low, high = int(n_candidates.min()), int(n_candidates.max())  # waits for a GPU: the formula needs the number
        if low != high:
            raise ValueError(
                f"scores: {bound} needs the same number of candidates K in every row, got {low} to {high} (labels or "
                "−inf log-weights remove negatives unevenly); use infonce"
            )
        n_candidates = low
    if n_candidates < 2:
        raise ValueError(f"scores: {bound} needs K ≥ 2 candidates, got K = {n_candidates}; pass at least one negative")
    return n_candidates


def target_of_another_query(scores: Scores, generator: torch.Generator | None) -> Tensor:
    """[n]: the positive's column of the next query in a random cycle, which has no fixed point."""
    if not isinstance(scores, SharedColumnScores) or scores.target is None:
        name = type(scores).__name__
        raise ValueError(f"negatives: 'shuffled' needs positives among shared columns, and {name} has none here")
    if not scores.exclusions.uniform:
        raise ValueError("negatives: 'shuffled' cannot honour labels or candidate_log_weight; use 'offdiagonal'")
    n, target = scores.n_queries, scores.target
    if n < 2:
        raise ValueError(f"negatives: 'shuffled' needs at least two queries, got {n}")
    device = target.device if generator is None else generator.device
    cycle = torch.randperm(n, generator=generator, device=device).to(target.device)
    other = torch.empty_like(cycle)
    other[cycle] = cycle.roll(1)
    return target[other]


def check_log_baseline(log_baseline: Tensor, m: int) -> None:
    if not isinstance(log_baseline, Tensor) or log_baseline.shape != (m,):
        came = validation.describe(log_baseline)
        raise ValueError(f"log_baseline: expected log a(y_j), one for each of {m} candidates, shape ({m},), got {came}")


def in_batch_size(scores: Scores) -> int:
    """n, for scores with m = n ≥ 2, target = arange(n), and every other pair a negative."""
    exclusions = getattr(scores, "exclusions", None)
    if exclusions is None or exclusions.target is None:
        name = type(scores).__name__
        raise ValueError(f"scores: interpolated needs in-batch scores, positives among the columns, unlike {name} here")
    n, target = exclusions.n, exclusions.target
    if exclusions.m != n or n < 2:
        raise ValueError(f"scores: interpolated needs n = m ≥ 2, got n = {n} queries and m = {exclusions.m} candidates")
    if not exclusions.uniform:
        raise ValueError("scores: interpolated takes no labels and no candidate_log_weight")
    validation.one_problem("scores", target, "interpolated needs target = arange(n)")
    if validation.readable(target) and not torch.equal(target, torch.arange(n, device=target.device)):
        raise ValueError("scores: interpolated needs target = arange(n), the positive of query i being candidate i")
    return n
