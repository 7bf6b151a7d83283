"""Gathered scores on a GPU: values and gradients judged as on the CPU, and what no other machine can show."""

import pytest
import torch
from gathered_problems import CALLS, KINDS, SHAPES, check, evaluate, gathered
from problems import DTYPES, on, wide

from mi_ext import _C, GatheredScores, losses, ops

if not torch.cuda.is_available():
    pytest.skip("torch finds no GPU here", allow_module_level=True)
if _C.build_info()["cuda"].startswith("no"):
    pytest.fail(f"mi_ext was {_C.build_info()['cuda']}, and there is a GPU", pytrace=False)

EVERY_CALL = pytest.mark.parametrize("call", CALLS)


def unit_rows(n, d, seed=0):
    g = torch.Generator("cuda").manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=g, device="cuda"), dim=1)


def drawn(n, m, rows, seed=0):
    return torch.randint(rows, (n, m), generator=torch.Generator("cuda").manual_seed(seed), device="cuda")


def memory_bank(x, y):
    """Rows of y as a bank, without a look at any value."""
    index = (7 * torch.arange(len(x), device=x.device)[:, None] + 3 * torch.arange(50, device=x.device)) % len(y)
    return GatheredScores(x, y, index, 5.0, positive=y).cross_entropy()


def own_negatives(x, y):
    return losses.KPair()(x, y, torch.stack([y, y.flip(0)], 1))


def value_and_gradients(loss, x, y):
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    value = loss(x, y)
    return value.detach(), *torch.autograd.grad(value, (x, y))


@EVERY_CALL
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_gradients(call, kind, dtype):
    with on("cuda"):
        for shape in SHAPES if dtype == wide(dtype) else SHAPES[1::2]:
            check(call, gathered(*shape, kind, dtype))


@pytest.mark.parametrize("call", ["negative_lse", "softplus"])
def test_more_pairs_than_are_sorted_together(call):
    with on("cuda"):
        check(call, gathered(500, 20_000, 2, 11, "bank", torch.float32), frozenset({"x", "y"}))


@EVERY_CALL
@pytest.mark.parametrize("kind", ["skewed bank", "negatives"])
def test_runs_agree_bit_by_bit(call, kind):
    p = gathered(60, 700, 33, 300, kind, torch.float32)
    with on("cuda"):
        first, *others = (evaluate(ops, call, p) for _ in range(4))
    assert all(torch.equal(again[name], first[name]) for again in others for name in first)


@pytest.mark.parametrize("loss", [memory_bank, own_negatives])
def test_losses_never_wait(loss):
    x, y = (torch.randn(150, 40, device="cuda", requires_grad=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss(x, y).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("loss", [memory_bank, own_negatives])
def test_losses_in_a_graph(loss):
    """Captured once and replayed on other numbers; the sort of the index is part of it."""
    static = [unit_rows(150, 40, seed) for seed in (0, 1)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        value_and_gradients(loss, *static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = value_and_gradients(loss, *static)
    second = [unit_rows(150, 40, seed) for seed in (2, 3)]
    for t, values in zip(static, second, strict=True):
        t.copy_(values)
    graph.replay()
    for ours, expected in zip(captured, value_and_gradients(loss, *second), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)


def test_crd_trains():
    student, teacher = (torch.randn(32, 24, device="cuda", requires_grad=True) for _ in range(2))
    crd = losses.CRD(500, 24, n_negatives=64).cuda()
    for _ in range(2):
        crd(student, teacher, torch.randperm(500, device="cuda")[:32]).backward()
    assert student.grad.isfinite().all() and teacher.grad.isfinite().all()


def test_memory_does_not_grow_with_gathered_vectors():
    """64 queries of 16384 negatives: 512 MiB if they were gathered, 8 MiB of index."""
    x, bank, index = unit_rows(64, 128).requires_grad_(), unit_rows(50_000, 128, 1), drawn(64, 16384, 50_000)
    positive = unit_rows(64, 128, 2)
    GatheredScores(x[:2], bank, index[:2], 14.0, positive=positive[:2]).cross_entropy().backward()
    x.grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    GatheredScores(x, bank, index, 14.0, positive=positive).cross_entropy().backward()
    assert torch.cuda.max_memory_allocated() - before <= 8 << 20


@pytest.mark.parametrize("outside", [7, -1, 2**40])
def test_an_index_outside_the_bank_makes_nan(outside):
    """Nothing waits to look at it, but no number comes out of it."""
    p = gathered(5, 40, 6, 7, "bank", torch.float32)
    p.index[3, 37] = outside
    with on("cuda"):
        lse = evaluate(ops, "negative_lse", p)["value"]
        assert lse.isnan().nonzero().flatten().tolist() == [3]
        for call in ("cross-entropy", "log-partition", "softplus", "clipped"):
            assert evaluate(ops, call, p)["value"].isnan()


def test_devices_may_not_be_mixed():
    x, bank, index = unit_rows(4, 8), unit_rows(9, 8, 1), drawn(4, 5, 9)
    with pytest.raises(ValueError, match="^index: expected a tensor on cuda:0, like x, got cpu"):
        GatheredScores(x, bank, index.cpu(), positive=x)
    with pytest.raises(RuntimeError, match="gathered_lse: index must be on cuda:0, like x, but is on cpu"):
        ops.gathered_negative_lse(x, bank, index.cpu(), 1.0)
    with pytest.raises(RuntimeError, match="gathered_lse: y must be on cuda:0, like x, but is on cpu"):
        ops.gathered_negative_lse(x, bank.cpu(), index, 1.0)


def test_compiled():
    x, y = unit_rows(300, 64, 0), unit_rows(300, 64, 1)
    compiled = torch.compile(memory_bank, fullgraph=True)
    for a, b in zip(value_and_gradients(compiled, x, y), value_and_gradients(memory_bank, x, y), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
