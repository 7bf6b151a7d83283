"""Global features of images against local features of all images: the queries of an image share its negatives.

One query for each (image i, own position l), B·L in all: its positive is local (i, l), its negatives are the (B − 1) L
locals of all other images; the image's other locals are not among them.

    p_il = f(g_i, c_il)        lse_i = log Σ_{k ≠ i} Σ_l exp f(g_i, c_kl), the same for all L queries of image i
"""

import inspect
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .. import validation
from ..log_domain import Weight, log_add_exp, log_of, log_sum_exp, softplus
from .blocks import column_blocks
from .dot import DotScores
from .shared_ranking import SharedRanking
from .source import Ranking, Scores, Statistics


class LocalGlobalScores(Scores):
    """Scores f(g, c), queries in the order of images, then positions; sums over other images are taken once an image.

    global_features [B, d]; local_features [B, L, d] or a map [B, d, M, M], L = M². f is the product <g, c>: one walk
    of B globals over B·L locals. Or `critic`, a module critic(x, y, target, labels) → Scores: one call of it, in which
    labels leave the own image out, and B small ones for the positives. A critic without labels is called for the
    2 (B − 1) rectangles of `_rectangles` instead. TypeError or ValueError by argument.
    """

    n_images: int
    n_locals: int
    _globals: Tensor
    _locals: Tensor
    _critic: Callable[..., Scores] | None
    _parts: list

    def __init__(self, global_features: Tensor, local_features: Tensor, critic: Callable[..., Scores] | None = None):
        local_features = positions_as_rows(global_features, local_features)
        self.n_images, self.n_locals, width = local_features.shape
        if critic is None and width != global_features.shape[1]:
            d = global_features.shape[1]
            raise ValueError(f"local_features: expected the width of global_features, d = {d}, got {width}")
        super().__init__(
            self.n_images * self.n_locals, torch.promote_types(global_features.dtype, local_features.dtype)
        )
        self._globals, self._locals, self._critic = global_features, local_features, critic
        self._parts = list(self._all_at_once() if _takes_labels(critic) else self._by_rectangles())

    @property
    def n_negatives(self) -> int:
        return max(self.n_images - 1, 0) * self.n_locals

    @property
    def negative_mass(self) -> float:
        return 1.0 * self.n_queries * self.n_negatives

    @property
    def log_negative_mass(self) -> Weight:
        return log_of(self.negative_mass)

    def negative_softplus_sum(self) -> Tensor:
        total = sum((part.softplus_sum() for part in self._parts), start=self._constant(0.0))
        return (self.n_locals * total).to(self.dtype)

    def clipped_log_partition(self, tau: float) -> Tensor:
        with torch.no_grad():
            parts = [self._constant(-math.inf), *(part.clipped_log_partition(tau) for part in self._parts)]
            return (log_of(self.n_locals) + log_sum_exp(torch.stack(parts))).to(self.dtype)

    def _positive(self) -> Tensor:
        return self._keep("own", self._own_scores).flatten()

    def _statistics(self, columns: bool = False) -> Statistics:
        return self._keep("statistics", self._compute_statistics)

    def _compute_statistics(self) -> Statistics:
        lse = self._keep("lse", self._others_lse)
        return self._positive(), lse.repeat_interleave(self.n_locals), None

    def _others_lse(self) -> Tensor:
        """float64 [B]: lse_i."""
        none = self._constant(-math.inf).expand(1, self.n_images)
        return log_sum_exp(torch.cat([none, *(part.lse(self.n_images) for part in self._parts)]))

    def _global_log_partition(self, a: Weight, b: Weight) -> Tensor:
        """Without positives in it T needs the parts' own T only, which may come with its gradient."""
        if isinstance(a, Tensor) or a != -math.inf or isinstance(b, Tensor):
            return super()._global_log_partition(a, b)
        parts = [self._constant(-math.inf), *(part.log_partition() for part in self._parts)]
        return b + log_of(self.n_locals) + log_sum_exp(torch.stack(parts))

    def _compute_ranking(self) -> Ranking | None:
        """From blocks of columns; where these hold the positives too, they are taken from there, so that ties are."""
        lse = self._keep("lse", self._others_lse)
        whole = next((part for part in self._parts if part.has_own_images), None)
        own = self._keep("own", self._own_scores) if whole is None else whole.own_scores(self.n_locals)
        ranking = SharedRanking(own.view(self.n_images, self.n_locals), lse)
        for part in self._parts:
            for rows, image, s in part.blocks(self.n_locals):
                row = torch.arange(rows.start, rows.stop, device=s.device)
                ranking.add(rows, s.masked_fill(row[:, None] == image, -math.inf))
        positive, negative_lse, _ = self._compute_statistics()
        entropy = ranking.entropy().repeat_interleave(self.n_locals)
        return positive, negative_lse, entropy, ranking.rank(self.n_negatives).flatten()

    def _own_scores(self) -> Tensor:
        """float64 [B, L]: p_il."""
        if self._critic is None:
            return torch.bmm(self._locals.double(), self._globals.double()[:, :, None]).squeeze(2)
        own = (self._score(_Span(i, i + 1), _Span(i, i + 1)) for i in range(self.n_images))
        none = self._constant(0.0).expand(0, self.n_locals)
        return torch.cat([none, *(scores.double().column_block(0, self.n_locals) for scores in own)])

    def _all_at_once(self) -> Iterator["_Part"]:
        image = torch.arange(self.n_images, device=self._globals.device)
        own_first = image * self.n_locals  # the target, a local that its label leaves out anyway
        labels = image, image.repeat_interleave(self.n_locals)
        score = DotScores if self._critic is None else self._critic
        scores = score(self._globals, self._locals.flatten(0, 1), target=own_first, labels=labels)
        everything = _Span(0, self.n_images)
        yield _Part(everything, everything, scores, -math.inf)

    def _by_rectangles(self) -> Iterator["_Part"]:
        return (_Part(r, images, self._score(r, images), 0.0) for r, images in _rectangles(0, self.n_images))

    def _score(self, rows: "_Span", images: "_Span") -> Scores:
        """Of some globals with all locals of some images, the first of them in the place of the positive."""
        x = self._globals[rows.start : rows.stop]
        first = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        assert self._critic is not None  # a product takes labels, and is walked over at once
        return self._critic(x, self._locals[images.start : images.stop].flatten(0, 1), target=first)

    def _constant(self, value: float) -> Tensor:
        return torch.full((), value, dtype=torch.float64, device=self._globals.device)


class _Span(NamedTuple):
    """Images start … stop − 1. No slice: torch.compile takes its ends for constants."""

    start: int
    stop: int


class _Part(NamedTuple):
    """Globals of the images `rows`, locals of `images`: the negatives of `scores`, and its positives where a = 0."""

    rows: _Span
    images: _Span
    scores: Scores
    a: float

    @property
    def has_own_images(self) -> bool:
        return self.rows == self.images

    def lse(self, n_images: int) -> Tensor:
        """[1, B]: log-sum-exps over this part's negatives, −inf in rows that it does not have."""
        rows = self.scores.double().log_partition(self.a)
        around = self.rows.start, n_images - self.rows.start - rows.shape[0]
        return torch.nn.functional.pad(rows[None], around, value=-math.inf)

    def log_partition(self) -> Tensor:
        return self.scores.double().log_partition(self.a, reduction="lse")

    def blocks(self, n_locals: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """(rows, the image of each column, float64 scores) by blocks of columns."""
        n = self.rows.stop - self.rows.start
        for start, stop in column_blocks(n, (self.images.stop - self.images.start) * n_locals):
            s = self.scores.double().column_block(start, stop)
            yield slice(*self.rows), self.images.start + torch.arange(start, stop, device=s.device) // n_locals, s

    def own_scores(self, n_locals: int) -> Tensor:
        """float64 [B·L]: those of each image with its own locals, where rows and images are all images."""
        own = [s[image, torch.arange(len(image), device=s.device)] for _, image, s in self.blocks(n_locals)]
        return torch.cat(own) if own else self.scores.double().positive

    def softplus_sum(self) -> Tensor:
        scores = self.scores.double()
        negatives = scores.negative_softplus_sum()
        return negatives + softplus(scores.positive).sum() if self.a == 0 else negatives

    def clipped_log_partition(self, tau: float) -> Tensor:
        scores = self.scores.double()
        negatives = scores.clipped_log_partition(tau)
        return log_add_exp(negatives, log_sum_exp(scores.positive.clamp(-tau, tau))) if self.a == 0 else negatives


def _takes_labels(critic: Callable[..., Scores] | None) -> bool:
    if critic is None:
        return True
    parameters = inspect.signature(getattr(critic, "forward", critic)).parameters
    return "labels" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _rectangles(start: int, stop: int) -> Iterator[tuple[_Span, _Span]]:
    """(rows, images): halves against halves, within halves again; together each pair of different images once."""
    if stop - start < 2:
        return
    middle = (start + stop) // 2
    low, high = _Span(start, middle), _Span(middle, stop)
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
    if rows.shape[0] != global_features.shape[0] or rows.shape[1] == 0:
        expected = f"one set of at least one local for each of {global_features.shape[0]} images"
        raise ValueError(f"local_features: expected {expected}, got shape {tuple(local_features.shape)}")
    return rows
