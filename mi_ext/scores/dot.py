"""`DotScores`: products of embeddings, reduced tile by tile."""

from typing import Any

import torch
from torch import Tensor

from .. import ops, reference, validation
from ..log_domain import Weight, free_of
from ..ops.autograd import asks_for_gradient, cast
from .blocks import column_blocks, recomputed
from .exclusions import Exclusions
from .shared_columns import SharedColumnScores
from .source import Ranking, Statistics


class DotScores(SharedColumnScores):
    """s_ij = scale · <x_i, y_j> + bias, reduced tile by tile: no n×m matrix is ever stored.

    x [n, d]; y [m, d]; mixed floating dtypes are promoted. The positives are, in this order of preference:
    `positive` [n, d], one vector for each query beside the candidates (a queue, a memory bank): K = m + 1;
    `target` int64 [n], so that y[target_i] is the positive of query i and the other m − 1 its negatives: K = m;
    by default target = arange(n), which needs m ≥ n.

    scale: finite and not 0 (it may be negative), 1/temperature; bias: finite; each a float or a 0-dim tensor, which
    gets a gradient. labels: (labels of x [n], labels of y [m]), integers; the same label means never a negative, but
    the positive always stays. candidate_log_weight v [m]: added to the scores of negatives only; −inf removes column j
    as a negative; it gets a gradient if it requires one.

    Raises TypeError or ValueError naming the argument; giving both `target` and `positive` is an error.
    """

    x: Tensor
    y: Tensor
    scale: Weight
    bias: Weight
    _given_candidates: Tensor
    _given_positive: Any  # Tensor or None

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        scale: Weight = 1.0,
        bias: Weight | None = None,
        target: Tensor | None = None,
        *,
        positive: Tensor | None = None,
        labels: tuple[Tensor, Tensor] | None = None,
        candidate_log_weight: Tensor | None = None,
    ):
        validation.no_compiled_vmap()
        validation.floating_matrix("x", x)
        validation.floating_matrix("y", y, "[m, d]")
        validation.same_width("y", y, x)
        validation.scalar("scale", scale, non_zero=True)
        validation.scalar("bias", 0.0 if bias is None else bias)
        validation.log_weight_per_candidate(candidate_log_weight, y.shape[0], x)
        n, m = x.shape[0], y.shape[0]
        dtype = torch.promote_types(x.dtype, y.dtype)
        if positive is None:
            target = validation.target_or_default(target, n, m, x)
        else:
            validation.external_positive(positive, target, x)
            dtype = torch.promote_types(dtype, positive.dtype)
        pair = validation.label_pair(labels, n, m, x)
        x_label, y_label = (None if t is None else validation.distinct(t, target) for t in pair)
        super().__init__(Exclusions(n, m, x.device, target, x_label, y_label, candidate_log_weight), dtype)
        self.x, self.y = cast(x, dtype), cast(validation.distinct(y, x), dtype)
        self.scale = scale if isinstance(scale, Tensor) else float(scale)
        self.bias = 0.0 if bias is None else bias.double() if isinstance(bias, Tensor) else float(bias)
        self._given_candidates, self._given_positive = y, positive

    def negative_softplus_sum(self) -> Tensor:
        log_weight = self.exclusions.candidate_log_weight
        if asks_for_gradient(log_weight):
            return self._softplus_by_columns().to(self.dtype)
        total, positive = ops.dot_softplus_sum(self.x, self.y, self.scale, self.bias, self.exclusions.tensors)
        if positive is not None:
            self._keep("positive", lambda: positive)
        return cast(total, self.dtype)

    def clipped_log_partition(self, tau: float) -> Tensor:
        with torch.no_grad():
            sides = self.x, self.y, self.scale, self.bias
            return ops.dot_clipped_log_partition(*sides, self.exclusions.tensors, tau).to(self.dtype)

    def shuffled(self, index: Tensor) -> Tensor:
        self._check_index(index)
        return (self._row_scores(self.y[index]) + self.bias).to(self.dtype)

    def column_block(self, start: int, stop: int) -> Tensor:
        y = self.y[start:stop].to(self.dtype)
        return (self.scale * (self.x.to(self.dtype) @ y.T) + self.bias).to(self.dtype)

    def plus(self, other: "DotScores") -> "DotScores":
        """On the same y, <scale1 x1_i + scale2 x2_i, y_j>; else [scale1 x1_i, scale2 x2_i] times [y1_j, y2_j]."""
        wide = torch.promote_types(self.x.dtype, torch.float32)
        x1, x2 = self.scale * self.x.to(wide), other.scale * other.x.to(wide)
        positives = self._given_positive, other._given_positive
        bias = self.bias + other.bias
        if self._shares_vectors(other):
            return self._on_same_pairs(x1 + x2, self._given_candidates, 1.0, bias, positives[0])
        positive = None if positives[0] is None else torch.cat([t.to(wide) for t in positives], 1)
        y = torch.cat([self.y.to(wide), other.y.to(wide)], 1)
        return self._on_same_pairs(torch.cat([x1, x2], 1), y, 1.0, bias, positive)

    def detached(self) -> "DotScores":
        given: tuple[Any, ...] = self.x, self._given_candidates, self.scale, self.bias, self._given_positive
        return self._on_same_pairs(*(t.detach() if isinstance(t, Tensor) else t for t in given))

    def fuses_with(self, other: "DotScores") -> bool:
        """One walk serves both: the same vectors of the candidates, and no gradient to their log-weights."""
        log_weight = self.exclusions.candidate_log_weight
        asked = asks_for_gradient(log_weight)
        return self._given_candidates is other._given_candidates and not asked

    def fused_importance(
        self, other: "DotScores", weights: tuple[float, float, float], detach_weights: bool
    ) -> tuple[Tensor, Tensor]:
        """`pairs.importance_cross_entropy_sum`; biases cancel in every term."""
        dtype = torch.promote_types(self.x.dtype, other.x.dtype)
        external = None if self.target is not None else (self._external_positive(), other._external_positive())
        log_mass = self.log_row_mass.detach().expand(self.x.shape[0]).contiguous()
        x1, x2 = self.x.to(dtype), other.x.to(dtype)
        y = validation.distinct(validation.distinct(self._given_candidates.to(dtype), x1), x2)
        sides = x1, validation.distinct(x2, x1), y, self.scale, other.scale, self.exclusions.tensors
        total, terms = ops.importance_cross_entropy_sum(*sides, external, log_mass, weights, detach_weights)
        return free_of(total, self.bias, other.bias), terms

    def _log_row_mass(self) -> Tensor:
        """With log-weights: the log-partition of scores that are all 0."""
        if self.exclusions.candidate_log_weight is None:
            return super()._log_row_mass()
        x, y = (self.x.new_zeros(size, 1) for size in (self.x.shape[0], self.y.shape[0]))
        return self._keep("log row mass", lambda: ops.dot_statistics(x, y, 1.0, self.exclusions.tensors)[1])

    def _shares_vectors(self, other: "DotScores") -> bool:
        same_candidates = self._given_candidates is other._given_candidates
        return same_candidates and self._given_positive is other._given_positive

    def _on_same_pairs(self, x: Tensor, y: Tensor, scale: Weight, bias: Weight, positive: Tensor | None) -> "DotScores":
        e = self.exclusions
        labels = None if e.x_label is None or e.y_label is None else (e.x_label, e.y_label)
        v = e.candidate_log_weight
        return DotScores(x, y, scale, bias, e.target, positive=positive, labels=labels, candidate_log_weight=v)

    def _compute_ranking(self) -> Ranking | None:
        given = None if self._given_positive is None else self._given_positive.to(self.x.dtype)
        results = ops.dot_ranking(self.x, self.y, self.scale, self.exclusions.tensors, given)
        with torch.no_grad():
            positive = results[0] if given is None else self._external_positive()
            return self._biased(positive), self._biased(results[1]), *results[2:]

    def _positive(self) -> Tensor:
        if self._given_positive is not None:
            return self._biased(self._external_positive())
        if self._has("positive") and not self._has_statistics():
            return self._keep("positive", self._statistics)  # kept already, by a fused reduction
        return self._statistics()[0]

    def _compute_statistics(self, columns: bool) -> Statistics:
        positive, lse, column_lse = ops.dot_statistics(self.x, self.y, self.scale, self.exclusions.tensors, columns)
        if self._given_positive is not None:
            positive = self._external_positive()
        return self._biased(positive), self._biased(lse), None if column_lse is None else self._biased(column_lse)

    def _cross_entropy_sum(self, a: Any, b: Any) -> Tensor:
        if not self._fuses(a, b):
            return super()._cross_entropy_sum(a, b)
        tensors, b = self._as_log_weight(b)
        total = ops.dot_cross_entropy_sum(self.x, self.y, self.scale, tensors, self._external_positive(), a, b)
        return free_of(total, self.bias)

    def _global_log_partition(self, a: Any, b: Any) -> Tensor:
        if not self._fuses(a, b):
            return super()._global_log_partition(a, b)
        tensors, b = self._as_log_weight(b)
        value, positive = ops.dot_log_partition(self.x, self.y, self.scale, tensors, self._external_positive(), a, b)
        if positive is not None:
            self._keep("positive", lambda: self._biased(positive))
        return self._biased(value)

    def _mean_less_exponential(self, b: Weight) -> Tensor:
        if self.target is None or isinstance(b, Tensor) or isinstance(self.bias, Tensor) or self._has_statistics():
            return super()._mean_less_exponential(b)
        sides = self.x, self.y, self.scale, self.exclusions.tensors
        return self._biased(ops.dot_mean_less_exponential(*sides, b + self.bias))

    def _logistic_loss(self) -> Tensor:
        if self.target is None or asks_for_gradient(self.exclusions.candidate_log_weight):
            return super()._logistic_loss()
        return ops.dot_logistic_loss(self.x, self.y, self.scale, self.bias, self.exclusions.tensors)

    def _symmetric_cross_entropy(self) -> Tensor:
        if self.target is None or isinstance(self.bias, Tensor) or self._has_statistics():
            return super()._symmetric_cross_entropy()
        return ops.dot_symmetric_cross_entropy(self.x, self.y, self.scale, self.exclusions.tensors)

    def _fuses(self, a: Weight, b: Weight) -> bool:
        """One pass gives value and gradient: for constant log-weights, unless the statistics are already there."""
        varies = isinstance(b, Tensor) and (b.dim() > 0 or asks_for_gradient(b))
        return not (isinstance(a, Tensor) or varies or self._has_statistics())

    def _as_log_weight(self, b: Weight) -> tuple[reference.Exclusion, float]:
        """A constant b that is a tensor, such as one of a size that a graph is traced for, as part of every v_j."""
        if not isinstance(b, Tensor):
            return self.exclusions.tensors, b
        target, x_label, y_label, v = self.exclusions.tensors
        b = b.to(self.x.device)
        return (target, x_label, y_label, b.expand(self.y.shape[0]) if v is None else v + b), 0.0

    def _external_positive(self) -> Any:
        """float64 [n]: scale · <x_i, positive_i>, without the bias; or None."""
        if self._given_positive is None:
            return None
        return self._keep("external positive", lambda: self._row_scores(self._given_positive))

    def _biased(self, t: Any) -> Any:
        """t + bias; most scores have none."""
        return t if isinstance(self.bias, float) and self.bias == 0 else t + self.bias

    def _row_scores(self, other: Tensor) -> Tensor:
        return self.scale * (self.x.double() * other.double()).sum(1)

    def _softplus_by_columns(self) -> Tensor:
        """Σ e^{v_j} softplus(s_ij) with a gradient to v: dense blocks of columns, recomputed in the backward pass."""
        target, x_label, y_label, log_weight = self.exclusions.tensors

        def block(start: int, stop: int) -> Tensor:
            labels = (None, None) if y_label is None else (x_label, y_label[start:stop])
            here = (
                None if target is None else target - start,
                *labels,
                None if log_weight is None else log_weight[start:stop],
            )
            return reference.softplus_sum(self.column_block(start, stop).double(), here)

        blocks = column_blocks(self.x.shape[0], self.y.shape[0])
        none = torch.zeros((), dtype=torch.float64, device=self.x.device)
        return sum((recomputed(block, start, stop) for start, stop in blocks), start=none)
