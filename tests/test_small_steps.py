"""What small batches are spared: shorter ways to the same numbers as torch's longer ones."""

import math

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mi_ext import DotScores, bounds, losses
from mi_ext.log_domain import softplus
from mi_ext.losses.base import unit_vectors


def rows(dtype=torch.float64):
    z = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z[1] = 0
    z[2] *= 1e-5
    z[3] *= 1e-13
    return z.to(dtype).requires_grad_()


def values_and_derivatives(function, z):
    """u, dL/dz and the derivative of |dL/dz|² for L = Σ w u, w of no symmetry."""
    u = function(z)
    w = torch.arange(u.numel(), dtype=z.dtype).reshape(u.shape).sin()
    (first,) = torch.autograd.grad((w * u).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first[2:].square().sum(), z)
    return u, first, second[2:]  # torch's at 0 is NaN


def test_unit_vectors_are_those_of_torch_with_both_derivatives():
    ours = values_and_derivatives(unit_vectors, rows())
    theirs = values_and_derivatives(lambda z: F.normalize(z, dim=-1), rows())
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=0)


def test_unit_vectors_pass_gradcheck():
    z = rows()[4:].detach().requires_grad_()
    assert torch.autograd.gradcheck(unit_vectors, z)
    assert torch.autograd.gradgradcheck(unit_vectors, z)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_of_rows_shorter_than_the_shortest_length(dtype):
    """u = z/ε there: no component of the gradient is projected out."""
    z = torch.tensor([[3e-13, -4e-13]], dtype=dtype, requires_grad=True)
    upstream = torch.tensor([[2.0, 1.0]], dtype=dtype)
    (gradient,) = torch.autograd.grad(unit_vectors(z), z, upstream)
    torch.testing.assert_close(gradient, upstream / 1e-12)


def test_unit_vectors_under_transforms():
    z, tangent = rows()[4:].detach(), rows()[:2].detach()
    batch = torch.stack([z, 2 * z + 1, tangent + 1])

    def torch_s(z):
        return F.normalize(z, dim=-1)

    close = torch.testing.assert_close
    close(torch.func.vmap(unit_vectors)(batch), torch_s(batch))
    close(torch.func.jvp(unit_vectors, (z,), (tangent,)), torch.func.jvp(torch_s, (z,), (tangent,)))
    close(torch.func.hessian(lambda z: unit_vectors(z).sum())(z), torch.func.hessian(lambda z: torch_s(z).sum())(z))
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(unit_vectors(forward_ad.make_dual(z, tangent)))
    close(tuple(found), torch.func.jvp(torch_s, (z,), (tangent,)))


class Counted(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations.append(function)
        return function(*args, **(kwargs or {}))


def test_vmap_of_unit_vectors_is_no_loop():
    with Counted() as counted:
        torch.func.vmap(unit_vectors)(torch.randn(50, 4, 3))
    assert len(counted.operations) < 50


OPERATIONS = {  # of a step, forward and backward
    "InfoNCE": (losses.InfoNCE(), 28),
    "CLIP": (losses.CLIP(), 35),
    "SigLIP": (losses.SigLIP(), 37),
    "NWJ": (lambda x, y: -bounds.nwj(DotScores(x, y, 10.0)), 21),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_of_a_step_are_few(name):
    objective, limit = OPERATIONS[name]
    x, y = torch.randn(2, 8, 4).unbind()
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    with Counted() as counted:
        objective(x, y).backward()
    assert len(counted.operations) <= limit


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_unit_vectors_of_16_bits_are_rounded_once(dtype):
    z = rows(dtype)
    u = unit_vectors(z)
    u.backward(torch.ones_like(u))
    wide = z.detach().float().requires_grad_()
    expected = F.normalize(wide, dim=-1)
    expected.backward(torch.ones_like(wide))
    assert u.dtype == z.grad.dtype == dtype
    assert torch.equal(u, expected.to(dtype))
    torch.testing.assert_close(z.grad[3:], wide.grad[3:].to(dtype))


def test_softplus_is_exact_on_both_sides_of_its_threshold():
    z = torch.tensor([-math.inf, -700.0, -30.0, 0.0, 1.0, 20.5, 39.9, 40.1, 1e3, math.inf], dtype=torch.float64)
    z.requires_grad_()
    value = softplus(z)
    expected = [max(t, 0) + math.log1p(math.exp(-abs(t))) for t in z.tolist()]
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64), rtol=1e-15, atol=0)
    value.sum().backward()
    torch.testing.assert_close(z.grad, z.detach().sigmoid(), rtol=1e-14, atol=0)
