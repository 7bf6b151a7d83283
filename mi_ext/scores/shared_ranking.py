"""Ranks of several positives that share their negatives."""

import math

import torch
from torch import Tensor


class SharedRanking:
    """Ranks of L positives a row, and entropies of softmax(s) over the row's negatives, which come in blocks.

    positives [B, L]; negative_lse float64 [B]. A negative that is not below k of its row's positives is found by
    bisection among them and counted once, in bin k: O(log L) a negative, and nothing is kept of it. Scores are compared
    in float32, in which the products of equal vectors agree however a block of them was computed.
    """

    def __init__(self, positives: Tensor, negative_lse: Tensor):
        self._is_nan, self._negative_lse = positives.isnan(), negative_lse
        thresholds = positives.float().clamp_min(torch.finfo(torch.float32).min)  # so that −inf is below
        self._thresholds, self._order = thresholds.masked_fill(self._is_nan, math.inf).sort(1)
        rows, n_positives = positives.shape
        self._bins = torch.zeros(rows, n_positives + 1, dtype=torch.int64, device=positives.device)
        self._mass, self._entropy = torch.zeros_like(negative_lse), torch.zeros_like(negative_lse)

    def add(self, rows: slice, negatives: Tensor) -> None:
        """float64 [rows, any]: more negatives of these rows, −inf in the place of a score that is none."""
        bins = torch.searchsorted(self._thresholds[rows].contiguous(), negatives.float(), right=True)
        self._bins[rows].scatter_add_(1, bins, torch.ones_like(bins))
        weight = (negatives - self._negative_lse[rows, None]).exp()
        self._mass[rows] += weight.sum(1)
        self._entropy[rows] += torch.special.entr(weight).sum(1)

    def rank(self, n_negatives: int) -> Tensor:
        """int64 [B, L]; a NaN positive ranks last."""
        not_below = self._bins.flip(1).cumsum(1).flip(1)[:, 1:]
        return torch.empty_like(not_below).scatter(1, self._order, not_below).masked_fill(self._is_nan, n_negatives)

    def entropy(self) -> Tensor:
        """float64 [B], −inf without negatives."""
        entropy = self._entropy / self._mass + self._mass.log()  # the mass is 1, but for rounding of negative_lse
        return entropy.masked_fill(self._negative_lse == -math.inf, -math.inf)
