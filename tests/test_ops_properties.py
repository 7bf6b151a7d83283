"""Identities that hold for all inputs, and what may not depend on anything."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import CALLS, EXCLUSIONS, Problem, evaluate, problem

from mi_ext import ops

pytestmark = pytest.mark.usefixtures("one_thread", "parts")
PROBLEMS = st.builds(
    problem,
    n=st.integers(1, 40),
    m=st.integers(2, 120),
    d=st.integers(1, 70),
    kind=st.sampled_from(EXCLUSIONS),
    scale=st.sampled_from([1.3, -0.8, 7.0]),
    seed=st.integers(0, 5),
)
EVERY_CALL = pytest.mark.parametrize("call", CALLS)
few = settings(max_examples=15, deadline=None)


def close(a, b, tolerance=1e-11):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance, msg=lambda m, k=name: f"{k}: {m}")


def with_exclusions(p: Problem, **changed) -> Problem:
    names = ("target", "x_label", "y_label", "v")
    return replace(p, exclusions=tuple(changed.get(k, t) for k, t in zip(names, p.exclusions, strict=True)))


def at(t, index):
    return None if t is None else t[index]


def statistics(p: Problem, columns=True):
    return ops.dot_statistics(p.x, p.y, p.scale, p.exclusions, columns)


@few
@given(p=PROBLEMS, shift=st.floats(-30, 30))
def test_shift(p, shift):
    """A feature that is 1 in x and shift / scale in y adds `shift` to each score, as the bias does."""
    ones, shifts = p.x.new_ones(len(p.x), 1), p.y.new_full((len(p.y), 1), shift / p.scale)
    shifted = replace(p, x=torch.cat([p.x, ones], 1), y=torch.cat([p.y, shifts], 1))
    for before, after in zip(statistics(p), statistics(shifted), strict=True):
        if before is not None:
            torch.testing.assert_close(after, before + shift, rtol=1e-11, atol=1e-11)
    biased = replace(p, bias=p.bias + shift)
    for call in ("softplus", "clipped"):
        close(evaluate(ops, call, shifted, frozenset()), evaluate(ops, call, biased, frozenset()))


@few
@given(p=PROBLEMS, shift=st.floats(-30, 30), a=st.floats(-2, 2), b=st.floats(-2, 2))
def test_only_differences_of_positive_and_negatives_count(p, shift, a, b):
    """A cross-entropy does not see p and b rise together; a log-partition rises with them."""
    p = replace(p, external=torch.linspace(-2, 2, len(p.x), dtype=torch.float64))
    exclusions = (None, *p.exclusions[1:])

    def both(external, b):
        arguments = p.x, p.y, p.scale, exclusions, external, a, b
        return ops.dot_cross_entropy_sum(*arguments), ops.dot_log_partition(*arguments)[0]

    (loss, partition), (same_loss, higher) = both(p.external, b), both(p.external + shift, b + shift)
    torch.testing.assert_close(same_loss, loss, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(higher, partition + shift, rtol=1e-11, atol=1e-11)


@few
@given(p=PROBLEMS, seed=st.integers(0, 99))
@EVERY_CALL
def test_order_of_candidates(call, p, seed):
    """Column statistics, gradients of y: those move along."""
    order = torch.randperm(len(p.y), generator=torch.Generator().manual_seed(seed))
    target, _, y_label, v = at(p.exclusions[0], slice(None)), None, p.exclusions[2], p.exclusions[3]
    target = None if target is None else order.argsort()[target]
    moved = replace(with_exclusions(p, target=target, y_label=at(y_label, order), v=at(v, order)), y=p.y[order])
    if call == "statistics with columns":  # its upstream gradient is drawn in the order of the columns
        for side, (before, after) in enumerate(zip(statistics(p), statistics(moved), strict=True)):
            if before is not None:
                torch.testing.assert_close(after, before[order] if side == 2 else before, rtol=1e-11, atol=1e-11)
        return
    expected = evaluate(ops, call, p)
    close(evaluate(ops, call, moved), expected | ({"dy": expected["dy"][order]} if "dy" in expected else {}))


@few
@given(p=PROBLEMS, seed=st.integers(0, 99))
def test_order_of_queries(p, seed):
    order = torch.randperm(len(p.x), generator=torch.Generator().manual_seed(seed))
    target, x_label, *_ = p.exclusions
    moved = replace(
        with_exclusions(p, target=at(target, order), x_label=at(x_label, order)),
        x=p.x[order],
        external=at(p.external, order),
    )
    for side, (before, after) in enumerate(zip(statistics(p), statistics(moved), strict=True)):
        if before is not None:
            torch.testing.assert_close(after, before if side == 2 else before[order], rtol=1e-11, atol=1e-11)
    for call in ("cross-entropy", "cross-entropy, weighted", "clipped"):
        expected = evaluate(ops, call, p)
        in_order = {k: expected[k][order] for k in ("dx", "dexternal") if k in expected}
        close(evaluate(ops, call, moved), expected | in_order)


@few
@given(p=PROBLEMS, where=st.floats(0, 1))
def test_halves_make_the_whole(p, where):
    """Log-sum-exps of two parts of the candidates merge by logaddexp, softplus sums by addition."""
    p = with_exclusions(replace(p, external=None), target=None)
    cut = round(where * len(p.y))
    parts = [
        replace(with_exclusions(p, y_label=at(p.exclusions[2], s), v=at(p.exclusions[3], s)), y=p.y[s])
        for s in (slice(0, cut), slice(cut, None))
    ]
    (_, first, first_columns), (_, second, second_columns) = map(statistics, parts)
    _, whole, columns = statistics(p)
    torch.testing.assert_close(torch.logaddexp(first, second), whole, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(torch.cat([first_columns, second_columns]), columns, rtol=1e-11, atol=1e-11)
    sums = [ops.dot_softplus_sum(q.x, q.y, q.scale, q.bias, q.exclusions)[0] for q in (*parts, p)]
    torch.testing.assert_close(sums[0] + sums[1], sums[2], rtol=1e-11, atol=1e-11)
    clipped = [ops.dot_clipped_log_partition(q.x, q.y, q.scale, q.bias, q.exclusions, 2.0) for q in (*parts, p)]
    torch.testing.assert_close(torch.logaddexp(clipped[0], clipped[1]), clipped[2], rtol=1e-11, atol=1e-11)


@few
@given(p=PROBLEMS)
def test_transposed(p):
    """Rows become columns; only the log-weights, which belong to candidates, do not turn."""
    p = with_exclusions(p, target=None, v=None)
    turned = replace(with_exclusions(p, x_label=p.exclusions[2], y_label=p.exclusions[1]), x=p.y, y=p.x)
    (_, rows, columns), (_, turned_rows, turned_columns) = statistics(p), statistics(turned)
    torch.testing.assert_close(turned_rows, columns, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(turned_columns, rows, rtol=1e-11, atol=1e-11)


@few
@given(p=PROBLEMS, a=st.sampled_from([0.0, -1.5, -float("inf")]), b=st.floats(-2, 2))
@pytest.mark.parametrize("what", ["cross-entropy", "log-partition"])
def test_fused_is_recomputed(what, p, a, b):
    """Gradients that come with the loss are those of the same loss built from differentiable statistics."""

    def gradients(loss_of):
        leaves = [t.clone().requires_grad_() for t in (p.x, p.y, torch.tensor(p.scale, dtype=torch.float64))]
        loss = loss_of(*leaves)
        return loss.detach(), *torch.autograd.grad(loss, leaves)

    def fused(x, y, scale):
        if what == "cross-entropy":
            return ops.dot_cross_entropy_sum(x, y, scale, p.exclusions, p.external, a, b)
        return ops.dot_log_partition(x, y, scale, p.exclusions, p.external, a, b)[0]

    def built(x, y, scale):
        positive, lse, _ = ops.dot_statistics(x, y, scale, p.exclusions)
        positive = p.external if positive is None else positive
        counts = lse > -float("inf")  # a row without negatives: its partition is the positive's
        if what == "cross-entropy":
            excess = torch.where(counts, b + lse - positive, -float("inf"))
            return (excess if a == -float("inf") else torch.logaddexp(torch.full_like(excess, a), excess)).sum()
        rows = b + torch.where(counts, lse, -float("inf"))
        return (rows if a == -float("inf") else torch.logaddexp(positive + a, rows)).logsumexp(0)

    if (statistics(p)[1] == -float("inf")).any():
        p = with_exclusions(p, x_label=None, y_label=None, v=None)
    if len(p.y) == 1 or (statistics(p)[1] == -float("inf")).any():
        return
    for ours, expected in zip(gradients(fused), gradients(built), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@few
@given(p=PROBLEMS, factor=st.sampled_from([0.0, 1.0, -2.0, 0.125, 1024.0]))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_gradients_are_linear_in_the_upstream_factor(dtype, p, factor):
    """By powers of two exactly, in every dtype: no gradient is rounded before the factor arrives."""
    p = p.to(dtype)

    def gradients(factor):
        x, y = p.x.clone().requires_grad_(), p.y.clone().requires_grad_()
        loss = ops.dot_cross_entropy_sum(x, y, p.scale, p.exclusions, p.external, 0.0, 0.0)
        return torch.autograd.grad(factor * loss, (x, y))

    for ours, unit in zip(gradients(factor), gradients(1.0), strict=True):
        assert torch.equal(ours, factor * unit)


@EVERY_CALL
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_runs_agree_bit_by_bit(call, dtype, threads):
    p = problem(200, 300, 33, "everything", dtype)
    first = evaluate(ops, call, p)
    for _ in range(3):
        again = evaluate(ops, call, p)
        assert all(torch.equal(again[name], first[name]) for name in first)


@EVERY_CALL
@pytest.mark.parametrize("n,m", [(3, 700), (400, 90)])
def test_thread_counts_agree(call, n, m):
    p = problem(n, m, 20, "everything", torch.float64)
    one = evaluate(ops, call, p)
    for count in (2, 3):
        torch.set_num_threads(count)
        close(evaluate(ops, call, p), one)


@few
@given(p=PROBLEMS)
def test_positive_is_the_score_with_the_target(p):
    """The same number from every operator, plus the bias where there is one."""
    target = torch.arange(len(p.x)) % len(p.y)
    p = with_exclusions(p, target=target)
    positive = p.scale * (p.x * p.y[target]).sum(1)
    torch.testing.assert_close(statistics(p)[0], positive, rtol=1e-12, atol=1e-12)
    biased = ops.dot_softplus_sum(p.x, p.y, p.scale, p.bias, p.exclusions)[1]
    torch.testing.assert_close(biased, positive + p.bias, rtol=1e-12, atol=1e-12)
    x = p.x.clone().requires_grad_()
    assert torch.equal(ops.dot_log_partition(x, p.y, p.scale, p.exclusions, None, 0.0, 0.0)[1], statistics(p)[0])
