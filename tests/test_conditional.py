"""η-DV of conditional mutual information: groups, rows, errors."""

import math

import pytest
import torch
from score_matrices import close, matrix

from mi_ext import DenseScores, DotScores, bounds

INF = math.inf
N, M = 6, 9


def test_conditional_eta_dv_of_groups():
    groups = [DenseScores(matrix(n, seed=n)) for n in (3, 4, 7)]
    eta = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64).requires_grad_()
    value = bounds.conditional_eta_dv(groups, eta)
    close(value, sum(s.n_queries * bounds.eta_dv(s, e) for s, e in zip(groups, eta, strict=True)) / 14)
    best = torch.stack([s.log_partition(-INF, 0.0, "lse") - s.log_negative_mass for s in groups])
    highest = sum(s.n_queries * bounds.donsker_varadhan(s) for s in groups) / 14
    close(bounds.conditional_eta_dv(groups, best), highest)
    assert torch.autograd.grad(value, eta)[0].isfinite().all() and value < highest


def test_conditional_eta_dv_of_rows():
    """Equal η: the η-DV of all; η_i = log of the row's mean: mean of p − log mean, row by row."""
    s = DenseScores(matrix(N, M))
    close(bounds.conditional_eta_dv(s, torch.full((N,), 0.3, dtype=torch.float64)), bounds.eta_dv(s, 0.3))
    best = s.negative_lse - math.log(M - 1)
    close(bounds.conditional_eta_dv(s, best), (s.positive - best).mean())
    x, y = matrix(N, 4), matrix(M, 4, seed=1)
    weighted = DotScores(x, y, candidate_log_weight=torch.full((M,), 0.7, dtype=torch.float64))
    close(bounds.conditional_eta_dv(weighted, best), bounds.conditional_eta_dv(DotScores(x, y), best))


def test_conditional_eta_dv_errors():
    s = DenseScores(matrix(N, M))
    for scores, eta, message in [
        (s, torch.zeros(N - 1), "one for each query, shape"),
        (s, 0.5, "one for each query, shape"),
        ([s, s], torch.zeros(3), "one for each source, shape"),
        ([], torch.zeros(0), "n = 0 queries"),
        (DenseScores(matrix(3)[:0]), torch.zeros(0), "n = 0 queries"),
        (DenseScores(matrix(1)), torch.zeros(1), "0 negatives"),
    ]:
        with pytest.raises(ValueError, match=message):
            bounds.conditional_eta_dv(scores, eta)
