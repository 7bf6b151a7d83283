"""`mi_ext.dropin.inf_cl` beside inf-cl's formula, for its kernels run on GPUs alone; its ring: test_distributed.py."""

import pytest
import torch
from peers import agree, load, same_signature
from side_by_side import largest, saved_bytes
from torch.nn import functional as F

from mi_ext.dropin import inf_cl as ours

NAMES = "cal_flash_loss", "cal_inf_loss", "cal_ring_loss"


def sides(n=7, m=7, d=6, dtype=torch.float64):
    g = torch.Generator().manual_seed(n)
    return [F.normalize(torch.randn(k, d, generator=g, dtype=torch.float64), dim=1).to(dtype) for k in (n, m)]


def dense(q, k, labels=None, scale=None):
    """Float32 results of float64 sums."""
    labels = torch.arange(len(q)) if labels is None else labels.long()
    return F.cross_entropy((1.0 if scale is None else scale) * q @ k.T, labels, reduction="none").float()


def mean_of_dense(*arguments):
    return dense(*arguments).mean()


FORMULA = {"cal_flash_loss": dense, "cal_inf_loss": mean_of_dense, "cal_ring_loss": mean_of_dense}
CALLS = {
    "plain": lambda: sides(),
    "more candidates": lambda: sides(5, 9),
    "labels": lambda: (*sides(7, 4), torch.tensor([3, 0, 0, 1, 2, 2, 3])),
    "int32 labels": lambda: (*sides(7, 4), torch.tensor([3, 0, 0, 1, 2, 2, 3], dtype=torch.int32)),
    "scale": lambda: (*sides(), None, torch.tensor(14.3).double()),
    "scale of shape (1,)": lambda: (*sides(), None, torch.tensor([14.3]).double()),
    "labels and a number": lambda: (*sides(), torch.arange(7).flip(0), 3.0),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("call", CALLS)
def test_value_and_gradients(name, call):
    """Gradients in float64, but for the upstream one, which is float32 as the loss is."""
    agree(getattr(ours, name), FORMULA[name], *CALLS[call](), tolerance=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_signatures(name):
    same_signature(getattr(ours, name), getattr(load("inf_cl"), name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_dtypes(name, dtype):
    q, k = (t.requires_grad_() for t in sides(dtype=dtype))
    value = getattr(ours, name)(q, k, scale=torch.tensor(100.0))
    value.sum().backward()
    assert value.dtype == torch.float32 and q.grad.dtype == k.grad.dtype == dtype
    truth = FORMULA[name](q.double(), k.double(), None, 100.0)
    torch.testing.assert_close(value, truth, rtol=1e-5, atol=1e-5)


def test_head_dim_changes_nothing():
    q, k = sides(d=24)
    assert torch.equal(ours.cal_flash_loss(q, k, head_dim=16), ours.cal_flash_loss(q, k))


def test_errors():
    with pytest.raises(ValueError, match="labels: expected candidate indices"):
        ours.cal_flash_loss(*sides(7, 4))
    with pytest.raises(ValueError, match="labels: expected one index per query"):
        ours.cal_inf_loss(*sides(), labels=torch.arange(4))
    with pytest.raises(ValueError, match="scale"):
        ours.cal_inf_loss(*sides(), scale=torch.ones(7, 1))


@pytest.mark.parametrize("name", NAMES)
def test_saved_for_backward(name):
    """Vectors and numbers of rows: never the 16 MiB of the score matrix."""
    n, d = 2048, 64
    q, k = (t.requires_grad_() for t in sides(n, n, d, torch.float32))
    scale = torch.tensor(10.0, requires_grad=True)
    assert 0 < saved_bytes(lambda: getattr(ours, name)(q, k, scale=scale)) <= 6 * (n + n) * d * 4 + 256 * n < n * n * 4
    assert largest(lambda: getattr(ours, name)(q, k, scale=scale)) <= n * d
