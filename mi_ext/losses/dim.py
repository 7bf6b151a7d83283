"""Losses of Deep InfoMax, [DIM]: global against local features, and matching a prior."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import bounds, validation
from ..log_domain import softplus
from ..scores import LocalGlobalScores, Scores
from .base import LossOutput, logits_of, stats_of


class DIM(nn.Module):
    r"""Deep InfoMax between a global feature of each image and the local features of all images; [DIM] eqs. 4–6.

    One query for each (image i, own position l) of B·L: its positive is the score p_il of global i with local (i, l),
    its negatives are the K − 1 = (B − 1) L scores of global i with the locals of all **other** images. `estimator`:

        "jensen_shannon"     mean softplus(−p) + mean_neg softplus(s)                [DIM] eq. 4; no denominator
        "infonce"            mean −log [e^p / (e^p + Σ_neg e^s)] = log K − infonce   eq. 5; positive in the denominator
        "donsker_varadhan"   −mean p + log mean_neg e^s                              eq. 2; positive not in the mean

    Minimise. Nats. Does not normalise: the score is the product <g, c> without a temperature, or that of `critic`, any
    module of `mi_ext.critics`. mi of the stats is the bound of that name, for "jensen_shannon" `bounds.infonce` of the
    same scores; log_partition [B·L] counts positions fastest.

    forward(global_features [B, d], local_features [B, L, d] or a map [B, d, M, M]). One local an image makes in-batch
    pairs, DIM(G). With the product nothing B×(B·L) is held; with a critic, what that critic holds. Errors are those of
    `LocalGlobalScores`; one image alone has no negatives, a ValueError except for "infonce", which is 0.
    """

    def __init__(self, estimator: str = "jensen_shannon", critic: Callable[..., Scores] | None = None):
        super().__init__()
        validation.one_of("estimator", estimator, ("jensen_shannon", "infonce", "donsker_varadhan"))
        self.estimator = estimator
        self.critic = critic

    def forward(self, global_features: Tensor, local_features: Tensor, *, return_stats: bool = False) -> LossOutput:
        scores = LocalGlobalScores(global_features, local_features, self.critic)
        if self.estimator == "infonce":
            loss = scores.cross_entropy()
        else:
            loss = -getattr(bounds, self.estimator)(scores)
        if not return_stats:
            return loss
        uses_dv = self.estimator == "donsker_varadhan"
        return loss, stats_of(scores, bounds.donsker_varadhan if uses_dv else bounds.infonce)


class PriorMatching(nn.Module):
    r"""Adversarial matching of codes to the uniform prior on [0, 1]^d; [DIM] eq. 7.

        V(E, D) = mean log D(u) + mean log(1 − D(z)),  D = σ(discriminator),  u ~ U[0, 1]^d,  z = E(x) in [0, 1]^d

    The discriminator maximises V, the encoder minimises it. Here both **minimise**, in nats:
    discriminator_loss(z) = −V, with z detached; at least 0, 2 log 2 for one that cannot tell.
    encoder_loss(z) = mean log(1 − D(z)), at most 0: the encoder's part of V. encoder="non_saturating" takes −mean log
    D(z), at least 0, with the same fixed point and a gradient that does not vanish while the discriminator wins.
    The encoder loss leaves gradients in the discriminator's parameters too: step only the encoder's optimiser.

    `discriminator`: module from [n, d] to logits [n] or [n, 1]. z [n, d]: codes in [0, 1], for example after a sigmoid;
    n ≥ 1. return_stats=True adds {"discriminator": mean D(z), 0-dim, and for the discriminator's loss "prior": mean
    D(u)}. Raises TypeError or ValueError by argument.
    """

    def __init__(self, discriminator: nn.Module, encoder: str = "minimax"):
        super().__init__()
        validation.one_of("encoder", encoder, ("minimax", "non_saturating"))
        self.discriminator = discriminator
        self.encoder = encoder

    def discriminator_loss(
        self, z: Tensor, generator: torch.Generator | None = None, *, return_stats: bool = False
    ) -> LossOutput:
        _check_codes(z)
        u = torch.empty_like(z).uniform_(generator=generator)
        real, coded = logits_of(self.discriminator, u), logits_of(self.discriminator, z.detach())
        loss = softplus(-real).mean() + softplus(coded).mean()
        stats = {"discriminator": coded.detach().sigmoid().mean(), "prior": real.detach().sigmoid().mean()}
        return (loss, stats) if return_stats else loss

    def encoder_loss(self, z: Tensor, *, return_stats: bool = False) -> LossOutput:
        _check_codes(z)
        logits = logits_of(self.discriminator, z)
        loss = -softplus(logits).mean() if self.encoder == "minimax" else softplus(-logits).mean()
        return (loss, {"discriminator": logits.detach().sigmoid().mean()}) if return_stats else loss


def _check_codes(z: Tensor) -> None:
    validation.floating_matrix("z", z)
    if z.shape[0] == 0:
        raise ValueError("z: the mean over n = 0 codes is undefined; pass at least one row")
    if validation.readable(z) and not bool(((z >= 0) & (z <= 1)).all()):
        low, high = z.min().item(), z.max().item()
        raise ValueError(f"z: expected codes in [0, 1], got {low:.6g} to {high:.6g}; apply torch.sigmoid to them")
