"""Two query sets on a simulated GPU against the float64 reference; all exclusions at once: `test_walks_oracle.py`."""

import pytest
import torch
from problems import DTYPES, EXCLUSIONS, check, laid_out, problem
from test_importance_ops import check_infinite_log_weight, check_minus_infinity_in_one_set, separate

from mi_ext import ops, reference

pytestmark = pytest.mark.usefixtures("walks")
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
FLOATS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
NO_EXCLUSIONS = (None, None, None, None)


@pytest.mark.parametrize("kind", [kind for kind in EXCLUSIONS if kind != "everything"])
@FLOATS
def test_exclusions(kind, dtype):
    check("importance objective", problem(20, 70, 33, kind, dtype))


@EVERY_DTYPE
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 70, 64), (70, 1, 9), (70, 67, 20)], ids=str)
def test_ragged_shapes(shape, dtype):
    check("importance", problem(*shape, "targets", dtype))


@EVERY_DTYPE
def test_features_that_do_not_fit_in_shared_memory(dtype):
    check("importance objective", problem(9, 40, 264, "targets", dtype))


@EVERY_DTYPE
def test_few_queries_many_candidates(dtype, walks):
    """The candidates are split; so are the queries, where the candidates own the walk."""
    walks.multiprocessors = 100
    check("importance objective", problem(40, 200, 16, "everything", dtype))


@FLOATS
@pytest.mark.parametrize("scale", [-1.0, 100.0])
def test_scales(scale, dtype):
    check("importance objective", problem(20, 40, 16, "everything", dtype, scale))


@pytest.mark.parametrize("layout", ["rows apart", "expanded rows", "offset"])
def test_layouts(layout):
    p = problem(9, 20, 13, "plain", torch.float32)
    x, y = laid_out(p.x, layout), laid_out(p.y, layout)
    wide = (x.double(), x.flip(0).double(), y.double())
    truth = reference.importance_statistics(*wide, 1.3, -0.6, p.exclusions)
    for sides in ((x, x.flip(0), y), (x.flip(0), x, y)):
        ours = ops.importance_statistics(*sides, *((1.3, -0.6) if sides[0] is x else (-0.6, 1.3)), p.exclusions)
        order = (2, 3, 4) if sides[0] is x else (3, 2, 4)
        for k, expected in zip(order, truth[2:], strict=True):
            torch.testing.assert_close(ours[k], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "everything"])
@pytest.mark.parametrize("detach", [True, False], ids=["detached", "flowing"])
@pytest.mark.parametrize("weights", [(0.4, 0.7, 1.2), (0.0, 0.0, 1.0)], ids=str)
def test_each_gradient_of_the_objective(kind, detach, weights):
    """Scales of either sign, each with its own gradient; the positives, where they lie beside the candidates, too."""
    p, leaves = separate(kind)
    log_mass = torch.linspace(1, 3, len(p.x), dtype=torch.float64)

    def objective(implementation):
        sides = *leaves[:5], p.exclusions, tuple(leaves[5:]) or None, log_mass
        loss, terms = implementation.importance_cross_entropy_sum(*sides, weights, detach)
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        return loss.detach(), terms, *gradients

    for ours, expected in zip(objective(ops), objective(reference), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("detach", [True, False], ids=["detached", "flowing"])
@pytest.mark.parametrize("which", range(5))
def test_each_gradient_of_a_statistic(detach, which):
    """One upstream gradient at a time, of either sign, the others absent: which 0 and 1 are the positives."""
    p, leaves = separate("everything")

    def gradients(implementation):
        t = implementation.importance_statistics(*leaves, p.exclusions, detach)[which]
        total = (torch.linspace(-1, 2, len(t), dtype=torch.float64) * t.nan_to_num(neginf=0)).sum()
        return torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)

    ours = gradients(ops)
    for one, expected in zip(ours, gradients(reference), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-10, atol=1e-10)
    if which == 4 and detach:
        assert (ours[1] == 0).all() and ours[4] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_small_weights_are_not_flushed(dtype, walks):
    """float16 has no number below 6e-8; the weights of 600 candidates, times 1e-6, lie there; scales differ by 1000."""
    g = torch.Generator().manual_seed(0)
    x1, x2, y = ((torch.randn(k, 16, generator=g) / 4).to(dtype) for k in (8, 8, 600))

    def gradients(implementation, to):
        leaves = [t.to(to).requires_grad_() for t in (x1, x2, y)]
        lse = implementation.importance_statistics(*leaves, 1.0, 1e-3, NO_EXCLUSIONS)[2:]
        return torch.autograd.grad(1e-6 * sum(t.sum() for t in lse), leaves)

    for ours, expected in zip(gradients(ops, dtype), gradients(reference, torch.float64), strict=True):
        kept = ours.double() if dtype == torch.bfloat16 else ours.double()[expected.abs() > 1e-4]
        truth = expected if dtype == torch.bfloat16 else expected[expected.abs() > 1e-4]
        assert (kept - truth).norm() <= 3 * torch.finfo(dtype).eps * truth.norm()


@FLOATS
@pytest.mark.parametrize("n,m", [(0, 5), (4, 0)])
def test_nothing(n, m, dtype):
    x, y = torch.ones(n, 3, dtype=dtype, requires_grad=True), torch.ones(m, 3, dtype=dtype, requires_grad=True)
    rows = torch.ones(n, dtype=torch.float64)
    sides = x, x, y, 1.3, 0.7, NO_EXCLUSIONS, (rows, rows), rows, (1.0, 1.0, 1.0)
    for implementation in (ops, reference):
        loss, _ = implementation.importance_cross_entropy_sum(*sides)
        assert loss == 0
        for gradient in torch.autograd.grad(loss, (x, y), allow_unused=True, materialize_grads=True):
            assert (gradient == 0).all()
    assert all((t == -torch.inf).all() for t in ops.importance_statistics(*sides[:6])[2:])


@FLOATS
def test_everything_excluded_but_for_some_rows(dtype):
    """−inf, and a gradient of 0, never NaN, in the rows whose label all candidates have."""
    p = problem(20, 33, 5, "plain", dtype)
    labels = torch.arange(20) % 2, torch.ones(33, dtype=torch.int64)
    exclusions = (torch.arange(20), *labels, None)
    x = p.x.clone().requires_grad_()
    positive, _, *lse = ops.importance_statistics(x, x.flip(0), p.y, 1.3, 0.7, exclusions)
    alone = labels[0] == 1
    for t in lse:
        assert ((t == -torch.inf) == alone).all()
    (gradient,) = torch.autograd.grad(lse[0].sum(), x)
    assert positive.isfinite().all() and (gradient[alone] == 0).all() and (gradient[~alone] != 0).any()
    check("importance", type(p)(**vars(p) | {"exclusions": exclusions}))


@FLOATS
@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan])
def test_special_values_stay_in_their_rows(value, dtype):
    p = problem(20, 40, 3, "plain", dtype)
    x1, y = p.x.clone(), p.y.abs()
    x1[5, 1] = value
    sides = x1, p.x, y
    ours = ops.importance_statistics(*sides, 1.3, 0.7, NO_EXCLUSIONS)[2:]
    truth = reference.importance_statistics(*(t.double() for t in sides), 1.3, 0.7, NO_EXCLUSIONS)[2:]
    for one, expected in zip(ours, truth, strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


@FLOATS
@pytest.mark.parametrize("which", range(2))
def test_minus_infinity_in_one_set(which, dtype):
    check_minus_infinity_in_one_set(which, torch.inf, dtype)


@FLOATS
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_infinite_log_weight(value, dtype):
    check_infinite_log_weight(value, dtype)


def test_a_target_outside_the_candidates_has_no_positive():
    p = problem(5, 7, 3, "plain", torch.float32)
    target = torch.tensor([0, 7, -1, 2**40, 6])
    exclusions = (target, None, None, None)
    *positive, first, second, joint = ops.importance_statistics(p.x, p.x, p.y, 1.3, 0.7, exclusions)
    for t in positive:
        assert t.isnan().tolist() == [False, True, True, True, False]
    assert all(t.isfinite().all() for t in (first, second, joint))


def test_tf32_rounds_each_factor_to_11_bits(walks):
    p = problem(20, 70, 33, "plain", torch.float32)
    sides = p.x, p.x.flip(0), p.y
    truth = reference.importance_statistics(*(t.double() for t in sides), 1.3, 0.7, NO_EXCLUSIONS)[4]
    errors = []
    for walks.tf32 in (False, True):
        errors.append((ops.importance_statistics(*sides, 1.3, 0.7, NO_EXCLUSIONS)[4] - truth).abs().max())
    assert 50 * errors[0] < errors[1] < 4e-3
