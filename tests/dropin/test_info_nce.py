"""`mi_ext.dropin.info_nce` beside info-nce-pytorch."""

import pytest
import torch
from peers import agree, load, same_signature
from side_by_side import largest, raises_alike, saved_bytes

from mi_ext.dropin import info_nce as ours


@pytest.fixture
def theirs():
    return load("info_nce")


def vectors(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


NEGATIVES = {"in batch": None, "unpaired": (11, 6), "one": (1, 6), "none": (0, 6), "paired": (7, 5, 6)}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", NEGATIVES)
def test_value_and_gradients(theirs, kind, reduction):
    shape = NEGATIVES[kind]
    inputs = [vectors(7, 6), vectors(7, 6, seed=1), None if shape is None else vectors(*shape, seed=2)]
    options = {
        "temperature": 0.3,
        "reduction": reduction,
        "negative_mode": "paired" if kind == "paired" else "unpaired",
    }
    agree(ours.InfoNCE(**options), theirs.InfoNCE(**options), *inputs)
    agree(*(lambda *t, f=f: f(*t, **options) for f in (ours.info_nce, theirs.info_nce)), *inputs)


@pytest.mark.parametrize("shape", [None, (11, 6), (7, 5, 6)])
@pytest.mark.parametrize("temperature", [torch.tensor(0.2), torch.tensor([0.2]), torch.tensor(-0.5)])
def test_temperature_gets_a_gradient(theirs, shape, temperature):
    mode = "paired" if shape == (7, 5, 6) else "unpaired"
    inputs = vectors(7, 6), vectors(7, 6, seed=1), None if shape is None else vectors(*shape), temperature.double()

    def loss(module):
        return lambda q, k, negatives, t: module.info_nce(q, k, negatives, t, negative_mode=mode)

    agree(loss(ours), loss(theirs), *inputs)


def test_defaults_and_signatures(theirs):
    agree(ours.InfoNCE(), theirs.InfoNCE(), vectors(9, 4), vectors(9, 4, seed=1))
    same_signature(ours.InfoNCE, theirs.InfoNCE)
    same_signature(ours.InfoNCE.forward, theirs.InfoNCE.forward)
    same_signature(ours.info_nce, theirs.info_nce)


def test_vectors_of_length_0(theirs):
    query, key = vectors(5, 4), vectors(5, 4, seed=1)
    query[2] = 0
    agree(ours.InfoNCE(), theirs.InfoNCE(), query, key)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", ["in batch", "unpaired", "paired"])
def test_dtypes(theirs, dtype, mode):
    """The peer's dtype; an error in 16 bits that is no larger than the peer's."""
    inputs = [vectors(9, 8, dtype=dtype), vectors(9, 8, dtype=dtype, seed=1)]
    if mode != "in batch":
        inputs.append(vectors(*((13, 8) if mode == "unpaired" else (9, 5, 8)), dtype=dtype, seed=2))
    options = {} if mode == "in batch" else {"negative_mode": mode}
    value, other = (module.InfoNCE(**options)(*inputs) for module in (ours, theirs))
    truth = theirs.InfoNCE(**options)(*(t.double() for t in inputs))
    assert value.dtype == other.dtype == dtype
    assert abs(value - truth) <= abs(other - truth) + 4 * torch.finfo(dtype).eps * abs(truth)


def test_autocast(theirs):
    inputs = [vectors(9, 8, dtype=torch.float32), vectors(9, 8, dtype=torch.float32, seed=1)]
    with torch.autocast("cpu", torch.bfloat16):
        value, other = (module.InfoNCE()(*inputs) for module in (ours, theirs))
    assert value.dtype == other.dtype
    torch.testing.assert_close(value, other, rtol=2e-2, atol=2e-2)


WRONG = {
    "query": lambda: ((vectors(6), vectors(7, 6)), {}),
    "positive": lambda: ((vectors(7, 6), vectors(7, 1, 6)), {}),
    "rows": lambda: ((vectors(7, 6), vectors(6, 6)), {}),
    "width": lambda: ((vectors(7, 6), vectors(7, 5)), {}),
    "unpaired": lambda: ((vectors(7, 6), vectors(7, 6), vectors(7, 5, 6)), {}),
    "paired": lambda: ((vectors(7, 6), vectors(7, 6), vectors(5, 6)), {"negative_mode": "paired"}),
    "rows, paired": lambda: ((vectors(7, 6), vectors(7, 6), vectors(8, 5, 6)), {"negative_mode": "paired"}),
    "width, unpaired": lambda: ((vectors(7, 6), vectors(7, 6), vectors(5, 4)), {}),
    "reduction": lambda: ((vectors(7, 6), vectors(7, 6)), {"reduction": "median"}),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors(theirs, name):
    arguments, options = WRONG[name]()
    raises_alike(*(lambda m=m: m.info_nce(*arguments, **options) for m in (ours, theirs)))


def test_errors_of_ours_alone():
    with pytest.raises(ValueError, match="temperature"):
        ours.info_nce(vectors(7, 6), vectors(7, 6), temperature=0.0)
    with pytest.raises(ValueError, match="negative_mode"):
        ours.info_nce(vectors(7, 6), vectors(7, 6), vectors(5, 6), negative_mode="pair")


@pytest.mark.parametrize("negatives", [None, (2048, 64)])
def test_saved_for_backward(negatives):
    """The inputs, their unit vectors, a gradient of each: never the 16 MiB of the score matrix."""
    n, d = 2048, 64
    inputs = [torch.randn(n, d, requires_grad=True), torch.randn(n, d, requires_grad=True)]
    inputs += [] if negatives is None else [torch.randn(*negatives, requires_grad=True)]
    assert 0 < saved_bytes(lambda: ours.InfoNCE()(*inputs)) <= 4 * len(inputs) * n * d * 4 + 64 * n < n * n * 4
    assert largest(lambda: ours.InfoNCE()(*inputs)) <= n * d


def test_paired_keeps_the_inputs_and_no_more():
    n, m, d = 64, 256, 32
    inputs = [torch.randn(*shape, requires_grad=True) for shape in ((n, d), (n, d), (n, m, d))]
    loss = ours.InfoNCE(negative_mode="paired")
    assert 0 < saved_bytes(lambda: loss(*inputs)) <= 4.2 * n * m * d * 4
    assert largest(lambda: loss(*inputs)) <= n * m * d
