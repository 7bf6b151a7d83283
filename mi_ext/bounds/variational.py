"""Bounds by a mean over positives and a mean of exponentials over negatives."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import validation
from ..log_domain import constant_at_minus_infinity, log_add_exp, log_of, softplus
from ..preconditions import check_log_baseline, in_batch_size, log_negative_mass, mean, target_of_another_query
from ..scores import Scores, column_blocks, recomputed


def nwj(scores: Scores) -> Tensor:
    r"""Nguyen–Wainwright–Jordan: mean p − exp(T(−∞, 0) − log N⁻ − 1) = mean p − e^{−1} mean_neg e^s; [MIM] eq. 4.

    Nats, to maximise.
    """
    return scores.mean_less_exponential(-1 - log_negative_mass(scores))


def f_mine(scores: Scores) -> Tensor:
    """1 + mean p − exp(T(−∞, 0) − log N⁻): `nwj` with the critic shifted by 1; [ETA] eq. 3 and Table 1.

    Nats, to maximise.
    """
    return eta_dv(scores, 0.0)


def donsker_varadhan(
    scores: Scores, negatives: str = "offdiagonal", generator: torch.Generator | None = None
) -> Tensor:
    r"""Donsker–Varadhan: mean p − log mean e^s over the marginal; [ETA] eq. 2, [DIM] eq. 2.

    `negatives` says which pairs stand for the marginal:
    "offdiagonal": all negatives, mean p − (T(−∞, 0) − log N⁻);
    "all": positives too, mean p − (T(0, 0) − log(nK)), or log(n + N⁻) where rows differ;
    "shuffled": n pairs (x_i, positive of another query), by a random derangement from `generator` ([ETA] Algorithm 1);
    a ValueError for n < 2, for positives outside shared columns, and with labels or log-weights, which it cannot obey.
    Nats, to maximise.
    """
    validation.one_of("negatives", negatives, ("offdiagonal", "all", "shuffled"))
    s = scores.double()
    if negatives == "offdiagonal":
        log_mean, p = _log_mean_exp(s)
    elif negatives == "all":
        mass = s.n_queries + s.negative_mass
        log_mean = s.log_partition(reduction="lse") - log_of(mass)
        p = mean(s.positive)
    else:
        index = target_of_another_query(s, generator)
        log_mean = torch.logsumexp(s.shuffled(index), 0) - log_of(s.n_queries)
        p = mean(s.positive)
    return (p - log_mean).to(scores.dtype)


class DonskerVaradhanEMA(nn.Module):
    r"""Donsker–Varadhan with the unbiased-gradient correction: "unbiased DV-MINE" of [ETA] Table 1.

    The value is `donsker_varadhan(scores)`; the gradient is ∇mean p − ∇(mean_neg e^s) / EMA, in the log domain

        log_ema ← logaddexp(log momentum + log_ema, log(1 − momentum) + T(−∞, 0) − log N⁻)

    with the current batch included. `log_ema` is a 0-dim buffer, NaN before the first call, which sets it to the
    batch's own value; eval() leaves it as it is. ValueError unless 0 ≤ momentum < 1. Nats, to maximise.
    """

    log_ema: Tensor

    def __init__(self, momentum: float = 0.99):
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: expected a number in [0, 1), got {momentum}")
        self.momentum = momentum
        self.register_buffer("log_ema", torch.tensor(math.nan, dtype=torch.float64))

    def forward(self, scores: Scores) -> Tensor:
        log_mean, p = _log_mean_exp(scores)
        batch = log_mean.detach()
        validation.same_device("log_ema", self.log_ema, batch.device)
        log_ema = torch.where(self.log_ema.isnan(), batch, self.log_ema)
        if self.training:
            validation.one_problem("scores", batch, "DonskerVaradhanEMA keeps one moving average in train()")
            kept = math.log(self.momentum) if self.momentum > 0 else -math.inf
            log_ema = torch.logaddexp(kept + log_ema, math.log1p(-self.momentum) + batch)
            self.log_ema.copy_(log_ema)
        # ∇(mean e^s) / EMA = exp(log mean − log EMA) ∇ log mean; the second term is 0 and carries it.
        correction = (batch - log_ema).exp() * (log_mean - batch)
        return (p - batch - correction).to(scores.dtype)


def eta_dv(scores: Scores, eta: float | Tensor) -> Tensor:
    r"""η-DV: mean p − exp(T(−∞, 0) − log N⁻ − η) − η + 1; [ETA] eqs. 8 and 19.

    eta: a float or a 0-dim tensor, which gets a gradient. The maximum over η, at η = log mean_neg e^s, is
    `donsker_varadhan`; η = 0 is `f_mine`, and η = 1 is `nwj`. Nats, to maximise.
    """
    if isinstance(eta, Tensor) and eta.dim() != 0:
        raise ValueError(f"eta: expected a float or a 0-dim tensor, got {validation.describe(eta)}")
    s = scores.double()
    return (s.mean_less_exponential(-eta - log_negative_mass(s)) - eta + 1).to(scores.dtype)


def conditional_eta_dv(scores: Scores | Sequence[Scores], eta: Tensor) -> Tensor:
    r"""η-DV of the conditional information I(x; y | z): E_z of the η-DV at z with η(z); [ETA] eq. 28.

        E_z [ E_{p(x,y|z)} f − e^{−η(z)} E_{p(x|z) p(y|z)} e^f − η(z) + 1 ]

    Two ways to say what belongs to one z:
    scores: one source, whose row i has its own z_i and negatives drawn from p(y | z_i); eta [n] = η(z_i):
        mean_i [p_i − exp(negative_lse_i − log N_i − η_i) − η_i + 1], N_i negatives in row i, or Σ e^{v_j} over them;
    scores: a sequence, one source for each value of z; eta [Z], one for each:
        Σ_z (n_z/n) `eta_dv`(scores_z, η_z), z weighed by its share n_z/n of the queries.
    eta: differentiable. ValueError for another shape of eta, no queries, or a row (a source) without negatives.
    Nats, to maximise.
    """
    size = scores.n_queries if isinstance(scores, Scores) else len(scores)
    if not isinstance(eta, Tensor) or eta.shape != (size,):
        what = "query" if isinstance(scores, Scores) else "source"
        raise ValueError(f"eta: expected η(z), one for each {what}, shape ({size},), got {validation.describe(eta)}")
    if not isinstance(scores, Scores):
        n = sum(s.n_queries for s in scores)
        if n == 0:
            raise ValueError("scores: the mean over n = 0 queries is undefined; pass at least one query")
        parts = [s.n_queries / n * eta_dv(s.double(), e) for s, e in zip(scores, eta.double(), strict=True)]
        return torch.stack(parts).sum().to(scores[0].dtype)
    s, eta = scores.double(), eta.double()
    log_mass = s.log_row_mass.to(eta.device)
    if validation.readable(log_mass) and bool((log_mass == -math.inf).any()):
        raise ValueError("scores: a mean over 0 negatives is undefined; pass more candidates or exclude fewer")
    return mean(s.positive - (s.negative_lse - log_mass - eta).exp() - eta + 1).to(scores.dtype)


def tuba(scores: Scores, log_baseline: Tensor) -> Tensor:
    r"""TUBA, a-MINE: 1 + mean p − Σ_j (N_j/N⁻) [exp(C_j(−∞, 0) − log N_j − log a_j) + log a_j].

    log_baseline [m]: log a(y_j), differentiable. C_j is the log-sum-exp down column j over its N_j negatives; a column
    with none does not count; with log-weights N_j counts Σ e^{v_j}. [ETA] Table 1 and eq. 22 with η(y) = log a(y).
    ValueError for sources without shared columns. Nats, to maximise.
    """
    s = scores.double()
    column_lse, log_mass, log_total = s.column_negative_lse, s.log_column_mass, log_negative_mass(s)
    check_log_baseline(log_baseline, column_lse.numel())
    counts = log_mass > -math.inf
    log_a = torch.where(counts, log_baseline.double(), 0.0)
    means = torch.where(counts, column_lse - log_a, -math.inf) - log_total
    baselines = (log_mass - log_total).exp() * log_a
    return (1 + mean(s.positive) - means.exp().sum() - baselines.sum()).to(scores.dtype)


def interpolated(scores: Scores, alpha: float, log_baseline: Tensor) -> Tensor:
    r"""Poole's I_α between `tuba` (α = 0) and InfoNCE (α = 1, on n − 1 candidates down the columns).

        M_ij = log [1/(n−1) Σ_{k≠i} e^{s_kj}]                      (k = j, the positive, included)
        B_ij = logaddexp(log α + M_ij, log(1 − α) + log a(y_j))
        I_α  = 1 + mean_{i≠j}(p_j − B_ij) − mean_{i≠j} exp(s_ij − B_jj)

    The interpolated bound of [POOLE]. log_baseline [m] = log a(y_j), differentiable. Computed in blocks of columns,
    recomputed for the gradient: nothing n×m is kept. A graph has a fixed number of blocks: torch.compile traces another
    for more, torch.export takes a range of n up to 1024, one block. In-batch only: ValueError unless m = n ≥ 2,
    target = arange(n), no labels, no log-weights, 0 ≤ α ≤ 1. Nats, to maximise.
    """
    s = scores.double()
    n = in_batch_size(s)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: expected a number in [0, 1], got {alpha}")
    check_log_baseline(log_baseline, n)
    log_alpha, log_rest = log_of(float(alpha)), log_of(1.0 - alpha)

    def block(start: int, stop: int) -> Tensor:
        """Σ_j Σ_{i≠j} [p_j − B_ij − exp(s_ij − B_jj)]; over i ≠ j the exponentials sum to (n − 1) exp(M_jj − B_jj)."""
        columns = s.column_block(start, stop)
        leave_one_out = _leave_one_out_lse(columns) - log_of(n - 1)
        baseline = log_add_exp(log_alpha + leave_one_out, log_rest + log_baseline[start:stop].double())
        row = torch.arange(start, stop, device=baseline.device)
        own = row, row - start
        others = baseline.index_put(own, baseline.new_zeros(()))
        return (n - 1) * (columns[own] - (leave_one_out[own] - baseline[own]).exp()).sum() - others.sum()

    total = torch.stack([recomputed(block, start, stop) for start, stop in column_blocks(n, n)]).sum()
    return (1 + total / (n * (n - 1))).to(scores.dtype)


def jensen_shannon(scores: Scores, offset: bool = False) -> Tensor:
    r"""mean −softplus(−p) − mean_neg softplus(s); [DIM] eq. 4, positives left out of the marginal as in its code.

    It ranks like MI but is no estimate of it: with offset=True, + 2 log 2, it estimates 2·JSD(joint ‖ marginals).
    Nats, to maximise.
    """
    s = scores.double()
    log_negative_mass(s)
    negatives = s.negative_softplus_sum() / s.negative_mass
    value = -mean(softplus(-s.positive)) - negatives
    return (value + 2 * math.log(2) if offset else value).to(scores.dtype)


def smile(scores: Scores, tau: float | None = None) -> Tensor:
    r"""SMILE: the value mean p − log mean_neg e^{clamp(s, −τ, τ)} with the gradient of `jensen_shannon`; [SMILE].

    tau > 0 bounds the variance of the value; None gives that of `donsker_varadhan`. Positives are never clipped.
    Nats, to maximise.
    """
    if tau is not None and not tau > 0:
        raise ValueError(f"tau: expected a positive number, or None for no clipping, got {tau}")
    s = scores.double()
    surrogate, p = jensen_shannon(s), mean(s.positive).detach()
    with torch.no_grad():
        partition = s.log_partition(-math.inf, 0.0, reduction="lse") if tau is None else s.clipped_log_partition(tau)
        value = p - (partition - log_negative_mass(s))
    return (value + (surrogate - surrogate.detach())).to(scores.dtype)


def _log_mean_exp(scores: Scores) -> tuple[Tensor, Tensor]:
    """float64 (log mean_neg e^s = T(−∞, 0) − log N⁻, mean p)."""
    s = scores.double()
    log_total = log_negative_mass(s)
    return s.log_partition(-math.inf, 0.0, reduction="lse") - log_total, mean(s.positive)


def _leave_one_out_lse(block: Tensor) -> Tensor:
    """log Σ_{k≠i} e^{s_kj} as logaddexp of what is above and what is below: no difference, so no digit is lost."""
    block = constant_at_minus_infinity(block)
    edge = block.new_full((1, block.shape[1]), -math.inf)
    above = torch.cat([edge, torch.logcumsumexp(block, 0)[:-1]])
    below = torch.cat([torch.logcumsumexp(block.flip(0), 0).flip(0)[1:], edge])
    return log_add_exp(above, below)
