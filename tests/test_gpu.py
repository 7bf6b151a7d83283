"""On a GPU, what no other machine can show: that nothing waits, streams, graphs, devices, sizes beyond 2³¹ pairs.

Values and gradients are judged by test_ops_oracle.py and test_ops_edges.py, which run on a GPU too where there is one.
"""

import math

import joint_problems
import pytest
import torch
from problems import ALL, CALLS, evaluate, on, problem

from mi_ext import _C, DotScores, bounds, critics, losses, ops

if not torch.cuda.is_available():
    pytest.skip("torch finds no GPU here", allow_module_level=True)
if _C.build_info()["cuda"].startswith("no"):
    pytest.fail(f"mi_ext was {_C.build_info()['cuda']}, and there is a GPU", pytrace=False)

EVERY_CALL = pytest.mark.parametrize("call", CALLS)


def two_query_sets(bound):
    return lambda x, y: -bound(DotScores(x, y, 5.0), DotScores(x.flip(0), y, 3.0))


LOSSES = {
    "InfoNCE": losses.InfoNCE(),
    "NTXent": losses.NTXent(),
    "DCL": losses.DCL(),
    "CLIP": losses.CLIP(),
    "SigLIP": losses.SigLIP(),
    "MLCPC": losses.MLCPC(),
    "MoCo": lambda x, y: losses.MoCo()(x, y, y),
    "SupCon": lambda x, y: losses.SupCon()(torch.cat([x, y]), torch.arange(2 * len(x), device=x.device) % 7),
    "decomposed": two_query_sets(lambda s1, s2: bounds.decomposed_infonce(s1, s2, 0.4)),
    "importance": two_query_sets(bounds.importance_infonce),
}


def unit_rows(n, d, seed, dtype=torch.float32, device="cuda"):
    g = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=g), dim=1).to(device, dtype)


def loss_and_gradients(loss, x, y):
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    value = loss(x, y)
    return value.detach(), *torch.autograd.grad(value, (x, y), allow_unused=True, materialize_grads=True)


@pytest.fixture
def no_waiting():
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", LOSSES)
def test_losses_agree_with_the_cpu(name):
    sides = [unit_rows(150, 40, seed, torch.float64, "cpu") for seed in (0, 1)]
    truth = loss_and_gradients(LOSSES[name], *sides)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        ours = loss_and_gradients(LOSSES[name], *(t.to("cuda", dtype) for t in sides))
        for a, b in zip(ours, truth, strict=True):
            assert (a.cpu().double() - b).norm() <= tolerance * b.norm()


@pytest.mark.parametrize("name", LOSSES)
def test_losses_never_wait(name, no_waiting):
    x, y = (torch.randn(150, 40, device="cuda", requires_grad=True) for _ in range(2))
    LOSSES[name](x, y).backward()


@pytest.mark.parametrize("name", LOSSES)
def test_losses_in_a_graph(name):
    """Captured once and replayed on other numbers."""
    x, y = (torch.empty(150, 40, device="cuda") for _ in range(2))
    first = [unit_rows(150, 40, seed) for seed in (0, 1)]
    for static, values in zip((x, y), first, strict=True):
        static.copy_(values)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        loss_and_gradients(LOSSES[name], x, y)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = loss_and_gradients(LOSSES[name], x, y)
    second = [unit_rows(150, 40, seed) for seed in (2, 3)]
    for static, values in zip((x, y), second, strict=True):
        static.copy_(values)
    graph.replay()
    for ours, expected in zip(captured, loss_and_gradients(LOSSES[name], *second), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)


def test_the_current_stream_is_used():
    """Its inputs come late, from the same stream: another one would read what was there before."""
    values = [unit_rows(300, 64, seed) for seed in (0, 1)]
    expected = loss_and_gradients(LOSSES["InfoNCE"], *values)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = [torch.zeros_like(t) for t in values]
        torch.cuda._sleep(50_000_000)
        for t, value in zip(late, values, strict=True):
            t.copy_(value)
        ours = loss_and_gradients(LOSSES["InfoNCE"], *late)
    stream.synchronize()
    for a, b in zip(ours, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU here")
def test_a_second_device():
    values = [unit_rows(300, 64, seed) for seed in (0, 1)]
    there = loss_and_gradients(LOSSES["CLIP"], *(t.to("cuda:1") for t in values))
    assert torch.cuda.current_device() == 0 and all(t.device.index == 1 for t in there)
    for a, b in zip(there, loss_and_gradients(LOSSES["CLIP"], *values), strict=True):
        torch.testing.assert_close(a.to("cuda:0"), b)


def test_statistics_beside_a_loss_agree_with_the_cpu():
    sides = [unit_rows(150, 40, seed, torch.float64, "cpu") for seed in (0, 1)]
    _, truth = losses.InfoNCE()(*sides, return_stats=True)
    _, ours = losses.InfoNCE()(*(t.cuda() for t in sides), return_stats=True)
    assert torch.equal(ours["rank"].cpu(), truth["rank"]) and ours["top1"].cpu() == truth["top1"]
    torch.testing.assert_close(ours["effective_negatives"].cpu(), truth["effective_negatives"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_copies_of_the_positive_are_ties(dtype):
    x, copy = unit_rows(300, 100, 0, dtype), unit_rows(1, 100, 1, dtype)
    target = torch.randint(257, (300,), device="cuda")
    assert (ops.dot_ranking(x, copy.expand(257, 100), 0.37, (target, None, None, None))[3] == 256).all()
    assert (ops.dot_ranking(x, copy.expand(257, 100), 0.37, (None,) * 4, copy.expand(300, 100))[3] == 257).all()


@EVERY_CALL
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_runs_agree_bit_by_bit(call, dtype):
    p = problem(300, 200, 33, "everything, external", dtype)
    with on("cuda"):
        first, *others = (evaluate(ops, call, p) for _ in range(4))
    assert all(torch.equal(again[name], first[name]) for again in others for name in first)


LAYERS = pytest.mark.parametrize("layers", [1, 2], ids=["one layer", "two layers"])


@LAYERS
@pytest.mark.parametrize("call", joint_problems.CALLS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_joint_values_and_gradients(call, dtype, layers):
    shapes = joint_problems.SMALL_SHAPES if dtype == torch.bfloat16 else joint_problems.SHAPES
    with on("cuda"):
        for k, shape in enumerate(shapes):
            kind = joint_problems.EXCLUSIONS[k % len(joint_problems.EXCLUSIONS)]
            joint_problems.check(call, joint_problems.problem(*shape, layers, kind, dtype))


@LAYERS
@pytest.mark.parametrize("call", joint_problems.CALLS)
def test_joint_runs_agree_bit_by_bit(call, layers):
    p = joint_problems.problem(300, 200, 33, layers, "everything", torch.float32)
    with on("cuda"):
        first, *others = (joint_problems.evaluate(ops, call, p) for _ in range(4))
    assert all(torch.equal(again[name], first[name]) for again in others for name in first)


@LAYERS
@pytest.mark.parametrize("bound", [bounds.infonce, bounds.jensen_shannon, lambda s: bounds.smile(s, 2.0)])
def test_bounds_of_joint_critics_agree_with_the_cpu_and_never_wait(bound, layers, request):
    critic = critics.Joint(7, 5, 65, layers)
    x, y = unit_rows(150, 7, 0, device="cpu"), unit_rows(150, 5, 1, device="cpu")
    truth = bound(critic(x, y))
    there, x, y = critic.cuda(), x.cuda(), y.cuda()
    request.getfixturevalue("no_waiting")
    ours = bound(there(x, y))
    ours.backward()
    torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(ours.cpu(), truth, rtol=1e-4, atol=1e-5)


@LAYERS
def test_joint_memory_is_bounded(layers):
    """2^28 pairs, 1 GiB of scores and 8 GiB of hidden units: a block of them at a time exists."""
    x, y = unit_rows(16384, 8, 0), unit_rows(16384, 8, 1)
    critic = critics.Joint(8, 8, 32, layers).cuda()
    bounds.infonce(critic(x[:64], y[:64])).backward()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    bounds.infonce(critic(x, y)).backward()
    assert torch.cuda.max_memory_allocated() - before <= 256 << 20


def test_more_pairs_than_32_bits_count():
    """65536² = 2³²: some rows against the whole of dense float64, first and last."""
    n, d = 65536, 16
    x, y = (unit_rows(n, d, seed).requires_grad_() for seed in (0, 1))
    lse = DotScores(x, y, 5.0).negative_lse
    lse.sum().backward()
    rows = torch.tensor([0, 1, 40000, n - 1], device="cuda")
    s = 5.0 * x[rows].detach().double() @ y.detach().double().T
    s[torch.arange(4), rows] = -math.inf
    torch.testing.assert_close(lse[rows].double(), s.logsumexp(1), rtol=1e-6, atol=1e-6)
    dx = 5.0 * s.softmax(1) @ y.detach().double()
    torch.testing.assert_close(x.grad[rows].double(), dx, rtol=1e-4, atol=1e-5)


def test_memory_grows_with_rows_not_with_pairs():
    """Embeddings, their gradients and scratch: a score matrix would be 1 GiB."""
    x, y = (unit_rows(16384, 128, seed).requires_grad_() for seed in (0, 1))
    loss = losses.InfoNCE(normalize=False)
    loss(x[:64], y[:64]).backward()
    x.grad = y.grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss(x, y).backward()
    assert torch.cuda.max_memory_allocated() - before <= 128 << 20


@pytest.mark.parametrize("call", [call for call in CALLS if call not in ("clipped", "log-partition, decoupled")])
def test_a_target_outside_makes_nan(call):
    """Nothing waits to look at it, but no number comes out of it: its positive is NaN, and so is what needs it."""
    p = problem(20, 30, 8, "targets", torch.float32)
    p.exclusions[0][[3, 7]] = torch.tensor([30, -1])
    with on("cuda"):
        for results in (evaluate(ops, call, p, asked) for asked in (frozenset(), frozenset({"x"}), ALL)):
            if "positive" in results:
                assert results["positive"].isnan().nonzero().flatten().tolist() == [3, 7]
            assert all(results[name].isnan() for name in ("loss", "partition") if name in results)


def test_the_gpu_outlives_targets_outside():
    """PyTorch's own indexing would end its use."""
    x, y = (unit_rows(20, 8, seed).requires_grad_() for seed in (0, 1))
    target = torch.arange(20, device="cuda")
    target[[3, 7]] = torch.tensor([20, -1], device="cuda")
    scores = DotScores(x, y, 0.3, target=target, labels=(target, target))
    for value in (bounds.ml_cpc(scores, 0.5), scores.log_partition(reduction="lse"), scores.n_negatives.sum()):
        if value.requires_grad:
            assert value.isnan()
            value.backward()
    assert torch.ones(3, device="cuda").sum() == 3


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_a_scale_that_is_no_number_makes_none(scale):
    x, y = unit_rows(20, 8, 0), unit_rows(20, 8, 1)
    assert not DotScores(x, y, torch.tensor(scale, device="cuda")).cross_entropy().isfinite()


def test_a_scale_on_the_cpu_learns():
    x, y = unit_rows(20, 8, 0), unit_rows(20, 8, 1)
    scales = [torch.tensor(2.0, device=device, requires_grad=True) for device in ("cpu", "cuda")]
    for scale in scales:
        DotScores(x, y, scale).cross_entropy().backward()
    assert scales[0].grad.device.type == "cpu"
    torch.testing.assert_close(scales[0].grad, scales[1].grad.cpu())


def test_devices_may_not_be_mixed():
    x, y = unit_rows(20, 8, 0), unit_rows(20, 8, 1)
    with pytest.raises(ValueError, match="^y: expected a tensor on cuda:0, like x, got cpu"):
        DotScores(x, y.cpu())
    target = torch.arange(20)
    with pytest.raises(RuntimeError, match="dot_statistics: target must be on cuda:0, like x, but is on cpu"):
        ops.dot_statistics(x, y, 1.0, (target, None, None, None))
    with pytest.raises(RuntimeError, match="dot_statistics: expected all tensors on one GPU, but x is on cpu"):
        ops.dot_statistics(x.cpu(), y, 1.0, (None, None, None, None))


def test_tf32_is_as_coarse_as_it_says():
    x, y = unit_rows(300, 64, 0), unit_rows(300, 64, 1)
    truth = DotScores(x.double(), y.double(), 20.0).negative_lse
    before = torch.backends.cuda.matmul.fp32_precision
    errors = {}
    for precision in ("ieee", "tf32"):
        torch.backends.cuda.matmul.fp32_precision = precision
        errors[precision] = (DotScores(x, y, 20.0).negative_lse.double() - truth).abs().max().item()
    torch.backends.cuda.matmul.fp32_precision = before
    assert errors["ieee"] < 1e-5 < errors["tf32"] < 2e-2


def test_compiled():
    x, y = unit_rows(300, 64, 0), unit_rows(300, 64, 1)
    loss = losses.InfoNCE()
    compiled = torch.compile(loss, fullgraph=True)
    for a, b in zip(loss_and_gradients(compiled, x, y), loss_and_gradients(loss, x, y), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
