"""Stands in for inf-cl 1.2.1, on CPUs too: `from mi_ext.dropin.inf_cl import cal_flash_loss, cal_inf_loss`.

log Σ_j e^{s_ij} − p_i, scores scale · <q_i, k_j>: to minimise, in nats. Nothing is normalised. The positive is in the
denominator. q [n, d]; k [m, d]; labels int64 [n]: k[labels_i] is the positive of q_i, k_i by default. scale: a float or
a tensor of one element, exp(log-scale) or 1/temperature; 1 by default. head_dim, by which the peer cuts d into pieces
for its kernels, is taken and changes nothing: any d serves.

Results are float32, as the peer's, whatever the inputs; float64 inputs are computed with in float64. Raises TypeError
or ValueError by argument.
"""

import torch
from torch import Tensor

from .. import distributed, validation
from ..log_domain import Weight
from ..scores import DotScores
from ._base import zero_dim

__all__ = ["cal_flash_loss", "cal_inf_loss", "cal_ring_loss"]


def cal_flash_loss(
    q: Tensor, k: Tensor, labels: Tensor | None = None, scale: Weight | None = None, head_dim: int = 256
) -> Tensor:
    """[n]: the loss of each query, on this rank alone."""
    scores = DotScores(q, k, 1.0 if scale is None else zero_dim(scale), target=_target(q, k, labels))
    return scores.cross_entropy(reduction="none").float()


def cal_inf_loss(
    q: Tensor, k: Tensor, labels: Tensor | None = None, scale: Weight | None = None, head_dim: int = 256
) -> Tensor:
    """The mean over this rank's queries; the candidates are those of all ranks of torch.distributed's default group.

    They travel from rank to rank, so that no rank ever holds all. labels point into this rank's k. k and scale get the
    gradient of the sum of all ranks' losses. Averaged by DistributedDataParallel that is right for what made k; scale's
    is the same on every rank already and stays, here as in the peer, the number of ranks times the mean loss's:
    `mi_ext.distributed.RingScores` leaves that sum out. Without a process group: the mean of `cal_flash_loss`.
    """
    scale = 1.0 if scale is None else zero_dim(scale)
    if isinstance(scale, Tensor):
        scale = distributed.sum_gradient(scale)
    return distributed.RingScores(q, k, scale, target=_target(q, k, labels)).cross_entropy().float()


cal_ring_loss = cal_inf_loss  # in the peer the same without its fused kernels


def _target(q: Tensor, k: Tensor, labels: Tensor | None) -> Tensor:
    labels = torch.arange(len(q), device=q.device) if labels is None else labels.long()
    validation.candidate_index("labels", labels, len(q), len(k), q.device)
    return labels
