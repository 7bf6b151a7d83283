"""sentence-transformers (6.2): the multiple negatives ranking loss.

from mi_ext.dropin.sentence_transformers import MultipleNegativesRankingLoss
"""

import logging
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..distributed import gather
from ..log_domain import log_sum_exp, row_cross_entropy
from ..losses.base import Labels, unit_vectors
from ..scores import DotScores, column_blocks

_DIRECTIONS = "query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"
_HARDNESS_MODES = None, "in_batch_negatives", "hard_negatives", "all_negatives"
_WITH_POSITIVE = "query_to_doc", "doc_to_query"


def cos_sim(a: Tensor, b: Tensor) -> Tensor:
    """[n, m]: cosines of rows."""
    return dot_score(unit_vectors(_wide(a)), unit_vectors(_wide(b)))


def dot_score(a: Tensor, b: Tensor) -> Tensor:
    """[n, m]: products of rows."""
    return _wide(a) @ _wide(b).T


class MultipleNegativesRankingLoss(nn.Module):
    """Mean over queries i of log Z_i − s(q_i, d_i), s = scale · similarity: InfoNCE of queries and their documents.

    Z_i sums e^s over all directions ("joint"), or log Z_i is the mean of one log-sum-exp for each ("per_direction"):
        query_to_doc     q_i with all documents: d_i, hard negatives and documents of other queries
        query_to_query   q_i with the other queries
        doc_to_query     d_i with all queries, its own among them
        doc_to_doc       d_i with all documents of other queries
    The positive is in the denominator, once each in query_to_doc and doc_to_query. A hardness_mode adds
    hardness_strength · similarity, without a gradient, to scores of query_to_doc: of the documents of other queries
    ("in_batch_negatives"), of the query's own hard negatives ("hard_negatives"), or of both ("all_negatives").

    Minimise; nats. similarity_fct: `cos_sim`, the default, which normalises, and `dot_score`, here or the package's,
    are streamed; any other callable (a, b) → [n, m] whose entries depend on one row of each is given blocks of about
    2^20 pairs, made again in the backward pass. No n×m matrix is kept in any case. Results are at least float32.
    gather_across_devices: queries and documents of all ranks, with gradients, are candidates of this rank's queries;
    batches may differ in size, unlike the package's.

    forward(sentence_features, labels): model(features)["sentence_embedding"] for each column, then
    compute_loss_from_embeddings([queries, documents, hard negatives…], labels), each [n, d]; labels are not used.
    ValueError for what is not among the options, and for a single column.
    """

    def __init__(
        self,
        model: nn.Module,
        scale: float = 20.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = cos_sim,
        gather_across_devices: bool = False,
        directions: tuple[str, ...] = ("query_to_doc",),
        partition_mode: str = "joint",
        hardness_mode: str | None = None,
        hardness_strength: float = 0.0,
    ) -> None:
        super().__init__()
        _check(scale, directions, partition_mode, hardness_mode, hardness_strength)
        self.model = model
        self.scale = scale
        self.similarity_fct = similarity_fct
        self.gather_across_devices = gather_across_devices
        self.directions = tuple(directions)
        self.partition_mode = partition_mode
        self.hardness_mode = hardness_mode
        self.hardness_strength = hardness_strength
        if hardness_mode is not None and hardness_strength == 0:
            logging.getLogger(__name__).warning("hardness_mode: has no effect while hardness_strength is 0")

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        embeddings = [self.model(features)["sentence_embedding"] for features in sentence_features]
        return self.compute_loss_from_embeddings(embeddings, labels)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        if len(embeddings) < 2:
            raise ValueError(f"embeddings: expected queries and documents, got {len(embeddings)} column")
        own = torch.arange(len(embeddings[0]), device=embeddings[0].device)
        if self.gather_across_devices:
            gathered = [gather(t) for t in embeddings]
            embeddings, own = [t for t, _ in gathered], own + gathered[0][1]
        normalises = _product(self.similarity_fct)
        if normalises is None:
            positive, negatives = self._by_blocks(own, *embeddings)
        else:
            embeddings = [unit_vectors(_wide(t)) if normalises else _wide(t) for t in embeddings]
            if self.directions == ("query_to_doc",) and not self._weighted_negatives():
                return DotScores(embeddings[0][own], torch.cat(embeddings[1:]), self.scale, target=own).cross_entropy()
            positive, negatives = self._by_products(own, *embeddings)
        return self._rows(positive, negatives).mean().to(torch.promote_types(embeddings[0].dtype, torch.float32))

    def get_config_dict(self) -> dict:
        function = self.similarity_fct
        return {
            "scale": self.scale,
            "similarity_fct": getattr(function, "__name__", type(function).__name__),
            "gather_across_devices": self.gather_across_devices,
            "directions": self.directions,
            "partition_mode": self.partition_mode,
            "hardness_mode": self.hardness_mode,
            "hardness_strength": self.hardness_strength,
        }

    @property
    def temperature(self) -> float:
        return 1.0 / self.scale

    @property
    def citation(self) -> str:
        """BibTeX, for model cards."""
        return (
            "@misc{oord2018representation,\n"
            "    title={Representation Learning with Contrastive Predictive Coding},\n"
            "    author={Aaron van den Oord and Yazhe Li and Oriol Vinyals},\n"
            "    year={2018},\n"
            "    eprint={1807.03748},\n"
            "    archivePrefix={arXiv},\n"
            "}"
        )

    def _rows(self, positive: Tensor, negatives: dict[str, Tensor]) -> Tensor:
        """[n]: log Z_i − p_i from the log-sum-exp over the negatives of each direction."""
        if self.partition_mode == "joint":
            log_times = math.log(sum(direction in _WITH_POSITIVE for direction in negatives))
            return row_cross_entropy(positive, log_sum_exp(torch.stack(list(negatives.values()))), log_times, 0.0)
        return torch.stack([row_cross_entropy(positive, t, 0.0, 0.0) for t in negatives.values()]).mean(0)

    def _weighted_negatives(self) -> set[str]:
        """Which negatives of query_to_doc get more weight: documents of "others", the query's "own", both or none."""
        if self.hardness_mode is None or self.hardness_strength == 0:
            return set()
        return {"in_batch_negatives": {"others"}, "hard_negatives": {"own"}}.get(self.hardness_mode, {"others", "own"})

    def _by_products(self, own: Tensor, queries: Tensor, *columns: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """float64 (positive [n], {direction: log-sum-exp over its negatives [n]})."""
        q, d, documents = queries[own], columns[0][own], torch.cat(columns)
        of_own_query = own, torch.arange(len(queries), device=own.device).repeat(len(columns))

        def negative_lse(x: Tensor, y: Tensor, labels: Labels = None) -> Tensor:
            return DotScores(x, y, self.scale, target=own, labels=labels).double().negative_lse

        negatives = {"query_to_doc": self._query_to_doc(q, documents, own, of_own_query, columns, negative_lse)}
        if "query_to_query" in self.directions:
            negatives["query_to_query"] = negative_lse(q, queries)
        if "doc_to_query" in self.directions:
            negatives["doc_to_query"] = negative_lse(d, queries)
        if "doc_to_doc" in self.directions:
            negatives["doc_to_doc"] = negative_lse(d, documents, of_own_query)
        return self.scale * (q.double() * d.double()).sum(1), negatives

    def _query_to_doc(
        self,
        q: Tensor,
        documents: Tensor,
        own: Tensor,
        of_own_query: tuple[Tensor, Tensor],
        columns: tuple[Tensor, ...],
        negative_lse: Callable[..., Tensor],
    ) -> Tensor:
        """With weighted negatives in two parts: the others, and the own ones one by one.

        scale <q, d> + strength <q, d>, the latter constant, is the product of [q, strength/scale q] and [d, d].
        """
        weighted = self._weighted_negatives()
        if not weighted:
            return negative_lse(q, documents)
        x, y = q, documents
        if "others" in weighted:
            x = torch.cat([q, self.hardness_strength / self.scale * q.detach()], 1)
            y = torch.cat([documents, documents.detach()], 1)
        parts = [negative_lse(x, y, of_own_query)]
        for column in columns[1:]:
            s = (q.double() * column[own].double()).sum(1)
            parts.append(self.scale * s + (self.hardness_strength * s.detach() if "own" in weighted else 0))
        return log_sum_exp(torch.stack(parts))

    def _by_blocks(self, own: Tensor, queries: Tensor, *columns: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """As `_by_products`, for any similarity: dense, some queries at a time."""
        documents, f = torch.cat(columns), self.similarity_fct
        place = torch.arange(len(documents), device=own.device)
        weighted = self._weighted_negatives()
        names = [name for name in _DIRECTIONS if name in self.directions]

        def block(own: Tensor) -> Tensor:
            q, d = queries[own], columns[0][own]
            similarity = f(q, documents)
            same_query = place % len(queries) == own[:, None]
            is_positive = place == own[:, None]
            itself = is_positive[:, : len(queries)]
            more = same_query & ("own" in weighted) | ~same_query & ("others" in weighted)
            logits = self.scale * similarity + self.hardness_strength * torch.where(more, similarity.detach(), 0)
            scores = {
                "query_to_doc": lambda: (logits, is_positive),
                "query_to_query": lambda: (self.scale * f(q, queries), itself),
                "doc_to_query": lambda: (self.scale * f(queries, d).T, itself),
                "doc_to_doc": lambda: (self.scale * f(documents, d).T, same_query),
            }
            lse = [log_sum_exp(s.masked_fill(left_out, -math.inf), 1) for s, left_out in (scores[k]() for k in names)]
            return torch.stack([self.scale * similarity[is_positive], *lse]).double()

        rows = [own[start:stop] for start, stop in column_blocks(len(documents), len(own))]
        positive, *lse = torch.cat([checkpoint(block, r, use_reentrant=False) for r in rows], 1)
        return positive, dict(zip(names, lse, strict=True))


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))


def _product(similarity_fct: Callable[[Tensor, Tensor], Tensor]) -> bool | None:
    """Whether it normalises, for `cos_sim` and `dot_score` of this module or the package; None for others."""
    module, name = (getattr(similarity_fct, a, "") or "" for a in ("__module__", "__name__"))
    known = module == __name__ or module.startswith("sentence_transformers.util")
    return {"cos_sim": True, "dot_score": False}.get(name) if known else None


def _check(
    scale: float,
    directions: tuple[str, ...],
    partition_mode: str,
    hardness_mode: str | None,
    hardness_strength: float,
) -> None:
    if not scale > 0:
        raise ValueError(f"scale: expected a number above 0, got {scale}")
    if "query_to_doc" not in directions or not set(directions) <= set(_DIRECTIONS):
        raise ValueError(
            f"directions: expected query_to_doc, and others of {', '.join(_DIRECTIONS)}, got {directions!r}"
        )
    if partition_mode not in ("joint", "per_direction"):
        raise ValueError(f"partition_mode: expected 'joint' or 'per_direction', got {partition_mode!r}")
    if partition_mode == "per_direction" and not set(directions) <= set(_WITH_POSITIVE):
        raise ValueError(
            "partition_mode: 'per_direction' needs the positive in each direction, query_to_query and doc_to_doc have "
            "none; use 'joint'"
        )
    if hardness_mode not in _HARDNESS_MODES:
        raise ValueError(f"hardness_mode: expected one of {_HARDNESS_MODES}, got {hardness_mode!r}")
    if hardness_strength < 0:
        raise ValueError(f"hardness_strength: expected a number of at least 0, got {hardness_strength}")
