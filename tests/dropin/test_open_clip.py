"""`mi_ext.dropin.open_clip` beside open_clip_torch; with several ranks in tests/test_distributed.py."""

import pytest
import torch
from peers import agree, load, same_signature
from side_by_side import largest, parameters, raises_alike, saved_bytes
from torch.nn import functional as F

from mi_ext.dropin import open_clip as ours

SCALARS = {
    "scale": (torch.tensor(14.3), None),
    "scale and bias": (torch.tensor(14.3), torch.tensor(-3.1)),
    "one element": (torch.tensor([14.3]), torch.tensor([-3.1])),
    "numbers": (14.3, -3.1),
    "negative": (torch.tensor(-2.0), None),
}
LOSSES = "ClipLoss", "SigLipLoss"


@pytest.fixture
def theirs():
    return load("open_clip.loss", "open_clip")


def pairs(n=7, d=6, dtype=torch.float64):
    g = torch.Generator().manual_seed(n)
    return [F.normalize(torch.randn(n, d, generator=g, dtype=torch.float64), dim=1).to(dtype) for _ in range(2)]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scalars", SCALARS)
@pytest.mark.parametrize("n", [1, 7])
def test_value_and_gradients(theirs, name, scalars, n):
    scalars = [t.double() if isinstance(t, torch.Tensor) else t for t in SCALARS[scalars]]
    agree(getattr(ours, name)(), getattr(theirs, name)(), *pairs(n), *scalars)


@pytest.mark.parametrize("name", LOSSES)
def test_output_dict(theirs, name):
    arguments = *pairs(), torch.tensor(10.0).double(), torch.tensor(-1.0).double()
    results = [getattr(module, name)(cache_labels=True)(*arguments, output_dict=True) for module in (ours, theirs)]
    assert results[0].keys() == results[1].keys() == {"contrastive_loss"}
    torch.testing.assert_close(*(r["contrastive_loss"] for r in results))


@pytest.mark.parametrize("name", LOSSES)
def test_signatures(theirs, name):
    mine, other = parameters(getattr(ours, name)), parameters(getattr(theirs, name))
    assert mine[: len(other)] == other
    assert [parameter for parameter, *_ in mine[len(other) :]] in ([], ["chunk_size"])  # of a later open_clip
    same_signature(getattr(ours, name).forward, getattr(theirs, name).forward)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(theirs, name, dtype):
    """The peer's dtype, and no more of an error than the peer's, whose logits are rounded to it."""
    scalars = torch.tensor(100.0), torch.tensor(-10.0)
    value, other = (getattr(module, name)()(*pairs(dtype=dtype), *scalars) for module in (ours, theirs))
    truth = getattr(theirs, name)()(*(t.double() for t in pairs(dtype=dtype)), *scalars)
    assert value.dtype == other.dtype == dtype
    assert abs(value - truth) <= abs(other - truth) + 4 * torch.finfo(dtype).eps * abs(truth)


@pytest.mark.parametrize("name", LOSSES)
def test_autocast(theirs, name):
    scalars = torch.tensor(10.0), torch.tensor(-1.0)
    with torch.autocast("cpu", torch.bfloat16):
        value, other = (getattr(module, name)()(*pairs(dtype=torch.float32), *scalars) for module in (ours, theirs))
    torch.testing.assert_close(value, other, rtol=2e-2, atol=2e-2)


def test_errors(theirs):
    raises_alike(*(lambda m=m: m.SigLipLoss(dist_impl="tree") for m in (ours, theirs)))
    for name in LOSSES:
        loss = [getattr(module, name)(rank=0, world_size=2) for module in (ours, theirs)]
        raises_alike(*(lambda f=f: f(*pairs(), torch.tensor(1.0), None) for f in loss))
    with pytest.raises(ValueError, match="use_horovod"):
        ours.ClipLoss(use_horovod=True)
    with pytest.raises(ValueError, match="text_features"):
        ours.ClipLoss()(*pairs(7)[:1], pairs(6)[0], 1.0)


@pytest.mark.parametrize("name", LOSSES)
def test_saved_for_backward(name):
    """Features and their gradients, O(n d): not the 16 MiB of the score matrix, of which open_clip keeps several."""
    n, d = 2048, 64
    image, text = (F.normalize(torch.randn(n, d), dim=1).requires_grad_() for _ in range(2))
    scalars = torch.tensor(10.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
    assert 0 < saved_bytes(lambda: getattr(ours, name)()(image, text, *scalars)) <= 4 * (n + n) * d * 4 + 256 * n
    assert largest(lambda: getattr(ours, name)()(image, text, *scalars)) <= n * d
