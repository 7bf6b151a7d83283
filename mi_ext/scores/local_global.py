"""Global features of images against local features of all images: the queries of an image share its negatives.

One query for each (image i, own position l), B·L in all: its positive is local (i, l), its negatives are the (B − 1) L
locals of all other images; the image's other locals are not among them.

    p_il = f(g_i, c_il)        lse_i = log Σ_{k ≠ i} Σ_l exp f(g_i, c_kl), the same for all L queries of image i
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .. import validation
from ..log_domain import log_add_exp, log_sum_exp, softplus
from .dot import DotScores
from .source import Scores


class LocalGlobalScores(Scores):
    """What the sources below share: statistics over other images are computed once an image, not once a query."""

    def __init__(self, n_images: int, n_locals: int, dtype: torch.dtype):
        super().__init__(n_images * n_locals, dtype)
        self.n_images, self.n_locals = n_images, n_locals

    @property
    def n_negatives(self) -> int:
        return max(self.n_images - 1, 0) * self.n_locals

    @property
    def negative_mass(self) -> float:
        return float(self.n_queries * self.n_negatives)

    @property
    def log_negative_mass(self) -> float:
        return math.log(self.negative_mass) if self.negative_mass > 0 else -math.inf

    def negative_softplus_sum(self) -> Tensor:
        return (self.n_locals * self._others_softplus_sum()).to(self.dtype)

    def clipped_log_partition(self, tau: float) -> Tensor:
        with torch.no_grad():
            return (math.log(self.n_locals) + self._others_clipped_log_partition(tau)).to(self.dtype)

    def _positive(self) -> Tensor:
        return self._keep("own", self._own_scores).flatten()

    def _statistics(self, columns: bool = False):
        lse = self._keep("lse", self._others_lse)
        return self._positive(), lse.repeat_interleave(self.n_locals), None

    @abstractmethod
    def _own_scores(self) -> Tensor:
        """float64 [B, L]: p_il."""

    @abstractmethod
    def _others_lse(self) -> Tensor:
        """float64 [B]: lse_i."""

    @abstractmethod
    def _others_softplus_sum(self) -> Tensor:
        """Σ_i Σ_{k ≠ i} Σ_l softplus f(g_i, c_kl), in float64."""

    @abstractmethod
    def _others_clipped_log_partition(self, tau: float) -> Tensor:
        """log Σ_i Σ_{k ≠ i} Σ_l exp clamp(f(g_i, c_kl), −τ, τ), in float64."""


class DotLocalGlobalScores(LocalGlobalScores):
    """f(g, c) = <g, c>: one walk of B globals over all B·L locals, own image left out by its label.

    global_features [B, d]; local_features [B, L, d] or a map [B, d, M, M], L = M². TypeError or ValueError by argument.
    """

    def __init__(self, global_features: Tensor, local_features: Tensor):
        local_features = positions_as_rows(global_features, local_features)
        validation.same_width("local_features", local_features.flatten(0, 1), global_features)
        n, n_locals, _ = local_features.shape
        image = torch.arange(n, device=global_features.device)
        labels = image, image.repeat_interleave(n_locals)
        own_first = image * n_locals  # an own local, excluded as they all are
        self._others = DotScores(global_features, local_features.flatten(0, 1), target=own_first, labels=labels)
        super().__init__(n, n_locals, self._others.dtype)
        self._features = global_features, local_features

    def _own_scores(self) -> Tensor:
        g, c = (t.double() for t in self._features)
        return torch.bmm(c, g[:, :, None]).squeeze(2)

    def _others_lse(self) -> Tensor:
        return self._others.double().negative_lse

    def _others_softplus_sum(self) -> Tensor:
        return self._others.double().negative_softplus_sum()

    def _others_clipped_log_partition(self, tau: float) -> Tensor:
        return self._others.double().clipped_log_partition(tau)

    def _global_log_partition(self, a, b) -> Tensor:
        if isinstance(a, Tensor) or a != -math.inf or isinstance(b, Tensor):
            return super()._global_log_partition(a, b)
        return math.log(self.n_locals) + self._others.double().log_partition(a, b, reduction="lse")


class CriticLocalGlobalScores(LocalGlobalScores):
    """f = `critic(x, y, target)`, any module of `mi_ext.critics`, which need not know what to leave out.

    The pairs of different images are 2 (B − 1) rectangles, halves against halves within halves: in each of them every
    score is a negative. Arguments and errors as `DotLocalGlobalScores`; widths are for the critic to check.
    """

    def __init__(self, critic: Callable[..., Scores], global_features: Tensor, local_features: Tensor):
        local_features = positions_as_rows(global_features, local_features)
        n, n_locals, _ = local_features.shape

        def score(rows: slice, images: slice) -> Scores:
            x = global_features[rows]
            first = torch.zeros(len(x), dtype=torch.int64, device=x.device)
            return critic(x, local_features[images].flatten(0, 1), first)

        self._own = [score(slice(i, i + 1), slice(i, i + 1)) for i in range(n)]
        self._rectangles = [(rows.start, score(rows, images)) for rows, images in _rectangles(0, n)]
        parts = self._own + [scores for _, scores in self._rectangles]
        super().__init__(n, n_locals, parts[0].dtype if parts else global_features.dtype)

    def _own_scores(self) -> Tensor:
        if not self._own:
            return torch.empty(0, self.n_locals, dtype=torch.float64)
        return torch.cat([scores.double().column_block(0, self.n_locals) for scores in self._own])

    def _others_lse(self) -> Tensor:
        lse = torch.full((1, self.n_images), -math.inf, dtype=torch.float64)
        return log_sum_exp(torch.cat([lse, *(self._in_place(*part) for part in self._rectangles)]))

    def _in_place(self, start: int, scores: Scores) -> Tensor:
        """[1, B]: a rectangle's log-partitions in its rows, −inf in the others."""
        rows = scores.double().log_partition()
        around = (start, self.n_images - start - len(rows))
        return torch.nn.functional.pad(rows[None], around, value=-math.inf)

    def _others_softplus_sum(self) -> Tensor:
        sums = [s.negative_softplus_sum() + softplus(s.positive).sum() for s in self._doubles()]
        return torch.stack(sums).sum() if sums else torch.zeros((), dtype=torch.float64)

    def _others_clipped_log_partition(self, tau: float) -> Tensor:
        parts = [
            log_add_exp(s.clipped_log_partition(tau), log_sum_exp(s.positive.clamp(-tau, tau))) for s in self._doubles()
        ]
        return log_sum_exp(torch.stack(parts)) if parts else torch.full((), -math.inf, dtype=torch.float64)

    def _doubles(self) -> Iterator[Scores]:
        return (scores.double() for _, scores in self._rectangles)


def _rectangles(start: int, stop: int) -> Iterator[tuple[slice, slice]]:
    """(rows, images) that together hold each pair of different numbers in [start, stop) once."""
    if stop - start < 2:
        return
    middle = (start + stop) // 2
    low, high = slice(start, middle), slice(middle, stop)
    yield low, high
    yield high, low
    yield from _rectangles(start, middle)
    yield from _rectangles(middle, stop)


def positions_as_rows(global_features: Tensor, local_features: Tensor) -> Tensor:
    """[B, L, d] of [B, L, d] or of a map [B, d, M, M], L = M²; an error unless B is that of the globals."""
    validation.floating_matrix("global_features", global_features, "[B, d]")
    shapes = "[B, L, d] or [B, d, M, M]"
    if not isinstance(local_features, Tensor) or not local_features.is_floating_point():
        came = validation.describe(local_features)
        raise TypeError(f"local_features: expected a floating-point tensor {shapes}, got {came}")
    if local_features.dim() not in (3, 4):
        raise ValueError(f"local_features: expected {shapes}, got shape {tuple(local_features.shape)}")
    rows = local_features if local_features.dim() == 3 else local_features.flatten(2).mT
    if len(rows) != len(global_features) or rows.shape[1] == 0:
        expected = f"one set of at least one local for each of {len(global_features)} images"
        raise ValueError(f"local_features: expected {expected}, got shape {tuple(local_features.shape)}")
    return rows
