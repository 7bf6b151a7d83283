"""Stands in for open_clip_torch 3.3.0: `from mi_ext.dropin.open_clip import ClipLoss, SigLipLoss`.

Both minimise, in nats. Nothing is normalised and logit_scale is a factor, as open_clip's models give them: features of
unit length, the exponential of the scale's parameter. logit_scale, logit_bias: floats or tensors of one element, which
get gradients. Results have the dtype of image_features; output_dict=True gives {"contrastive_loss": loss}.

world_size > 1 is that of torch.distributed's default group, and `rank` this process's in it: ValueError if they differ.
Batches may differ in size. Gradients are open_clip's, of the sum of all ranks' losses: see `mi_ext.distributed`.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .. import distributed
from ..log_domain import Weight
from ..losses.base import same_shape
from ..scores import DotScores, Scores
from ._base import in_peer_dtype, zero_dim

__all__ = ["ClipLoss", "SigLipLoss"]

_Result = Tensor | dict[str, Tensor]


class ClipLoss(nn.Module):
    """½ [mean_i (R_i − p_i) + mean_i (C_i − p_i)]: cross-entropy along rows and columns, the positive in both.

    Scores are logit_scale <image_i, text_j> + logit_bias. With several ranks, local_loss=False: the loss of the whole
    batch on every rank; local_loss=True: this rank's rows and columns of it, a loss of its own. gather_with_grad=False
    leaves out what other ranks' losses ask of this rank's features. cache_labels is kept and has no effect: there are
    no labels to cache. ValueError for use_horovod.
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ):
        super().__init__()
        if use_horovod:
            raise ValueError("use_horovod: expected False; mi_ext gathers by torch.distributed alone")
        self.local_loss = local_loss
        self.gather_with_grad = gather_with_grad
        self.cache_labels = cache_labels
        self.rank = rank
        self.world_size = world_size
        self.use_horovod = use_horovod

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Weight,
        logit_bias: Weight | None = None,
        output_dict: bool = False,
    ) -> _Result:
        same_shape("text_features", text_features, "image_features", image_features)
        scalars = zero_dim(logit_scale), zero_dim(logit_bias)
        if self.world_size == 1:
            loss = DotScores(image_features, text_features, *scalars).symmetric_cross_entropy()
        else:
            _check_ranks(self.rank, self.world_size)
            loss = self._over_ranks(image_features, text_features, *scalars)
        return _result(loss, image_features, output_dict)

    def _over_ranks(self, image: Tensor, text: Tensor, scale: Weight, bias: Weight | None) -> Tensor:
        (all_images, start), (all_texts, _) = self._gather(image), self._gather(text)
        if not self.local_loss:
            return DotScores(all_images, all_texts, scale, bias).symmetric_cross_entropy()
        target = torch.arange(start, start + len(image), device=image.device)
        by_image, by_text = (
            DotScores(x, y, scale, bias, target).cross_entropy() for x, y in ((image, all_texts), (text, all_images))
        )
        return (by_image + by_text) / 2

    def _gather(self, features: Tensor) -> tuple[Tensor, int]:
        if self.gather_with_grad:
            return distributed.gather(features)
        everything, start = distributed.gather(features.detach())
        if not self.local_loss:  # this rank's own rows keep their graph
            everything = torch.cat([everything[:start], features, everything[start + len(features) :]])
        return everything, start


class SigLipLoss(nn.Module):
    """1/n [Σ_i softplus(−p_i) + Σ_negatives softplus(s_ij)]: every pair a term of its own, no denominator.

    Scores are logit_scale <image_i, text_j> + logit_bias; n images of this rank with the texts of all ranks. dist_impl
    "bidir" (the default) and "shift": texts travel in a ring, so no rank holds all of them; "reduce" and "gather":
    every rank gets them all. All give the same loss and gradients; AssertionError for any other. cache_labels and
    chunk_size, which 3.3.0 has not yet, have no effect: there are no logits to cut into pieces.
    """

    def __init__(
        self,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        dist_impl: str | None = None,
        chunk_size: int = 0,
    ):
        super().__init__()
        self.cache_labels = cache_labels
        self.rank = rank
        self.world_size = world_size
        self.dist_impl = dist_impl or "bidir"
        self.chunk_size = chunk_size
        choices = "bidir", "shift", "reduce", "gather"
        assert self.dist_impl in choices, f"dist_impl: expected one of {choices}, got {dist_impl!r}"

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Weight,
        logit_bias: Weight | None,
        output_dict: bool = False,
    ) -> _Result:
        same_shape("text_features", text_features, "image_features", image_features)
        scores = self._scores(image_features, text_features, zero_dim(logit_scale), zero_dim(logit_bias))
        return _result(scores.logistic_loss(), image_features, output_dict)

    def _scores(self, image: Tensor, text: Tensor, scale: Weight, bias: Weight | None) -> Scores:
        if self.world_size == 1:
            return DotScores(image, text, scale, bias)
        _check_ranks(self.rank, self.world_size)
        if self.dist_impl in ("bidir", "shift"):
            return distributed.RingScores(image, text, scale, bias)
        texts, start = distributed.gather(text)
        return DotScores(image, texts, scale, bias, torch.arange(start, start + len(image), device=image.device))


def _result(loss: Tensor, features: Tensor, output_dict: bool) -> _Result:
    loss = in_peer_dtype(loss, features)
    return {"contrastive_loss": loss} if output_dict else loss


def _check_ranks(rank: int, world_size: int) -> None:
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(f"world_size: {world_size} ranks need torch.distributed.init_process_group first")
    if (rank, world_size) != (dist.get_rank(), dist.get_world_size()):
        group = f"rank {dist.get_rank()} of {dist.get_world_size()}"
        raise ValueError(f"rank, world_size: expected those of the process group, {group}, got {rank} of {world_size}")
