"""Float32 products by AMX, each number in three bfloat16 parts: when they are used, and how exact they are."""

import math

import pytest
import torch
from problems import CALLS, ISAS, PARTS, Problem, check, evaluate, problem

from mi_ext import _C, DotScores, ops

AMX = [isa for isa in ISAS if isa.endswith("+amx")]
BY_PARTS = [isa for isa in ISAS if isa.endswith(PARTS)]
PLAIN = "x86-64-v4"


def values(p: Problem, isa: str, always: bool) -> dict[str, torch.Tensor]:
    before = _C.isa()
    _C.set_isa(isa)
    _C.split_always(always)
    try:
        return evaluate(ops, "cross-entropy", p)
    finally:
        _C.split_always(False)
        _C.set_isa(before)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name].nan_to_num(nan=7.0), b[name].nan_to_num(nan=7.0)) for name in a)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("isa", AMX)
def test_large_products_are_of_parts(isa):
    """Where n m (d - 16) reaches 3 2^23 for 64 queries or more a thread; the last digits show who multiplied."""
    large, small = (
        problem(1024, 1024, 40, "targets", torch.float32),
        problem(1024, 1023, 40, "targets", torch.float32),
    )
    assert not same(values(large, isa, False), values(large, PLAIN, False))
    assert same(values(small, isa, False), values(small, PLAIN, False))
    few = problem(63, 9000, 200, "targets", torch.float32)
    assert same(values(few, isa, False), values(few, PLAIN, False))


@pytest.mark.parametrize("isa", AMX)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2.0**51, 1e30], ids=str)
@pytest.mark.parametrize("of", ["x", "y"])
def test_what_has_no_parts_is_multiplied_as_it_is(isa, value, of):
    """NaN, infinities and what is too large or too small."""
    p = problem(33, 97, 64, "targets", torch.float32)
    getattr(p, of)[5, 3] = value
    assert same(values(p, isa, True), values(p, PLAIN, False))
    tiny = problem(33, 97, 64, "targets", torch.float32)
    getattr(tiny, of).mul_(2.0**-60)
    assert same(values(tiny, isa, True), values(tiny, PLAIN, False))


@pytest.mark.parametrize("isa", BY_PARTS, indirect=True)
@pytest.mark.parametrize("d", [1, 16, 31, 32, 33, 48, 128, 129, 300])
def test_scores_are_no_worse_than_float32(isa, d):
    """One by one, where the judge looks at norms: within 2^-21 Σ |x_k y_k|; 64 roundings can come to 2^-18."""
    generator = torch.Generator().manual_seed(d)
    x, y = (torch.randn(n, d, generator=generator) for n in (37, 101))
    sizes = x.double().abs() @ y.double().abs().T
    truth = x.double() @ y.double().T
    for j in range(0, 101, 5):
        # The log-sum-exp over a single candidate is its score.
        log_weight = torch.full((101,), -math.inf, dtype=torch.float64)
        log_weight[j] = 0
        score = ops.dot_statistics(x, y, torch.tensor(1.0), (None, None, None, log_weight))[1]
        assert ((score - truth[:, j]).abs() <= 2.0**-21 * sizes[:, j]).all()


@pytest.mark.parametrize("isa", BY_PARTS, indirect=True)
@pytest.mark.parametrize("call", CALLS)
def test_long_vectors(isa, call):
    """Scores of more features than one sum of products holds."""
    check(call, problem(100, 193, 528, "everything", torch.float32))


def unit_rows(*shape: int, seed: int) -> torch.Tensor:
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def close_pairs():
    """Losses of 1e-28 at CLIP's greatest scale."""
    y = unit_rows(256, 128, seed=0)
    x = torch.nn.functional.normalize(y + 0.001 * unit_rows(256, 128, seed=1), dim=1)
    return x, y, 100.0, lambda scores: scores.cross_entropy()


def unlikely_pairs():
    x, y = unit_rows(256, 128, seed=0), unit_rows(256, 128, seed=1)
    return x, y, 10.0, lambda scores: scores.negative_softplus_sum()


def close_pairs_both_ways():
    """CLIP's weights carry the upstream gradients themselves."""
    x, y, scale, _ = close_pairs()

    def loss(scores):
        columns = scores.column_negative_lse
        return torch.nn.functional.softplus(torch.stack([scores.negative_lse, columns]) - scores.positive).sum()

    return x, y, scale, loss


@pytest.mark.parametrize("isa", BY_PARTS, indirect=True)
@pytest.mark.parametrize("case", [close_pairs, unlikely_pairs, close_pairs_both_ways])
def test_small_gradients_keep_their_digits(isa, case):
    """Parts are zero below 2^-126, so what is summed is measured against its largest first."""
    bias = torch.tensor(-80.0 if case is unlikely_pairs else 0.0)
    x, y, scale, loss = case()

    def gradients(dtype):
        inputs = [t.to(dtype).requires_grad_() for t in (x, y)]
        bias_of = {"bias": bias.to(dtype)} if bias else {}
        return torch.autograd.grad(loss(DotScores(*inputs, scale, **bias_of)), inputs)

    for ours, truth in zip(gradients(torch.float32), gradients(torch.float64), strict=True):
        assert truth.norm() > 0
        assert (ours - truth).norm() < 5e-5 * truth.norm()


@pytest.mark.parametrize("isa", BY_PARTS, indirect=True)
def test_a_sum_over_other_candidates_leaves_small_weights_their_digits(isa):
    """As in a ring: e^{s − a} of candidates that have e^-75 of the sum at most."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 64, generator=generator) / 8 for n in (256, 384))
    scores = x.double() @ y.double().T
    lse, upstream = scores.logsumexp(1) + 75, torch.ones(256, dtype=torch.float64)
    weights = (scores - lse[:, None]).exp()
    one = torch.tensor(1.0, dtype=torch.float64)
    dx, dy, *_ = ops.dot_lse_gradient(x, y, one, (None,) * 4, lse, upstream, True)
    for ours, truth in ((dx, weights @ y.double()), (dy, weights.T @ x.double())):
        assert (ours - truth).norm() < 1e-5 * truth.norm()
