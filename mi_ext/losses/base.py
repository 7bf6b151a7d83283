"""What the losses share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from .. import ops, validation
from ..ops.autograd import cast
from ..scores import Scores

Labels = tuple[Tensor, Tensor] | None  # of the queries [n], of the candidates [m]
Stats = dict[str, Any]  # tensors, and ints where all rows agree
LossOutput = Tensor | tuple[Tensor, Stats]


class ContrastiveLoss(nn.Module):
    """What the losses share: a temperature and whether embeddings are normalised."""

    def __init__(self, temperature: float | Tensor, normalize: bool):
        super().__init__()
        validation.scalar("temperature", temperature, positive=True)
        self.temperature = temperature
        self.normalize = normalize

    @property
    def scale(self) -> float | Tensor:
        """1/T; ValueError where a T that learns is no longer positive."""
        validation.scalar("temperature", self.temperature, positive=True)
        return 1.0 / self.temperature

    def extra_repr(self) -> str:
        temperature = "learned" if isinstance(self.temperature, Tensor) else self.temperature
        return f"temperature={temperature}, normalize={self.normalize}"

    def embed(self, name: str, z: Tensor) -> Tensor:
        """Rows of unit length if `normalize`."""
        validation.floating_matrix(name, z)
        return unit_vectors(z) if self.normalize else z


def unit_vectors(z: Tensor) -> Tensor:
    """[..., d], each divided by its length; lengths in at least float32, since 1e-12 is 0 in float16.

    The result is kept for the backward pass, which raises if it was changed in place.
    """
    wide = cast(z, torch.promote_types(z.dtype, torch.float32))
    if _is_transformed():
        return cast(F.normalize(wide, dim=-1), z.dtype)
    return cast(ops.unit_rows(wide), z.dtype)


def _is_transformed() -> bool:
    """By torch.compile, which makes one operation of many, or torch.func or forward-mode AD, which know F.normalize."""
    return (
        torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    )


def stats_of(scores: Scores, estimate: Callable[[Scores], Tensor]) -> Stats:
    with torch.no_grad():
        ranking = scores.ranking()  # walks over the scores once; everything else reuses its statistics
        log_partition = scores.log_partition()
        stats = {"mi": estimate(scores).detach(), "log_partition": log_partition, "n_negatives": scores.n_negatives}
        return stats if ranking is None else stats | ranking_stats(*ranking)


def ranking_stats(rank: Tensor, entropy: Tensor, counts: Tensor | None = None) -> Stats:
    """counts: bool [n], the rows that top1 and top5 are shares of; all by default."""
    counts = torch.ones_like(rank, dtype=torch.bool) if counts is None else counts
    top1, top5 = (((rank < k) & counts).sum().to(entropy.dtype) / counts.sum() for k in (1, 5))
    return {"top1": top1, "top5": top5, "rank": rank, "effective_negatives": entropy.exp()}


def same_shape(name: str, t: Tensor, other_name: str, other: Tensor) -> None:
    validation.floating_matrix(other_name, other)
    validation.floating_matrix(name, t)
    if t.shape != other.shape:
        raise ValueError(f"{name}: expected the shape of {other_name}, {tuple(other.shape)}, got {tuple(t.shape)}")


def logits_of(discriminator: nn.Module, z: Tensor) -> Tensor:
    """[n], at least float32: a discriminator's one value for each row of z, which it may give as [n, 1]."""
    logits = discriminator(z)
    if logits.shape not in ((z.shape[0],), (z.shape[0], 1)):
        expected = f"one value a row, shape ({z.shape[0]},) or ({z.shape[0]}, 1)"
        raise ValueError(f"discriminator: expected {expected}, got {tuple(logits.shape)}")
    return logits.flatten().to(torch.promote_types(logits.dtype, torch.float32))


def computed_if(condition: Tensor, compute: Callable[[], Tensor], otherwise: Tensor) -> Tensor:
    """compute() or `otherwise`, without a gradient, by a 0-dim condition.

    The condition is known when it runs, so a compiled graph has both ways. torch.export leaves no_grad out around them.
    """
    if torch.compiler.is_compiling():
        return torch.cond(condition, lambda otherwise: compute(), torch.clone, (otherwise,)).detach()
    return compute() if condition else otherwise
