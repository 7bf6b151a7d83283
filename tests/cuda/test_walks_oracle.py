"""Every walk against the float64 reference, judged as the operators on the CPU are: see tests/problems.py."""

from dataclasses import replace

import pytest
import torch
from problems import CALLS, DTYPES, EXCLUSIONS, LAYOUTS, check, laid_out, problem

from mi_ext import ops, reference

pytestmark = pytest.mark.usefixtures("walks")
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
EVERY_CALL = pytest.mark.parametrize("call", CALLS)


@EVERY_DTYPE
@EVERY_CALL
def test_everything_at_once(call, dtype):
    check(call, problem(33, 97, 20, "everything", dtype))


@EVERY_DTYPE
@pytest.mark.parametrize("kind", [kind for kind in EXCLUSIONS if kind != "everything"])
@pytest.mark.parametrize("call", ["statistics with columns", "softplus"])
def test_exclusions(call, kind, dtype):
    check(call, problem(20, 70, 33, kind, dtype))


@EVERY_DTYPE
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 70, 64), (70, 1, 9), (5, 13, 1), (130, 129, 128)], ids=str)
@pytest.mark.parametrize("call", ["statistics with columns", "cross-entropy"])
def test_ragged_shapes(call, shape, dtype):
    check(call, problem(*shape, "targets", dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape,kind", [((70, 140, 128), "targets"), ((33, 97, 100), "everything")], ids=str)
@EVERY_CALL
def test_a_number_of_features_that_kernels_are_made_for(call, shape, kind, dtype):
    """Whole tiles and chunks, and parts of them."""
    check(call, problem(*shape, kind, dtype))


@pytest.mark.parametrize("shape", [(200, 140, 64), (330, 200, 128), (200, 140, 256)], ids=str)
@pytest.mark.parametrize("call", ["statistics with columns", "cross-entropy"])
def test_tiles_without_a_target_before_and_after_those_with_one(call, shape):
    """Of the queries' blocks and of the candidates'."""
    p = problem(*shape, "targets", torch.bfloat16)
    target, *others = p.exclusions
    check(call, replace(p, exclusions=(target.sort().values, *others)))


@EVERY_DTYPE
@pytest.mark.parametrize("d", [257, 320])
def test_features_that_do_not_fit_in_shared_memory(d, dtype):
    check("statistics with columns", problem(20, 66, d, "targets", dtype))


@EVERY_DTYPE
@pytest.mark.parametrize("multiprocessors", [2, 100])
def test_few_queries_many_candidates(multiprocessors, dtype, walks):
    """The candidates are split; so are the queries, where the candidates own the walk."""
    walks.multiprocessors = multiprocessors
    for call in ("statistics with columns", "cross-entropy", "softplus"):
        check(call, problem(9, 300, 16, "targets", dtype))


@EVERY_DTYPE
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype):
    """Rows apart or shared, rows and first elements that are not 16-byte aligned; NaN lies between the rows."""
    p = problem(9, 20, 13, "plain", dtype)
    x, y = laid_out(p.x, layout), laid_out(p.y, layout)
    ours = ops.dot_statistics(rows_contiguous(x), rows_contiguous(y), p.scale, p.exclusions)[1]
    truth = reference.dot_statistics(x.double(), y.double(), p.scale, p.exclusions)[1]
    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-5)


def rows_contiguous(t):
    """As csrc/ops hands tensors to a kernel."""
    return t if t.stride(1) == 1 and (len(t) == 1 or t.stride(0) >= t.shape[1]) else t.contiguous()


@pytest.mark.parametrize("call", ["statistics with columns", "log-partition", "softplus"])
def test_tf32_rounds_each_factor_to_11_bits(call, walks):
    """Beside one product of rounded factors, exact products are at least 50 times closer to the truth."""
    p = problem(20, 70, 33, "plain", torch.float32)
    arguments = p.x, p.y, p.scale, p.exclusions
    truth = reference.dot_statistics(p.x.double(), p.y.double(), *arguments[2:])[1]
    exact = (ops.dot_statistics(*arguments)[1] - truth).abs().max()
    walks.tf32 = True
    rounded = (ops.dot_statistics(*arguments)[1] - truth).abs().max()
    assert 50 * exact < rounded < 2e-3
    check(call, p, epsilons=2**13)


@EVERY_DTYPE
@pytest.mark.parametrize("wanted", [{"x"}, {"y"}, {"scale"}, {"external"}], ids=str)
def test_one_gradient_alone(wanted, dtype):
    for call in ("cross-entropy", "softplus"):
        check(call, problem(9, 20, 16, "plain", dtype), frozenset(wanted))


def test_gradients_of_upstreams_of_either_sign(walks):
    p = problem(20, 40, 16, "everything", torch.float32)
    wide = [t if t is None or not t.is_floating_point() else t.double() for t in (p.x, p.y)]
    gradients = []
    for implementation, (x, y) in ((ops, (p.x, p.y)), (reference, wide)):
        x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
        scale = torch.tensor(p.scale, dtype=torch.float64, requires_grad=True)
        statistics = implementation.dot_statistics(x, y, scale, p.exclusions, True)
        generator = torch.Generator().manual_seed(3)
        total = 0
        for statistic in statistics:
            upstream = torch.randn(statistic.shape, generator=generator, dtype=torch.float64)
            total = total + (upstream * torch.where(statistic.isfinite(), statistic, 0)).sum()
        gradients.append(torch.autograd.grad(total, (x, y, scale)))
    for ours, truth in zip(*gradients, strict=True):
        torch.testing.assert_close(ours.double(), truth, rtol=1e-4, atol=1e-5)


def test_runs_give_the_same_bits(walks):
    walks.multiprocessors = 4
    p = problem(40, 150, 16, "targets", torch.bfloat16)
    arguments = p.x, p.y, torch.tensor(p.scale, dtype=torch.float64), *p.exclusions, None, 0.0, 0.0, False, True
    for first, again in zip(walks.dot_fused(*arguments), walks.dot_fused(*arguments), strict=True):
        assert torch.equal(first, again)
