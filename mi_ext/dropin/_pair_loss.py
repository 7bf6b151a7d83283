"""What the losses of labelled pairs share: pytorch-metric-learning's arguments, and which pairs are meant."""

import copy
from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn

from .. import validation
from ..losses.base import Labels, unit_vectors
from ..scores import DotScores

Terms = tuple[Tensor, Tensor | tuple[Tensor, Tensor], str]  # losses float64, what each belongs to, the name of that


class PairLoss(nn.Module, ABC):
    """What both losses share.

    forward(embeddings [n, d], labels=None, indices_tuple=None, ref_emb=None, ref_labels=None): anchors are the
    embeddings with integer labels [n], candidates ref_emb [m, d] with ref_labels [m], by default the same: then, and if
    both labels are one tensor, candidate i is left out for anchor i. Same label: positive, other label: negative.
    indices_tuple names pairs instead, as miners do: (anchor, positive, negative) or (anchor, positive, anchor,
    negative). The result is 0 with a graph if there is no positive or no negative pair, or at most one of each.

    distance: None or CosineSimilarity(), or DotProductSimilarity(), which normalises only if told to; others are a
    ValueError: they are no products. reducer, embedding_regularizer (times embedding_reg_weight, added) as the
    package's. The result has the dtype of the embeddings. ValueError without labels and indices, and for wrong shapes.
    """

    def __init__(
        self,
        temperature: float,
        distance: nn.Module | None = None,
        reducer: nn.Module | None = None,
        embedding_regularizer: nn.Module | None = None,
        embedding_reg_weight: float = 1,
        collect_stats: bool | None = None,
    ):
        super().__init__()
        kind = type(distance).__name__
        if distance is not None and (kind not in ("CosineSimilarity", "DotProductSimilarity") or distance.power != 1):
            raise ValueError(
                f"distance: expected CosineSimilarity or DotProductSimilarity of power 1, got {distance!r}"
            )
        self.temperature = temperature
        self.distance = distance
        self.reducer = copy.deepcopy(reducer)
        self.embedding_regularizer = embedding_regularizer
        self.embedding_reg_weight = embedding_reg_weight
        self.collect_stats = bool(collect_stats)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        if labels is None and indices_tuple is None:
            raise ValueError("labels, indices_tuple: expected one of them, got none")
        _check_shapes("embeddings", embeddings, "labels", labels)
        labels = None if labels is None else labels.to(embeddings.device)
        if ref_emb is None:
            ref_emb, ref_labels = embeddings, labels
        _check_shapes("ref_emb", ref_emb, "ref_labels", ref_labels)
        if indices_tuple is not None:
            return self._of_indices(embeddings, labels, ref_emb, indices_tuple)
        assert labels is not None  # one of the two is there
        own = None
        if ref_labels is None or ref_labels is labels:
            own = torch.arange(labels.shape[0], device=labels.device)
            ref_emb, ref_labels = (ref_emb if ref_labels is labels else ref_emb[: labels.shape[0]]), labels
        return self.of_labels(embeddings, labels, ref_emb, ref_labels, own)

    def of_labels(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_emb: Tensor,
        ref_labels: Tensor,
        own: Tensor | None,
        there: Tensor | None = None,
    ) -> Tensor:
        """The loss of all pairs.

        own int64 [n]: the candidate that is anchor i itself and is left out for it. there bool [m]: whether it is one.
        """
        x, y = self._both(embeddings, ref_emb)
        pair = validation.label_pair((labels, ref_labels.to(labels.device)), x.shape[0], y.shape[0], x)
        labels, ref_labels = cast(tuple[Tensor, Tensor], pair)  # None only for labels that are None
        if there is not None:
            no_anchor_s = torch.cat([labels, labels.new_zeros(1)]).amin() - 1
            ref_labels = torch.where(there, ref_labels, no_anchor_s)
        if self.reducer is None:
            mean = self._label_mean(x, y, labels, ref_labels, own, there)
            return self._regularized(mean.to(embeddings.dtype), embeddings)
        return self._reduce(self._label_losses(x, y, labels, ref_labels, own, there), embeddings, labels)

    def _of_indices(
        self, embeddings: Tensor, labels: Tensor | None, ref_emb: Tensor, indices_tuple: tuple[Tensor, ...]
    ) -> Tensor:
        pairs = indices_tuple if len(indices_tuple) == 4 else (*indices_tuple[:2], indices_tuple[0], indices_tuple[2])
        if all(len(t) <= 1 for t in pairs) or len(pairs[0]) == 0 or len(pairs[2]) == 0:
            return self._reduce(None, embeddings, labels)
        return self._reduce(self._index_losses(*self._both(embeddings, ref_emb), *pairs), embeddings, labels)

    @abstractmethod
    def _label_mean(
        self, x: Tensor, y: Tensor, labels: Tensor, ref_labels: Tensor, own: Tensor | None, there: Tensor | None
    ) -> Tensor:
        """The mean of `_label_losses`, 0 with a graph where those are None; no shape depends on the labels."""

    @abstractmethod
    def _label_losses(
        self, x: Tensor, y: Tensor, labels: Tensor, ref_labels: Tensor, own: Tensor | None, there: Tensor | None
    ) -> Terms | None:
        """None without a positive or a negative pair, or with one of each."""

    @abstractmethod
    def _index_losses(
        self, x: Tensor, y: Tensor, anchor: Tensor, positive: Tensor, anchor_of_negative: Tensor, negative: Tensor
    ) -> Terms:
        """As `_label_losses`, of the pairs that are named."""

    @abstractmethod
    def _mean(self, losses: Tensor) -> Tensor:
        """Without a reducer."""

    def _both(self, embeddings: Tensor, ref_emb: Tensor) -> tuple[Tensor, Tensor]:
        as_they_are = self.distance is not None and not self.distance.normalize_embeddings
        x = embeddings if as_they_are else unit_vectors(embeddings)
        if ref_emb is embeddings:
            return x, x
        return x, ref_emb if as_they_are else unit_vectors(ref_emb)

    def _negative_lse(
        self, x: Tensor, y: Tensor, own: Tensor | None, there: Tensor | None, labels: Labels = None
    ) -> Tensor:
        """float64 [n]: log-sum-exp over candidates other than the own one and those with the anchor's label."""
        options = {"positive": x} if own is None else {"target": own}
        if there is not None:
            options["candidate_log_weight"] = there.double().log()
        return DotScores(x, y, 1 / self.temperature, labels=labels, **options).double().negative_lse

    def _reduce(self, found: Terms | None, embeddings: Tensor, labels: Tensor | None) -> Tensor:
        losses: Any
        losses, indices, kind = (0, None, "already_reduced") if found is None else found
        if found is not None:
            losses = losses.to(embeddings.dtype)
        if self.reducer is not None:
            parts = {"losses": losses, "indices": indices, "reduction_type": kind}
            loss = self.reducer({"loss": parts}, embeddings, labels)
        else:
            loss = (embeddings * 0).sum() if found is None else self._mean(losses)
        return self._regularized(loss, embeddings)

    def _regularized(self, loss: Tensor, embeddings: Tensor) -> Tensor:
        if self.embedding_regularizer is not None:
            loss = loss + self.embedding_regularizer(embeddings) * self.embedding_reg_weight
        return loss


def number_of(y: Tensor, there: Tensor | None) -> int | Tensor:
    return y.shape[0] if there is None else there.sum()


def _check_shapes(name: str, embeddings: Tensor, labels_name: str, labels: Tensor | None) -> None:
    if embeddings.dim() != 2:
        raise ValueError(f"{name}: expected two dimensions [n, d], got shape {tuple(embeddings.shape)}")
    if labels is not None and labels.shape != embeddings.shape[:1]:
        expected = f"one for each row of {name}, shape ({len(embeddings)},)"
        raise ValueError(f"{labels_name}: expected {expected}, got {tuple(labels.shape)}")
