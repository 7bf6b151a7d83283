"""What every source of scores offers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from inspect import get_annotations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import validation
from ..log_domain import Weight, log_of, log_sum_exp, row_cross_entropy, row_log_partition, softplus
from ..ops.autograd import cast

if TYPE_CHECKING:
    from typing_extensions import Self

Statistics = tuple[Tensor, Tensor, Tensor | None]
Ranking = tuple[Tensor, Tensor, Tensor, Tensor]


class Scores(ABC):
    """Scores of n queries, each with one positive and its negatives: what a bound or a loss may ask for.

    Attributes: `n_queries`; `n_negatives` (K − 1) and `n_candidates` (K), an int where all rows agree, else int64 [n]
    (on a GPU always where labels or log-weights decide: to compare the rows it would have to be waited for); `dtype` of
    the results. Statistics are computed once, when first asked for, and kept with their graph: two backward passes
    through one object need retain_graph=True.
    """

    n_queries: int
    dtype: torch.dtype
    _kept: dict

    _attributes = tuple[str, ...]()

    def __init_subclass__(cls) -> None:
        # Annotations of the classes: torch.compile of torch 2.10 does not read the __dict__ of an object.
        cls._attributes = tuple(dict.fromkeys(name for base in cls.__mro__ for name in get_annotations(base)))

    def __init__(self, n_queries: int, dtype: torch.dtype):
        self.n_queries = n_queries
        self.dtype = torch.promote_types(dtype, torch.float32)
        self._kept = {}

    def double(self) -> "Self":
        """The same scores and statistics with float64 results, for sums in which large scores cancel."""
        view = object.__new__(type(self))  # copy.copy goes a longer way, which a small step feels
        for name in self._attributes if torch.compiler.is_compiling() else self.__dict__:
            setattr(view, name, getattr(self, name))
        view.dtype = torch.float64
        return view

    @property
    @abstractmethod
    def n_negatives(self) -> int | Tensor:
        """K − 1."""

    @property
    def n_candidates(self) -> int | Tensor:
        """K, the positive included."""
        return self.n_negatives + 1

    @property
    @abstractmethod
    def negative_mass(self) -> float | Tensor:
        """N⁻: the number of (query, negative) pairs, or Σ e^{v_j} over them when candidates carry log-weights."""

    @property
    @abstractmethod
    def log_negative_mass(self) -> float | Tensor:
        """log N⁻."""

    @property
    def log_row_mass(self) -> Tensor:
        """float64 () or [n]: log Σ_{j ∈ N_i} e^{v_j}, log(K − 1) when candidates carry no log-weights."""
        return self._log_row_mass()

    @property
    def positive(self) -> Tensor:
        """[n]: p_i."""
        return cast(self._positive(), self.dtype)

    @property
    def negative_lse(self) -> Tensor:
        """[n]: log Σ_{j ∈ N_i} exp(s_ij + v_j), −inf for a row without negatives."""
        return cast(self._statistics()[1], self.dtype)

    def cross_entropy(
        self, positive_log_weight: Weight = 0.0, negative_log_weight: Weight = 0.0, reduction: str = "mean"
    ) -> Tensor:
        """R_i(a, b) − p_i = a + softplus(b + negative_lse_i − p_i − a) with an exact softplus; in nats.

        a = `positive_log_weight`, b = `negative_log_weight`: floats or tensors, () or [n]. a = −inf takes the positive
        out of the denominator: b + negative_lse_i − p_i. `reduction`: "none" [n], "mean" or "sum"; the mean of 0
        queries is a ValueError.
        """
        validation.one_of("reduction", reduction, ("none", "mean", "sum"))
        a, b = self._log_weights(positive_log_weight, negative_log_weight)
        if reduction == "none":
            return cast(self._cross_entropy(a, b), self.dtype)
        self._check_mean(reduction)
        total = self._cross_entropy_sum(a, b)
        return cast(total / self.n_queries if reduction == "mean" else total, self.dtype)

    def log_partition(
        self, positive_log_weight: Weight = 0.0, negative_log_weight: Weight = 0.0, reduction: str = "none"
    ) -> Tensor:
        """R_i(a, b): "none" gives [n], "mean" its mean (a ValueError for 0 queries), "lse" T(a, b); in nats."""
        validation.one_of("reduction", reduction, ("none", "mean", "lse"))
        a, b = self._log_weights(positive_log_weight, negative_log_weight)
        if reduction == "lse":
            return cast(self._global_log_partition(a, b), self.dtype)
        self._check_mean(reduction)
        rows = self._row_log_partition(a, b)
        return cast(rows.mean() if reduction == "mean" else rows, self.dtype)

    def mean_less_exponential(self, b: Weight) -> Tensor:
        """mean p − exp(T(−∞, 0) + b)."""
        self._check_queries("scores")
        return cast(self._mean_less_exponential(b), self.dtype)

    @abstractmethod
    def negative_softplus_sum(self) -> Tensor:
        """Σ over negatives of e^{v_j} softplus(s_ij)."""

    def logistic_loss(self) -> Tensor:
        """1/n [Σ_i softplus(−p_i) + `negative_softplus_sum`]: logistic regression of match against non-match."""
        self._check_queries("scores")
        return cast(self._logistic_loss(), self.dtype)

    @abstractmethod
    def clipped_log_partition(self, tau: float) -> Tensor:
        """log Σ over negatives of exp(v_j + clamp(s_ij, −tau, tau)), without a gradient."""

    @property
    def column_negative_lse(self) -> Tensor:
        """[m]: log Σ_{i : j ∈ N_i} exp(s_ij + v_j), −inf for a column that is nobody's negative."""
        raise self._no_columns("column_negative_lse")

    @property
    def column_negatives(self) -> Tensor:
        """float64 [m]: number of queries of which candidate j is a negative."""
        raise self._no_columns("column_negatives")

    @property
    def log_column_mass(self) -> Tensor:
        """float64 [m]: log Σ_i e^{v_j} over the pairs counted by `column_negatives`."""
        raise self._no_columns("log_column_mass")

    def symmetric_cross_entropy(self) -> Tensor:
        """½ mean_i [softplus(negative_lse_i − p_i) + softplus(column_negative_lse_i − p_i)].

        Of n queries and n candidates that are each other's positives. ValueError for n = 0.
        """
        self._check_queries("scores")
        return cast(self._symmetric_cross_entropy(), self.dtype)

    def shuffled(self, index: Tensor) -> Tensor:
        """[n]: s_{i, index_i}, the score of query i with candidate index_i."""
        raise self._no_columns("shuffled")

    def column_block(self, start: int, stop: int) -> Tensor:
        """[n, stop − start]: scores of all queries with candidates start … stop − 1, positives included, without v."""
        raise self._no_columns("column_block")

    def ranking(self) -> tuple[Tensor, Tensor] | None:
        """(rank int64 [n], entropy [n]), detached; None for a source that cannot tell.

        rank_i = #{j ∈ N_i : s_ij ≥ p_i}: ties count against the positive, so that embeddings that are all alike rank
        last, not first (by a joint critic, where torch gives equal inputs equal first layers). Scores of −inf never
        count; v does not enter; a NaN p_i ranks last. entropy_i, in nats: of softmax_j(s_ij + v_j) over N_i; −inf
        without negatives. From one walk, which gives `log_partition` too.
        """
        with torch.no_grad():
            found = self._keep("ranking", self._compute_ranking)
            if found is None:
                return None
            positive, negative_lse, entropy, rank = found
            self._keep("statistics", lambda: (positive, negative_lse, None))
        return rank, entropy.to(self.dtype)

    def _compute_ranking(self) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """float64 positive [n], negative_lse [n], entropy [n], and rank int64 [n]; or None."""
        return None

    @abstractmethod
    def _statistics(self, columns: bool = False) -> Statistics:
        """float64 (positive [n], negative_lse [n], column_negative_lse [m] or None)."""

    def _positive(self) -> Tensor:
        return self._statistics()[0]

    def _log_row_mass(self) -> Tensor:
        k = self.n_negatives
        return k.double().log() if isinstance(k, Tensor) else torch.as_tensor(log_of(k), dtype=torch.float64)

    def _row_log_partition(self, a: Weight, b: Weight) -> Tensor:
        positive, negative_lse, _ = self._statistics()
        return row_log_partition(positive, negative_lse, a, b)

    def _cross_entropy(self, a: Weight, b: Weight) -> Tensor:
        positive, negative_lse, _ = self._statistics()
        return row_cross_entropy(positive, negative_lse, a, b)

    def _cross_entropy_sum(self, a: Weight, b: Weight) -> Tensor:
        return self._cross_entropy(a, b).sum()

    def _global_log_partition(self, a: Weight, b: Weight) -> Tensor:
        return log_sum_exp(self._row_log_partition(a, b))

    def _mean_less_exponential(self, b: Weight) -> Tensor:
        exponential = (self._global_log_partition(-math.inf, 0.0) + b).exp()  # before the positives, which come with it
        return self._positive().mean() - exponential

    def _logistic_loss(self) -> Tensor:
        s = self.double()
        return (softplus(-s.positive).sum() + s.negative_softplus_sum()) / self.n_queries

    def _symmetric_cross_entropy(self) -> Tensor:
        s = self.double()
        columns = s.column_negative_lse  # before the rows', which come with them
        return softplus(torch.stack([s.negative_lse, columns]) - s.positive).mean()

    def _keep(self, name: str, compute: Callable[[], Any]) -> Any:
        """The value of `compute()`, once for each setting of grad mode: a value without a graph serves no_grad only."""
        key = (name, torch.is_grad_enabled())
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    def _has(self, name: str) -> bool:
        return (name, torch.is_grad_enabled()) in self._kept

    def _log_weights(self, a: Weight, b: Weight) -> tuple[Weight, Weight]:
        n = self.n_queries
        return validation.log_weight("positive_log_weight", a, n), validation.log_weight("negative_log_weight", b, n)

    def _check_mean(self, reduction: str) -> None:
        if reduction == "mean":
            self._check_queries("reduction")

    def _check_queries(self, name: str) -> None:
        if self.n_queries == 0:
            raise ValueError(f"{name}: the mean over n = 0 queries is undefined; pass at least one query")

    def _no_columns(self, what: str) -> ValueError:
        name = type(self).__name__
        return ValueError(f"{what}: {name} has no columns shared by its queries; use DotScores or DenseScores")
