"""The neural dependency measure: its definition, shuffles, and total correlations that are known."""

import math

import pytest
import torch
from score_matrices import close

from mi_ext import losses

pytestmark = pytest.mark.usefixtures("one_thread")


def matrix(n=6, d=3, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def product(z):
    return z.prod(1) + z[:, 0].sin()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_loss_is_nwj_and_the_measure_donsker_varadhan():
    z = matrix().requires_grad_()
    shuffled = losses.shuffle_dimensions(z, seeded(3))
    dependency = losses.NeuralDependency(product)
    loss, stats = dependency(z, seeded(3), return_stats=True)
    expected = -(product(z).mean() - product(shuffled).exp().mean() / math.e)
    close(loss, expected)
    close(torch.autograd.grad(loss, z)[0], torch.autograd.grad(expected, z)[0])
    measure = dependency.measure(z, seeded(3))
    close(measure, (product(z).mean() - product(shuffled).exp().mean().log()).detach())
    close(stats["dependency"], measure)
    assert not measure.requires_grad and not stats["dependency"].requires_grad
    close(losses.NeuralDependency(lambda z: product(z)[:, None])(z, seeded(3)), loss)


def test_gradcheck():
    z, w = matrix(4).requires_grad_(), matrix(1)[0].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z, w: losses.NeuralDependency(lambda z: (z * w).sin().sum(1))(z, seeded(0)), (z, w)
    )


def test_a_shuffle_permutes_each_column_by_itself():
    z = matrix(50, 4)
    shuffled = losses.shuffle_dimensions(z, seeded(1))
    close(shuffled.sort(0).values, z.sort(0).values)
    order = [(shuffled[:, k, None] == z[None, :, k]).long().argmax(1) for k in range(4)]
    assert all(not torch.equal(order[a], order[b]) for a in range(4) for b in range(a))
    assert torch.equal(shuffled, losses.shuffle_dimensions(z, seeded(1)))
    counts = torch.zeros(3, 3)
    for seed in range(600):  # where value i of a column goes: every place equally often
        place = losses.shuffle_dimensions(torch.arange(3.0)[:, None], seeded(seed))[:, 0].long()
        counts[torch.arange(3), place] += 1
    assert (counts / 600 - 1 / 3).abs().max() < 0.08


def total_correlation(rho, d=3):
    """−½ log det R of d Gaussians with all correlations rho."""
    r = torch.full((d, d), rho, dtype=torch.float64).fill_diagonal_(1.0)
    return -0.5 * torch.logdet(r).item(), torch.linalg.cholesky(r).float()


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_it_finds_the_total_correlation_of_gaussians(rho):
    truth, factor = total_correlation(rho)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    dependency, optimiser = losses.NeuralDependency(network), torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(300):
        optimiser.zero_grad()
        dependency(torch.randn(256, 3) @ factor.T).backward()
        optimiser.step()
    measured = dependency.measure(torch.randn(20000, 3) @ factor.T).item()
    assert measured == pytest.approx(truth, abs=0.08) and (rho > 0 or abs(measured) < 0.02)


def test_large_values_do_not_overflow():
    z = matrix(4)
    close(losses.NeuralDependency(lambda z: torch.full((len(z),), 1e4).double()).measure(z), 0.0)


def test_compile():
    module = torch.compile(losses.NeuralDependency(product), fullgraph=True, backend="aot_eager")
    z = matrix().requires_grad_()
    torch.manual_seed(0)
    loss = module(z)
    torch.manual_seed(0)
    close(loss, losses.NeuralDependency(product)(z))


BAD = {
    "one row": (lambda: losses.NeuralDependency(product)(matrix(1)), ValueError, "^z: .*two rows"),
    "vector": (lambda: losses.shuffle_dimensions(torch.zeros(3)), ValueError, "^z: "),
    "integers": (lambda: losses.shuffle_dimensions(torch.zeros(3, 2).long()), TypeError, "^z: .*int64"),
    "values": (
        lambda: losses.NeuralDependency(torch.nn.Identity())(matrix()),
        ValueError,
        r"^discriminator: .*\(6, 1\).*\(6, 3\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_name_the_argument(name):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call()
