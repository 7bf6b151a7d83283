"""Matching codes to a uniform prior: the value function, its optimum, signs and errors."""

import math

import pytest
import torch
from score_matrices import close

from mi_ext import losses

pytestmark = pytest.mark.usefixtures("one_thread")


def linear(weight):
    return lambda z: z @ torch.as_tensor(weight, dtype=z.dtype)


@pytest.mark.parametrize("column", [False, True])
def test_prior_matching_follows_the_value_function(column):
    z = torch.rand(7, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    weight = torch.tensor([1.5, -0.7], dtype=torch.float64, requires_grad=True)

    def discriminator(z):
        return (z @ weight)[:, None] if column else z @ weight

    u = torch.rand(7, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    real, coded = (torch.sigmoid(t @ weight) for t in (u, z))
    value = real.log().mean() + (1 - coded).log().mean()
    prior = losses.PriorMatching(discriminator)
    loss, stats = prior.discriminator_loss(z, torch.Generator().manual_seed(2), return_stats=True)
    close(loss, -value)
    close(stats["discriminator"], coded.mean().detach())
    close(stats["prior"], real.mean().detach())
    close(torch.autograd.grad(loss, weight)[0], torch.autograd.grad(-value, weight, retain_graph=True)[0])
    assert torch.autograd.grad(prior.discriminator_loss(z), (weight, z), allow_unused=True)[1] is None
    encoder, stats = prior.encoder_loss(z, return_stats=True)
    close(encoder, (1 - coded).log().mean())
    close(torch.autograd.grad(encoder, z)[0], torch.autograd.grad(value, z, retain_graph=True)[0])
    close(stats["discriminator"], coded.mean().detach())
    saturated = losses.PriorMatching(discriminator, encoder="non_saturating").encoder_loss(z)
    close(saturated, -coded.log().mean())


def test_prior_matching_moves_codes_towards_uniform_and_is_exact_far_out():
    """Codes near 1 and a discriminator that prefers small ones: both encoder losses fall as codes shrink."""
    z = torch.full((4, 1), 0.9, dtype=torch.float64, requires_grad=True)
    for kind in ("minimax", "non_saturating"):
        loss = losses.PriorMatching(linear([-4.0]), encoder=kind).encoder_loss(z)
        assert torch.autograd.grad(loss, z)[0].min() > 0
    certain = losses.PriorMatching(linear([-200.0])).encoder_loss(torch.ones(1, 1, dtype=torch.float64))
    close(certain / math.exp(-200), -1.0)
    blind = losses.PriorMatching(linear([0.0])).discriminator_loss(z)
    close(blind, 2 * math.log(2))


def test_the_best_discriminator_reaches_the_optimum_of_the_value_function():
    """z uniform on [0, ½], density 2: D* = ⅓ there and 1 above, and −V = ½ log 3 + log 3/2."""
    torch.manual_seed(0)
    halves = torch.nn.Embedding(2, 1)  # one logit for [0, ½], one for (½, 1]
    prior = losses.PriorMatching(lambda z: halves((z[:, 0] > 0.5).long()))
    optimiser = torch.optim.Adam(halves.parameters(), 0.1)
    z = torch.rand(4096, 1) / 2
    for _ in range(100):
        optimiser.zero_grad()
        prior.discriminator_loss(z).backward()
        optimiser.step()
    assert prior.discriminator_loss(z).item() == pytest.approx(math.log(1.5 * math.sqrt(3)), abs=0.03)
    assert halves.weight[0].sigmoid().item() == pytest.approx(1 / 3, abs=0.03)


BAD = {
    "encoder": (lambda: losses.PriorMatching(linear([1.0]), "maximin"), ValueError, "^encoder: .*'minimax'"),
    "codes": (lambda: losses.PriorMatching(linear([1.0])).encoder_loss(2 * torch.ones(2, 1)), ValueError, "^z: .*sigm"),
    "codes nan": (
        lambda: losses.PriorMatching(linear([1.0])).encoder_loss(torch.full((2, 1), math.nan)),
        ValueError,
        "^z: .*nan",
    ),
    "no codes": (
        lambda: losses.PriorMatching(linear([1.0])).discriminator_loss(torch.ones(0, 1)),
        ValueError,
        "^z: .*n = 0",
    ),
    "logits": (
        lambda: losses.PriorMatching(torch.nn.Identity()).encoder_loss(torch.ones(3, 2)),
        ValueError,
        r"^discriminator: .*\(3, 1\).*\(3, 2\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_name_the_argument(name):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call()
