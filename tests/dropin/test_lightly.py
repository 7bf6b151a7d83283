"""`mi_ext.dropin.lightly` beside lightly."""

import copy

import pytest
import torch
from peers import agree, load, same_signature
from side_by_side import largest, raises_alike, saved_bytes

from mi_ext.dropin import lightly as ours

pytestmark = pytest.mark.filterwarnings("ignore:To copy construct from a tensor")  # lightly's
MODELS = "lightly.models", "lightly.models.modules", "lightly.models.utils"


@pytest.fixture
def ntxent():
    return load("lightly.loss.ntx_ent_loss", "lightly", "lightly.loss", *MODELS)


@pytest.fixture
def dcl():
    return load("lightly.loss.dcl_loss", "lightly", "lightly.loss")


@pytest.fixture
def memory_bank():
    return load("lightly.models.modules.memory_bank", "lightly", *MODELS)


def views(n=7, d=5, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=g, dtype=torch.float64).to(dtype) for _ in range(2)]


def a_weight(out0, out1):
    return 1 + (out0 - out1).square().sum(1)


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("temperature", [0.5, 0.07, -0.4])
def test_ntxent(ntxent, n, temperature):
    agree(ours.NTXentLoss(temperature), ntxent.NTXentLoss(temperature), *views(n))


@pytest.mark.parametrize("n", [2, 7])
@pytest.mark.parametrize("weight_fn", [None, a_weight])
def test_dcl(dcl, n, weight_fn):
    agree(ours.DCLLoss(0.3, weight_fn), dcl.DCLLoss(0.3, weight_fn), *views(n))
    agree(ours.DCLWLoss(0.3, 0.7), dcl.DCLWLoss(0.3, 0.7), *views(n))


def test_dcl_without_negatives(dcl):
    assert ours.DCLLoss()(*views(1)) == dcl.DCLLoss()(*views(1)) == -torch.inf


def test_defaults_and_signatures(ntxent, dcl, memory_bank):
    modules = {"NTXentLoss": ntxent, "DCLLoss": dcl, "DCLWLoss": dcl, "MemoryBankModule": memory_bank}
    for name, module in modules.items():
        same_signature(getattr(ours, name), getattr(module, name))
        same_signature(getattr(ours, name).forward, getattr(module, name).forward)
        if name.endswith("Loss"):
            agree(getattr(ours, name)(), getattr(module, name)(), *views())
    same_signature(ours.negative_mises_fisher_weights, dcl.negative_mises_fisher_weights)


def test_weights(dcl):
    out0, out1 = views()
    weight = ours.negative_mises_fisher_weights(out0.requires_grad_(), out1)
    torch.testing.assert_close(weight, dcl.negative_mises_fisher_weights(out0, out1))
    assert not weight.requires_grad


def both_with_a_bank(ntxent, size, **options):
    """Losses with the same float64 bank at the start."""
    losses = []
    for module in (ours, ntxent):
        torch.manual_seed(3)
        losses.append(module.NTXentLoss(0.3, size, **options).double())
    return losses


def same_bank(mine, other):
    names = [dict(loss.named_buffers()) for loss in (mine, other)]
    assert names[0].keys() == names[1].keys() == {"memory_bank.bank", "memory_bank.bank_ptr"}
    for key in names[0]:
        assert names[0][key].dtype == names[1][key].dtype
        torch.testing.assert_close(names[0][key], names[1][key], rtol=1e-14, atol=0)


@pytest.mark.parametrize("size, n", [(10, 4), (8, 4), (5, 7), (5, 5)])
def test_bank_after_steps(ntxent, size, n):
    """The batch that reaches the end is cut, and the pointer goes back to 0."""
    mine, other = both_with_a_bank(ntxent, (size, 5))
    same_bank(mine, other)
    for step in range(5):
        agree(mine, other, *views(n, seed=step))
        same_bank(mine, other)


def test_bank_without_gradients(ntxent):
    """It is not written to: in evaluation, under no_grad, and where only out1 asks for a gradient."""
    mine, other = both_with_a_bank(ntxent, [6, 5])
    before = mine.memory_bank.bank.clone()
    out0, out1 = views()
    torch.testing.assert_close(mine(out0, out1), other(out0, out1))
    mine(out0, out1.clone().requires_grad_())
    with torch.no_grad():
        mine(out0.clone().requires_grad_(), out1)
    assert torch.equal(mine.memory_bank.bank, before) and mine.memory_bank.bank_ptr == 0
    mine(out0.clone().requires_grad_(), out1)
    other(out0.clone().requires_grad_(), out1)
    same_bank(mine, other)
    assert not torch.equal(mine.memory_bank.bank, before)


def test_backward_after_the_bank_moved_on():
    loss = ours.NTXentLoss(0.3, (6, 5)).double()
    pairs = [[t.requires_grad_() for t in views(4, seed=s)] for s in range(2)]
    values = [loss(*pair) for pair in pairs]
    sum(values).backward()
    assert all(t.grad.isfinite().all() for pair in pairs for t in pair)


def test_state(ntxent):
    """lightly does not save its bank: either state loads into either."""
    mine, other = both_with_a_bank(ntxent, (6, 5))
    mine.load_state_dict(other.state_dict())
    other.load_state_dict(mine.state_dict())
    assert mine.state_dict().keys() == other.state_dict().keys()
    copied = copy.deepcopy(mine)
    assert torch.equal(copied.memory_bank.bank, mine.memory_bank.bank)


@pytest.mark.parametrize("feature_dim_first", [True, False])
def test_memory_bank_module(memory_bank, feature_dim_first):
    results = []
    for module in (ours, memory_bank):
        torch.manual_seed(1)
        bank = module.MemoryBankModule((6, 5), feature_dim_first=feature_dim_first)
        rows, _ = views(4, dtype=torch.float32)
        results.append([bank(rows, update=True)[1], bank(rows, update=False)[1], bank.bank_ptr])
        assert module.MemoryBankModule(0)(rows)[1] is None
    for mine, other in zip(*results, strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(ntxent, dcl, dtype):
    for mine, other in ((ours.NTXentLoss(), ntxent.NTXentLoss()), (ours.DCLLoss(), dcl.DCLLoss())):
        value, theirs = mine(*views(dtype=dtype)), other(*views(dtype=dtype))
        truth = other(*(t.double() for t in views(dtype=dtype)))
        assert value.dtype == theirs.dtype == dtype
        assert abs(value - truth) <= abs(theirs - truth) + 4 * torch.finfo(dtype).eps * abs(truth)


@pytest.mark.parametrize("size", [5, -1, (3,), (-3, 4), (3, 4, 5), ()])
def test_sizes_that_are_errors(ntxent, size):
    raises_alike(*(lambda m=m: m.NTXentLoss(memory_bank_size=size) for m in (ours, ntxent)))


def test_temperatures_that_are_errors(ntxent):
    raises_alike(*(lambda m=m: m.NTXentLoss(temperature=1e-9) for m in (ours, ntxent)))
    with pytest.raises(ValueError, match="temperature"):
        ours.DCLLoss(0.0)(*views())


def test_gather_distributed_without_a_process_group(ntxent, dcl):
    agree(ours.NTXentLoss(gather_distributed=True), ntxent.NTXentLoss(gather_distributed=True), *views())
    agree(ours.DCLLoss(gather_distributed=True), dcl.DCLLoss(gather_distributed=True), *views())


@pytest.mark.parametrize("loss", [ours.NTXentLoss(), ours.NTXentLoss(0.5, (4096, 64)), ours.DCLLoss(), ours.DCLWLoss()])
def test_saved_for_backward(loss):
    """Views, their unit vectors and gradients, the bank: O(n d). The score matrix would be 4n² numbers, 16 MiB."""
    n, d = 1024, 64
    inputs = [torch.randn(n, d, requires_grad=True) for _ in range(2)]
    assert 0 < saved_bytes(lambda: loss(*inputs)) <= 24 * n * d * 4 + 256 * n < 4 * n * n * 4
    assert largest(lambda: loss(*inputs)) <= 4096 * d
