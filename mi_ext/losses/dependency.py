"""Dependence among the coordinates of a representation."""

import torch
from torch import Tensor, nn

from .. import validation
from ..log_domain import log_of, log_sum_exp
from .base import LossOutput, logits_of


class NeuralDependency(nn.Module):
    r"""Neural Dependency Measure of [DIM]: KL(p(z) ‖ Π_k p(z_k)), the total correlation of z's coordinates.

    A discriminator T tells rows z from rows z̃ whose every coordinate was shuffled over the batch by itself
    (`shuffle_dimensions`). It is trained by NWJ and reports Donsker–Varadhan:

        loss      −[mean T(z) − e^{−1} mean e^{T(z̃)}]         [MIM] eq. 4, minimise in T's parameters
        measure   mean T(z) − log mean e^{T(z̃)}               [DIM] eq. 2, a lower bound; 0 for independent coordinates

    Nats. `discriminator`: module from [n, d] to values [n] or [n, 1]. forward(z [n, d], generator=None), n ≥ 2, is the
    loss; return_stats=True adds {"dependency": the measure of the same batch, detached}. `measure(z, generator=None)`
    reports without a gradient: pass rows that T was not trained on, whose estimate is not flattered by overfitting. The
    loss has a gradient for z too; pass z detached where only T is trained. TypeError or ValueError by argument.
    """

    def __init__(self, discriminator: nn.Module):
        super().__init__()
        self.discriminator = discriminator

    def forward(self, z: Tensor, generator: torch.Generator | None = None, *, return_stats: bool = False) -> LossOutput:
        dtype, joint, log_mean = self._terms(z, generator)
        loss = ((log_mean - 1).exp() - joint).to(dtype)
        return (loss, {"dependency": (joint - log_mean).detach().to(dtype)}) if return_stats else loss

    @torch.no_grad()
    def measure(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        dtype, joint, log_mean = self._terms(z, generator)
        return (joint - log_mean).to(dtype)

    def _terms(self, z: Tensor, generator: torch.Generator | None) -> tuple[torch.dtype, Tensor, Tensor]:
        """(dtype of results, mean T(z), log mean e^{T(z̃)}), the terms in float64."""
        values = logits_of(self.discriminator, z)
        shuffled = logits_of(self.discriminator, shuffle_dimensions(z, generator))
        return values.dtype, values.double().mean(), log_sum_exp(shuffled.double()) - log_of(z.shape[0])


def shuffle_dimensions(z: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """z [n, d] with each column permuted by itself, uniformly and independently: rows of the product of marginals.

    ValueError for n < 2, where there is nothing to shuffle; TypeError unless z is a floating-point matrix.
    """
    validation.floating_matrix("z", z)
    if z.shape[0] < 2:
        raise ValueError(f"z: expected at least two rows to shuffle, got shape {tuple(z.shape)}")
    device = z.device if generator is None else generator.device
    order = torch.empty_like(z, dtype=torch.float64, device=device).uniform_(generator=generator).argsort(0)
    return z.gather(0, order.to(z.device))
