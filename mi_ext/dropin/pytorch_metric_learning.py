"""pytorch-metric-learning (2.9): losses of labelled pairs, a memory across batches, two augmentations as labels.

    from mi_ext.dropin.pytorch_metric_learning import CrossBatchMemory, NTXentLoss, SelfSupervisedLoss, SupConLoss

The package's miners, reducers and regularizers work with these losses, and its losses with these wrappers.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..log_domain import row_cross_entropy
from ..ops.indexing import summed_at
from ..scores.exclusions import sum_over_equal
from ._equal_pairs import equal_pair_loss
from ._pair_loss import PairLoss, Terms, number_of
from ._pairs import equal_pairs, grouped_log_sum_exp, pair_scores, row_sums_of_equal

_WITH_MEMORY = frozenset(
    """AngularLoss CircleLoss ContrastiveLoss GeneralizedLiftedStructureLoss IntraPairVarianceLoss LiftedStructureLoss
    MarginLoss MultiSimilarityLoss NCALoss NTXentLoss SignalToNoiseRatioContrastiveLoss SupConLoss TripletMarginLoss
    TupletMarginLoss""".split()
)
_OF_AUGMENTATIONS = _WITH_MEMORY - {"MarginLoss"}


class NTXentLoss(PairLoss):
    """Mean over positive pairs (a, p) of −log [e^{s_ap} / (e^{s_ap} + Σ_{n negative of a} e^{s_an})], s = cosine/T.

    A term for each pair: that positive is in its denominator, the anchor's other positives are not. Minimise; nats.
    Normalises. Memory: O((n + m) d); where pairs are named or a reducer asks for the loss of each, a few numbers for
    each of them. `PairLoss` says what forward takes. The package adds the smallest float to each probability, so that
    its terms end at 87; ours do not.
    """

    def __init__(self, temperature: float = 0.07, **kwargs: Any):
        super().__init__(temperature, **kwargs)

    def _label_mean(
        self, x: Tensor, y: Tensor, labels: Tensor, ref_labels: Tensor, own: Tensor | None, there: Tensor | None
    ) -> Tensor:
        negative_lse = self._negative_lse(x, y, own, there, (labels, ref_labels))
        scaled = x.to(torch.promote_types(x.dtype, torch.float32)) / self.temperature
        total = equal_pair_loss(scaled, y, negative_lse, labels, ref_labels, own)
        n_equal = sum_over_equal(labels, ref_labels, torch.ones_like(ref_labels)).sum()
        n_positive = n_equal if own is None else n_equal - own.shape[0]
        counts = _enough(n_positive, x.shape[0] * number_of(y, there) - n_equal)
        return torch.where(counts, total / n_positive.clamp_min(1), 0.0)

    def _label_losses(
        self, x: Tensor, y: Tensor, labels: Tensor, ref_labels: Tensor, own: Tensor | None, there: Tensor | None
    ) -> Terms | None:
        anchor, positive = equal_pairs(labels, ref_labels)
        n_negative = len(x) * number_of(y, there) - len(anchor)
        if own is not None:
            others = positive != own[anchor]
            anchor, positive = anchor[others], positive[others]
        if len(anchor) == 0 or n_negative == 0 or (len(anchor) == 1 and n_negative == 1):
            return None
        return self._losses(x, y, anchor, positive, self._negative_lse(x, y, own, there, (labels, ref_labels)))

    def _index_losses(
        self, x: Tensor, y: Tensor, anchor: Tensor, positive: Tensor, anchor_of_negative: Tensor, negative: Tensor
    ) -> Terms:
        scores = pair_scores(x, y, anchor_of_negative, negative) / self.temperature
        negative_lse = grouped_log_sum_exp(scores, anchor_of_negative, len(x))
        return self._losses(x, y, anchor, positive, negative_lse)

    def _losses(self, x: Tensor, y: Tensor, anchor: Tensor, positive: Tensor, negative_lse: Tensor) -> Terms:
        scores = pair_scores(x, y, anchor, positive) / self.temperature
        return row_cross_entropy(scores, negative_lse[anchor], 0.0, 0.0), (anchor, positive), "pos_pair"

    def _mean(self, losses: Tensor) -> Tensor:
        return losses.mean()


class SupConLoss(PairLoss):
    """Mean over anchors of log Σ_k e^{s_ak} − mean over its positives of s_ap, s = cosine/T.

    All candidates, positives and negatives, are in the denominator, the anchor itself is not. The mean is over anchors
    with a term > 0: those without positives have 0 and do not count. Minimise; nats. Normalises. Memory: O((n + m) d),
    since positive scores are summed by classes. `PairLoss` says what forward takes.
    """

    def __init__(self, temperature: float = 0.1, **kwargs: Any):
        super().__init__(temperature, **kwargs)

    def _label_mean(
        self, x: Tensor, y: Tensor, labels: Tensor, ref_labels: Tensor, own: Tensor | None, there: Tensor | None
    ) -> Tensor:
        losses, *_ = self._label_losses(x, y, labels, ref_labels, own, there)
        return self._mean(losses.to(x.dtype))

    def _label_losses(
        self, x: Tensor, y: Tensor, labels: Tensor, ref_labels: Tensor, own: Tensor | None, there: Tensor | None
    ) -> Terms:
        sums, count = row_sums_of_equal(labels, ref_labels, y.double())
        n_negative = x.shape[0] * number_of(y, there) - count.sum()
        if own is not None:
            sums, count = sums - y[own].double(), count - 1
        attraction = (x.double() * sums).sum(1) / self.temperature
        return self._losses(self._negative_lse(x, y, own, there), attraction, count * _enough(count.sum(), n_negative))

    def _index_losses(
        self, x: Tensor, y: Tensor, anchor: Tensor, positive: Tensor, anchor_of_negative: Tensor, negative: Tensor
    ) -> Terms:
        n, m = len(x), len(y)
        pairs = [(i * m + j).unique() for i, j in ((anchor, positive), (anchor_of_negative, negative))]
        either, times = torch.cat(pairs).unique(return_counts=True)
        if (times > 1).any():
            raise AssertionError("indices_tuple: expected each pair as positive or as negative, got one as both")
        denominator = grouped_log_sum_exp(self._pair_scores(x, y, either), either // m, n)
        group, scores = pairs[0] // m, self._pair_scores(x, y, pairs[0])
        return self._losses(denominator, summed_at(n, group, scores), group.bincount(minlength=n))

    def _pair_scores(self, x: Tensor, y: Tensor, pair: Tensor) -> Tensor:
        return pair_scores(x, y, pair // len(y), pair % len(y)) / self.temperature

    def _losses(self, denominator: Tensor, attraction: Tensor, count: Tensor) -> Terms:
        losses = torch.where(count > 0, denominator - attraction / count.clamp_min(1), 0.0)
        return losses, torch.arange(len(losses), device=losses.device), "element"

    def _mean(self, losses: Tensor) -> Tensor:
        counts = ~(losses <= 0)  # NaN counts
        return torch.where(counts, losses, 0.0).sum() / counts.sum().clamp_min(1)


class CrossBatchMemory(nn.Module):
    """A loss whose candidates are the last memory_size embeddings, those of this batch among them.

    loss: `NTXentLoss`, `SupConLoss`, or one of the package's for pairs or triplets; miner: None or one of the
    package's. Buffers `embedding_memory` [memory_size, embedding_size], `label_memory` int64 [memory_size], a ring that
    is written from `queue_idx` on; they get no gradient. `has_been_filled` says whether it was filled once. Neither is
    in the state dict, as in the package; both can be set.

    forward(embeddings, labels, indices_tuple=None, enqueue_mask=None): the batch is written first; an anchor's own slot
    is no positive of it. With enqueue_mask bool [n] only those rows are written, and only the others are anchors.
    indices_tuple adds pairs to the miner's, or to all pairs, which are then listed. Without both nothing n×memory_size
    is kept by the losses of this module. AssertionError for more embeddings than memory_size; ValueError for
    indices_tuple and enqueue_mask together. The package has a batch of one keep its own slot; here it does not. With
    the losses of this module, and without a mask, one graph of torch.compile serves every place in the ring.
    """

    embedding_memory: Tensor
    label_memory: Tensor
    n_written: Tensor  # of all steps: a number would be a constant of a compiled graph

    def __init__(
        self,
        loss: nn.Module,
        embedding_size: int,
        memory_size: int = 1024,
        miner: nn.Module | None = None,
        **kwargs: Any,
    ):
        super().__init__()
        _check_supported(type(self), loss, _WITH_MEMORY)
        self.collect_stats = bool(kwargs.pop("collect_stats", None))
        _no_more(kwargs)
        self.loss = loss
        self.miner = miner
        self.embedding_size = embedding_size
        self.memory_size = memory_size
        self.reset_queue()

    def reset_queue(self) -> None:
        self.register_buffer("embedding_memory", torch.zeros(self.memory_size, self.embedding_size))
        self.register_buffer("label_memory", torch.zeros(self.memory_size, dtype=torch.long))
        self.register_buffer("n_written", torch.zeros((), dtype=torch.long), persistent=False)

    @property
    def queue_idx(self) -> int:
        return int(self.n_written) % self.memory_size

    @queue_idx.setter
    def queue_idx(self, place: int) -> None:
        self.n_written.fill_(place + self.memory_size * self.has_been_filled)

    @property
    def has_been_filled(self) -> bool:
        return int(self.n_written) >= self.memory_size

    @has_been_filled.setter
    def has_been_filled(self, filled: bool) -> None:
        self.n_written.fill_(self.queue_idx + self.memory_size * filled)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: tuple[Tensor, ...] | None = None,
        enqueue_mask: Tensor | None = None,
    ) -> Tensor:
        if indices_tuple is not None and enqueue_mask is not None:
            raise ValueError("indices_tuple, enqueue_mask: expected at most one of them, got both")
        if enqueue_mask is None and len(embeddings) > self.memory_size:
            raise AssertionError(
                f"embeddings: expected at most memory_size = {self.memory_size}, got {len(embeddings)}"
            )
        if enqueue_mask is not None and len(enqueue_mask) != len(embeddings):
            raise AssertionError(f"enqueue_mask: expected {len(embeddings)} entries, got {len(enqueue_mask)}")
        labels = labels.to(embeddings.device)
        self.embedding_memory = self.embedding_memory.to(embeddings)
        self.label_memory = self.label_memory.to(labels)
        self.n_written = self.n_written.to(labels.device)
        if enqueue_mask is None:
            self.add_to_memory(embeddings, labels, len(embeddings))
        else:
            self.add_to_memory(embeddings[enqueue_mask], labels[enqueue_mask], int(enqueue_mask.sum()))
            embeddings, labels = embeddings[~enqueue_mask], labels[~enqueue_mask]
        own = self.curr_batch_idx if enqueue_mask is None else None
        if self.miner is None and indices_tuple is None and isinstance(self.loss, PairLoss):
            written = torch.arange(self.memory_size, device=labels.device) < self.n_written
            return self.loss.of_labels(embeddings, labels, self.embedding_memory, self.label_memory, own, written)
        filled = min(int(self.n_written), self.memory_size)
        memory = self.embedding_memory[:filled], self.label_memory[:filled]
        pairs = self.create_indices_tuple(embeddings, labels, *memory, indices_tuple, own is not None)
        return self.loss(embeddings, labels, pairs, *memory)

    @torch.no_grad()
    def add_to_memory(self, embeddings: Tensor, labels: Tensor, batch_size: int) -> None:
        self.curr_batch_idx = (self.n_written + torch.arange(batch_size, device=labels.device)) % self.memory_size
        self.embedding_memory[self.curr_batch_idx] = embeddings
        self.label_memory[self.curr_batch_idx] = labels
        self.n_written += batch_size

    def create_indices_tuple(
        self,
        embeddings: Tensor,
        labels: Tensor,
        E_mem: Tensor,
        L_mem: Tensor,
        input_indices_tuple: tuple[Tensor, ...] | None,
        do_remove_self_comparisons: bool,
    ) -> tuple[Tensor, ...]:
        """The miner's pairs or triplets, else all pairs, without own slots as positives; then the caller's."""
        if self.miner is not None:
            found = self.miner(embeddings, labels, E_mem, L_mem)
        else:
            found = *equal_pairs(labels, L_mem), *(labels[:, None] != L_mem).nonzero(as_tuple=True)
        if do_remove_self_comparisons:
            others = found[1] != self.curr_batch_idx[found[0]]
            of_positives = found if len(found) == 3 else found[:2]
            found = *(t[others] for t in of_positives), *found[len(of_positives) :]
        if input_indices_tuple is None:
            return found
        given = _of_length(len(found), input_indices_tuple)
        return tuple(torch.cat([ours, theirs.to(ours.device)]) for ours, theirs in zip(found, given, strict=True))


class SelfSupervisedLoss(nn.Module):
    """loss of (embeddings [n, d], ref_emb [n, d]), two augmentations of the same items, each of which is a label.

    symmetric: both are anchors and candidates, 2n of each; otherwise the embeddings are anchors, ref_emb candidates.
    loss: as `CrossBatchMemory`, but for MarginLoss.
    """

    def __init__(self, loss: nn.Module, symmetric: bool = True, **kwargs: Any):
        super().__init__()
        _check_supported(type(self), loss, _OF_AUGMENTATIONS)
        _no_more(kwargs)
        self.loss = loss
        self.symmetric = symmetric

    def forward(self, embeddings: Tensor, ref_emb: Tensor) -> Tensor:
        labels = torch.arange(embeddings.shape[0], device=embeddings.device)
        if self.symmetric:
            return self.loss(torch.cat([embeddings, ref_emb]), torch.cat([labels, labels]))
        return self.loss(embeddings=embeddings, labels=labels, ref_emb=ref_emb, ref_labels=labels.clone())


def _enough(n_positive: Tensor, n_negative: Tensor) -> Tensor:
    """Pairs of both kinds, and not one of each."""
    return (n_positive > 0) & (n_negative > 0) & ~((n_positive == 1) & (n_negative == 1))


def _of_length(length: int, indices_tuple: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Triplets as pairs, or pairs as all triplets that they make, or as they are."""
    if len(indices_tuple) == length:
        return indices_tuple
    if length == 4:
        anchor, positive, negative = indices_tuple
        return anchor, positive, anchor, negative
    anchor, positive, anchor_of_negative, negative = indices_tuple
    i, j = equal_pairs(anchor, anchor_of_negative)
    return anchor[i], positive[i], negative[j]


def _check_supported(wrapper: type, loss: nn.Module, names: frozenset[str]) -> None:
    if type(loss).__name__ not in names:
        raise TypeError(
            f"loss: {wrapper.__name__} expected one of {', '.join(sorted(names))}, got {type(loss).__name__}"
        )


def _no_more(kwargs: dict) -> None:
    if kwargs:
        raise TypeError(f"unexpected keyword arguments: {', '.join(kwargs)}")
