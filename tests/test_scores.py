"""Scores against the definitions, written out on an explicit float64 matrix that shares no code with the package."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_ext import DenseScores, DotScores

INF = math.inf


def definition(x, y, scale, bias, target, positive, labels, v):
    """(score matrix, bool matrix of negatives, weighted scores, positive scores), entry by entry."""
    n, m = len(x), len(y)
    s = scale * x @ y.T + bias
    negative = torch.ones(n, m, dtype=torch.bool)
    for i in range(n):
        for j in range(m):
            excluded = positive is None and j == int(target[i])
            excluded |= labels is not None and int(labels[0][i]) == int(labels[1][j])
            excluded |= v is not None and v[j].item() == -INF
            negative[i, j] = not excluded
    p = s[torch.arange(n), target] if positive is None else scale * (x * positive).sum(1) + bias
    weighted = s if v is None else s + torch.where(v == -INF, 0.0, v)
    return s, negative, weighted, p


def lse(values):
    """log Σ exp of a list of 0-dim tensors."""
    return torch.stack(values).logsumexp(0) if values else torch.tensor(-INF, dtype=torch.float64)


PROBLEMS = {
    "in-batch": {},
    "more candidates": {"m": 11},
    "target": {"m": 9, "target": True},
    "external positive": {"m": 5, "positive": True},
    "labels": {"labels": True},
    "labels and target": {"m": 12, "labels": True, "target": True},
    "labels and external positive": {"m": 4, "labels": True, "positive": True},
    "log-weights": {"v": True},
    "everything": {"m": 10, "labels": True, "target": True, "v": True},
    "negative scale": {"scale": -1.7},
}


def problem(n=6, m=None, d=3, target=False, positive=False, labels=False, v=False, scale=1.3, seed=0):
    g = torch.Generator().manual_seed(seed)
    m = m or n

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    weight = normal(m)
    weight[1] = -INF
    return {
        "x": normal(n, d),
        "y": normal(m, d),
        "scale": torch.tensor(scale, dtype=torch.float64),
        "bias": torch.tensor(0.4, dtype=torch.float64),
        "target": torch.randint(m, (n,), generator=g) if target else None,
        "positive": normal(n, d) if positive else None,
        "labels": (torch.arange(n) % 3, torch.arange(m) % 4) if labels else None,
        "candidate_log_weight": weight if v else None,
    }


def tensors_with_gradient(arguments):
    names = ("x", "y", "scale", "bias", "positive")
    return [arguments[k].requires_grad_() for k in names if arguments[k] is not None]


def expand(arguments):
    target = arguments["target"]
    if target is None:
        target = torch.arange(len(arguments["x"]))
    rest = arguments["positive"], arguments["labels"], arguments["candidate_log_weight"]
    return definition(arguments["x"], arguments["y"], arguments["scale"], arguments["bias"], target, *rest)


QUANTITIES = {
    "positive": (lambda s: s.positive, lambda s, neg, w, p: p),
    "negative_lse": (
        lambda s: s.negative_lse,
        lambda s, neg, w, p: torch.stack([lse([w[i, j] for j in neg[i].nonzero().flatten()]) for i in range(len(w))]),
    ),
    "column_negative_lse": (
        lambda s: s.column_negative_lse,
        lambda s, neg, w, p: torch.stack([lse([w[i, j] for i in c.nonzero().flatten()]) for j, c in enumerate(neg.T)]),
    ),
    "column_block": (lambda s: s.column_block(1, 3), lambda s, neg, w, p: s[:, 1:3]),
    "shuffled": (
        lambda s: s.shuffled(torch.arange(s.n_queries) // 2),
        lambda s, neg, w, p: s[torch.arange(len(s)), torch.arange(len(s)) // 2],
    ),
    "negative_softplus_sum": (
        lambda s: s.negative_softplus_sum(),
        lambda s, neg, w, p: ((w - s).exp() * (1 + s.exp()).log())[neg].sum(),
    ),
}


def row_partition(a, b):
    def truth(s, neg, w, p):
        rows = QUANTITIES["negative_lse"][1](s, neg, w, p)
        return (math.exp(a) * p.exp() + math.exp(b) * rows.exp()).log()

    return truth


for weights in ((0.0, 0.0), (-INF, 0.3), (0.7, -0.2)):
    a, b = weights
    for how, reduce in (("none", lambda r: r), ("mean", torch.mean), ("lse", lambda r: r.exp().sum().log())):
        QUANTITIES[f"log_partition {a} {b} {how}"] = (
            lambda s, a=a, b=b, how=how: s.log_partition(a, b, how),
            lambda *t, a=a, b=b, reduce=reduce: reduce(row_partition(a, b)(*t)),
        )
    for how, reduce in (("none", lambda r: r), ("mean", torch.mean), ("sum", torch.sum)):
        QUANTITIES[f"cross_entropy {a} {b} {how}"] = (
            lambda s, a=a, b=b, how=how: s.cross_entropy(a, b, how),
            lambda *t, a=a, b=b, reduce=reduce: reduce(row_partition(a, b)(*t) - t[3]),
        )


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_values_and_gradients_follow_the_definition(name, quantity):
    arguments = problem(**PROBLEMS[name])
    inputs = tensors_with_gradient(arguments)
    ours, truth = QUANTITIES[quantity]
    expected, got = truth(*expand(arguments)), ours(DotScores(**arguments))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    finite = expected.detach() > -INF
    upstream = torch.linspace(0.5, 1.5, expected.numel(), dtype=torch.float64).reshape(expected.shape)

    def gradients(value):
        found = torch.autograd.grad((value * upstream)[finite].sum(), inputs, allow_unused=True)
        return [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, found, strict=True)]

    for a, b in zip(gradients(got), gradients(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("quantity", [q for q in QUANTITIES if q not in ("positive", "column_block", "shuffled")])
@pytest.mark.parametrize("name", ["log-weights", "everything"])
def test_gradient_of_log_weights(name, quantity):
    arguments = problem(**PROBLEMS[name])
    v = arguments["candidate_log_weight"].requires_grad_()
    ours, truth = QUANTITIES[quantity]
    expected, got = truth(*expand(arguments)), ours(DotScores(**arguments))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    finite = expected.detach() > -INF
    a, b = (torch.autograd.grad(t[finite].sum(), v)[0] for t in (got, expected))
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", PROBLEMS)
def test_counts(name):
    arguments = problem(**PROBLEMS[name])
    _, negative, _, _ = expand(arguments)
    scores = DotScores(**arguments)
    v = arguments["candidate_log_weight"]
    weight = torch.ones(negative.shape[1], dtype=torch.float64) if v is None else v.exp()
    rows = torch.as_tensor(scores.n_negatives).expand(len(negative))
    assert torch.equal(rows, negative.sum(1))
    assert torch.equal(torch.as_tensor(scores.n_candidates).expand(len(negative)), negative.sum(1) + 1)
    assert torch.equal(scores.column_negatives, negative.sum(0).double())
    mass = torch.as_tensor(scores.negative_mass).double()
    torch.testing.assert_close(mass, (negative * weight).sum())
    torch.testing.assert_close(torch.as_tensor(scores.log_negative_mass).double(), mass.log())


def test_counts_are_ints_where_rows_agree():
    x, y = torch.randn(4, 2), torch.randn(7, 2)
    assert (DotScores(x, y).n_candidates, DotScores(x, y).n_negatives) == (7, 6)
    beside = DotScores(x, y, positive=x)
    assert (beside.n_candidates, beside.n_negatives) == (8, 7)
    distinct = DotScores(x, y, labels=(torch.arange(4), torch.arange(7)))
    assert isinstance(distinct.n_negatives, int) and distinct.n_negatives == 6
    removed = torch.tensor([0.0, 0, 0, 0, 0, 0, -INF])
    assert DotScores(x, y, candidate_log_weight=removed).n_negatives == 5
    assert DenseScores(torch.randn(4, 7)).n_candidates == 7


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("target", [None, torch.tensor([4, 0, 0, 7, 2, 1])])
def test_dense_scores_agree_with_dot_scores(quantity, target):
    arguments = problem(m=8)
    matrix = expand(arguments)[0]
    dot = DotScores(arguments["x"], arguments["y"], arguments["scale"], arguments["bias"], target)
    ours = QUANTITIES[quantity][0]
    torch.testing.assert_close(ours(dot), ours(DenseScores(matrix, target)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_dense_scores_gradcheck(quantity):
    matrix = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: QUANTITIES[quantity][0](DenseScores(s)), matrix)


def test_weights_as_tensors_agree_with_floats():
    arguments = problem(labels=True)
    a = torch.tensor([0.0, 0.7, -1.0, -INF, 0.2, 0.1], dtype=torch.float64)
    scores = DotScores(**arguments)
    for method in (scores.cross_entropy, scores.log_partition):
        expected = torch.stack([method(float(w), 0.3, reduction="none")[i] for i, w in enumerate(a)])
        got = method(a, torch.tensor(0.3), reduction="none")
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("positive", [False, True])
def test_fused_and_recomputed_results_agree(positive):
    """A sum asked for first is fused; asked for after negative_lse it is made of the statistics: the same numbers."""
    results = []
    for first in (False, True):
        arguments = problem(positive=positive, v=True)
        inputs = tensors_with_gradient(arguments)
        scores = DotScores(**arguments)
        if first:
            scores.negative_lse.sum()
        total = scores.cross_entropy(0.2, -0.1) + scores.log_partition(0.1, 0.3, "lse")
        results.append([total, *torch.autograd.grad(total, inputs)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["in-batch", "more candidates", "external positive", "everything"])
def test_a_constant_weight_of_the_negatives_may_be_a_tensor(name):
    """b as a float and as a 0-dim tensor, with and without a gradient to candidate_log_weight: the same numbers."""
    arguments = problem(**PROBLEMS[name])
    inputs = tensors_with_gradient(arguments)
    for learned in (False, True):
        if learned and arguments.get("candidate_log_weight") is not None:
            inputs = [*inputs, arguments["candidate_log_weight"].requires_grad_()]
        results = []
        for b in (0.3, torch.tensor(0.3, dtype=torch.float64)):
            for total in (
                DotScores(**arguments).cross_entropy(0.2, b),
                DotScores(**arguments).log_partition(0.1, b, "lse"),
                DotScores(**arguments).cross_entropy(-INF, b),
            ):
                results.append([total.detach(), *torch.autograd.grad(total, inputs, allow_unused=True)])
        torch.testing.assert_close(results[:3], results[3:], rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(0, 5), st.integers(1, 5), st.integers(0, 2**16), st.floats(-50, 50))
def test_shift_and_permutation(n, extra, d, seed, shift):
    g = torch.Generator().manual_seed(seed)
    m = n + extra
    x, y = torch.randn(n, d, generator=g, dtype=torch.float64), torch.randn(m, d, generator=g, dtype=torch.float64)
    labels = torch.randint(3, (n,), generator=g), torch.randint(3, (m,), generator=g)
    order = torch.randperm(m, generator=g)
    moved = torch.argsort(order)[:n]
    base, shifted = DotScores(x, y, labels=labels), DotScores(x, y, bias=shift, labels=labels)
    permuted = DotScores(x, y[order], target=moved, labels=(labels[0], labels[1][order]))
    entropy = base.cross_entropy(reduction="none")
    torch.testing.assert_close(shifted.cross_entropy(reduction="none"), entropy, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(permuted.cross_entropy(reduction="none"), entropy, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(shifted.negative_lse, base.negative_lse + shift, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(permuted.column_negative_lse, base.column_negative_lse[order], rtol=1e-9, atol=1e-9)
