"""Bounds that decompose mutual information over sub-views: definitions, closed forms, three Gaussians, errors."""

import math

import pytest
import torch
from score_matrices import close

from mi_ext import DenseScores, DotScores, bounds

INF = math.inf
N, M, D = 6, 9, 4
pytestmark = pytest.mark.usefixtures("one_thread")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


KINDS = ["in-batch", "target", "external positive", "labels", "log-weights", "everything"]


def options(kind):
    """Keyword arguments of `DotScores`, and m."""
    labels = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 3, 1, 2, 2, 0, 3, 3, 1])
    weights = normal(M, seed=7)
    weights[1] = -INF
    given = {"target": torch.tensor([3, 0, 8, 2, 2, 5])} if kind in ("target", "labels", "log-weights") else {}
    if kind in ("external positive", "everything"):
        given["positive"] = normal(N, D, seed=8)
    if kind in ("labels", "everything"):
        given["labels"] = labels
    if kind in ("log-weights", "everything"):
        given["candidate_log_weight"] = weights
    return given


def definition(s1, s2, p1, p2, given, detach):
    """Row by row, on explicit matrices: InfoNCE of x', of x'', and of x' given x'' with importance weights."""
    n, m = s1.shape
    terms = []
    for i in range(n):
        kept = [j for j in range(m) if "target" in given and j != given["target"][i] or "positive" in given]
        kept = kept or [j for j in range(m) if j != i and not given.keys() & {"target", "positive"}]
        if "labels" in given:
            kept = [j for j in kept if given["labels"][0][i] != given["labels"][1][j]]
        v = given.get("candidate_log_weight", torch.zeros(m, dtype=torch.float64))
        kept = [j for j in kept if v[j] > -INF]
        v, a, b = v[kept], s1[i, kept], s2[i, kept]
        w = torch.softmax((b.detach() if detach else b) + v, 0)
        negatives = v.exp().sum() * (w * a.exp()).sum()
        log_k = math.log(len(kept) + 1)
        own = [p1[i], p2[i]]
        rows = [log_k + p - torch.log(p.exp() + (v + s).exp().sum()) for p, s in zip(own, (a, b), strict=True)]
        terms.append(torch.stack([*rows, log_k + own[0] - torch.log(own[0].exp() + negatives)]))
    return torch.stack(terms).mean(0)


def both_sources(x1, x2, y, given, how):
    """s1, s2 as products on one y, on two tensors that are equal, or as matrices."""
    if how == "matrix":
        return DenseScores(1.3 * x1 @ y.T + 0.2, given.get("target")), DenseScores(-0.7 * x2 @ y.T, given.get("target"))
    return DotScores(x1, y, 1.3, 0.2, **given), DotScores(x2, y if how == "one y" else y.clone(), -0.7, **given)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["one y", "two tensors", "matrix"])
@pytest.mark.parametrize("detach", [True, False], ids=["detached", "flowing"])
def test_definition(kind, how, detach):
    given = options(kind)
    if how == "matrix" and given.keys() - {"target"}:
        return
    leaves = [t.requires_grad_() for t in (normal(N, D), normal(N, D, seed=1), normal(M, D, seed=2))]
    x1, x2, y = leaves
    own = given.get("positive", y[given.get("target", torch.arange(N))])
    scores = 1.3 * x1 @ y.T + 0.2, -0.7 * x2 @ y.T
    positives = 1.3 * (x1 * own).sum(1) + 0.2, -0.7 * (x2 * own).sum(1)
    terms = definition(*scores, *positives, given, detach)
    lam = 0.3
    expected = lam * terms[0] + (1 - lam) * (terms[1] + terms[2])
    value, told = bounds.decomposed_infonce(*both_sources(*leaves, given, how), lam, detach, return_terms=True)
    close(value, expected)
    for name, term in zip(("first", "second", "conditional"), terms, strict=True):
        close(told[name], term)
        assert not told[name].requires_grad
    assert torch.equal(value, bounds.decomposed_infonce(*both_sources(*leaves, given, how), lam, detach))
    for ours, truth in zip(torch.autograd.grad(value, leaves), torch.autograd.grad(expected, leaves), strict=True):
        close(ours, truth)
    alone = bounds.importance_infonce(*both_sources(*leaves, given, how), detach)
    close(alone, definition(*scores, *positives, given, detach)[2])
    own_gradients = torch.autograd.grad(alone, leaves, allow_unused=True, materialize_grads=True)
    assert not detach or (own_gradients[1] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_second_critic_gives_infonce(kind):
    given, x, y = options(kind), normal(N, D), normal(M, D, seed=2)
    s1 = DotScores(x, y, 1.3, **given)
    for s2 in (DotScores(0 * x, y, **given), DotScores(0 * x, y, bias=3.0, **given)):
        close(bounds.importance_infonce(s1, s2), bounds.infonce(s1), 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_view_twice_is_infonce(kind):
    given, x, y = options(kind), normal(N, D).requires_grad_(), normal(M, D, seed=2)
    s1, s2 = DotScores(x, y, 1.3, **given), DotScores(x, y, 1.3, **given)
    close(bounds.decomposed_infonce(s1, s2, 1.0), bounds.infonce(s1), 1e-12)
    halves = bounds.decomposed_infonce(s1, s2, 0.0, return_terms=True)[1]
    close(halves["first"], halves["second"], 1e-12)


@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
def test_caps(lam):
    """(2 − λ) log K for two sub-views, N log K for N; reached when each critic tells the positive apart."""
    y = torch.eye(N, dtype=torch.float64)
    for spread in (1.0, 10.0, 60.0):
        s = [DotScores(torch.eye(N, dtype=torch.float64), y, spread) for _ in range(3)]
        value = bounds.decomposed_infonce(s[0], s[1], lam)
        assert value <= (2 - lam) * math.log(N) + 1e-12
        chain = bounds.chained_infonce(s)
        assert chain <= 3 * math.log(N) + 1e-12
    close(value, (2 - lam) * math.log(N), 1e-12)
    close(chain, 3 * math.log(N), 1e-12)


@pytest.mark.parametrize("how", ["one y", "two tensors"])
@pytest.mark.parametrize("detach", [True, False], ids=["detached", "flowing"])
@pytest.mark.parametrize("kind", ["in-batch", "target", "external positive", "everything"])
def test_chain(how, detach, kind):
    """Every term is importance_infonce with the sum of the scores told before; on matrices where they can say it."""
    given = options(kind)
    x = [normal(N, D, seed=k).requires_grad_() for k in range(3)]
    y = normal(M, D, seed=9).requires_grad_()
    scores = [DotScores(t, y if how == "one y" else y.clone(), 0.5 + k, 0.1 * k, **given) for k, t in enumerate(x)]
    value, terms = bounds.chained_infonce(scores, detach, return_terms=True)
    close(value, sum(terms))
    close(terms[0], bounds.infonce(scores[0]))
    close(terms[1], bounds.importance_infonce(scores[1], scores[0], detach))
    close(bounds.chained_infonce(scores[:1]), bounds.infonce(scores[0]))
    two = bounds.chained_infonce(scores[:2], detach)
    close(two, bounds.decomposed_infonce(scores[1], scores[0], 0.0, detach))
    if given.keys() - {"target"}:
        return
    matrices = [DenseScores((0.5 + k) * t @ y.T + 0.1 * k, given.get("target")) for k, t in enumerate(x)]
    expected = bounds.chained_infonce(matrices, detach)
    close(value, expected)
    for ours, truth in zip(torch.autograd.grad(value, [*x, y]), torch.autograd.grad(expected, [*x, y]), strict=True):
        close(ours, truth)


# DEMI's three Gaussians -----------------------------------------------------------------------------------------------


def log_density_ratio(mean, precision):
    """Features with <features, [1, y, y²]> = log N(y; mean, 1/precision) − log N(y; 0, 1)."""
    constant = 0.5 * (math.log(precision) - precision * mean**2)
    return torch.stack([constant, precision * mean, torch.full_like(mean, (1 - precision) / 2)], 1)


def three_gaussians(n, whole, share, seed):
    """x', x'' noisy copies of y ~ N(0, 1) with I(x', x''; y) = whole, I(x''; y) = share · whole; optimal critics."""
    precise, rough = math.exp(2 * whole), math.exp(2 * share * whole)  # 1/variance of y given both, given x''
    y = normal(n, seed=seed)
    x2 = y + normal(n, seed=seed + 1) / math.sqrt(rough - 1)
    x1 = y + normal(n, seed=seed + 2) / math.sqrt(precise - rough)
    told = log_density_ratio((rough - 1) * x2 / rough, rough)
    everything = log_density_ratio(((rough - 1) * x2 + (precise - rough) * x1) / precise, precise)
    candidates = torch.stack([torch.ones_like(y), y, y**2], 1)
    return (DotScores(t, candidates) for t in (everything - told, told, everything))


def mean_estimates(k, whole, batches):
    """Decomposed bound, and InfoNCE of both views at once, with optimal critics."""
    values = []
    for batch in range(batches):
        s1, s2, both = three_gaussians(k, whole, 0.5, 10 * batch)
        values.append(torch.stack([bounds.decomposed_infonce(s1, s2, 0.0), bounds.infonce(both)]))
    return torch.stack(values).mean(0).tolist()


@pytest.mark.parametrize("k", [16, 64])
def test_three_gaussians(k):
    """Of 8 nats the decomposed bound tells far more than log K, which InfoNCE of both views at once cannot pass."""
    decomposed, infonce = mean_estimates(k, 8.0, 40)
    assert infonce <= math.log(k) < 1.6 * math.log(k) < decomposed <= 8.0


def test_importance_sampling_becomes_exact():
    """Few candidates leave the weights without hard negatives, and the estimate too high; many do not."""
    errors = [mean_estimates(k, 4.0, batches)[0] - 4.0 for k, batches in ((64, 40), (256, 20), (1024, 6))]
    assert errors[0] > errors[1] > errors[2] > -0.02 and errors[2] < 0.06


# What may go wrong ----------------------------------------------------------------------------------------------------


def test_gradient_of_log_weights():
    v = normal(M, seed=3).requires_grad_()
    x1, x2, y = normal(N, D), normal(N, D, seed=1), normal(M, D, seed=2)

    def bound(v):
        s1, s2 = (DotScores(x, y, 0.7, candidate_log_weight=v) for x in (x1, x2))
        return bounds.decomposed_infonce(s1, s2, 0.3)

    torch.autograd.gradcheck(bound, v)
    close(bound(v), bound(v.detach()))


def test_no_negatives():
    """K = 1: every term is log 1 − 0; a row whose labels exclude all adds nothing but its own log K."""
    one = DotScores(normal(1, D), normal(1, D))
    assert bounds.importance_infonce(one, DotScores(normal(1, D), one.y)) == 0
    x, y = normal(N, D).requires_grad_(), normal(N, D, seed=1)
    same = torch.zeros(N, dtype=torch.int64)
    s1, s2 = (DotScores(t, y, labels=(same, same)) for t in (x, 2 * x))
    value = bounds.decomposed_infonce(s1, s2, 0.5)
    value.backward()
    assert value == 0 and (x.grad == 0).all()


def test_sixteen_bits():
    """float32 results, gradients in the inputs' dtype; a mixed pair is promoted."""
    x1, x2, y = (normal(k, D, seed=k).bfloat16().requires_grad_() for k in (N, N, M))
    exact = [DotScores(t.detach().double(), y.detach().double()) for t in (x1, x2)]
    value = bounds.decomposed_infonce(DotScores(x1, y), DotScores(x2.float(), y), 0.5)
    value.backward()
    assert value.dtype == torch.float32 and x1.grad.dtype == y.grad.dtype == torch.bfloat16
    close(value, bounds.decomposed_infonce(*exact, 0.5), 1e-5)


X, Y = normal(N, D), normal(M, D)
ERRORS = {
    "s2: expected the 6 queries and 9 candidates of s1, got 5 and 9": lambda: DotScores(X[:5], Y),
    "s2: expected the target of s1": lambda: DotScores(X, Y, target=torch.arange(N) + 1),
    "s2: expected the labels of x of s1": lambda: DotScores(
        X, Y, labels=(torch.zeros(N).long(), torch.zeros(M).long())
    ),
    "s2: expected the candidate_log_weight": lambda: DotScores(X, Y, candidate_log_weight=torch.zeros(M)),
    "or positive= in both": lambda: DotScores(X, Y, positive=X),
}


@pytest.mark.parametrize("message", ERRORS)
def test_scores_that_do_not_fit_together(message):
    for bound in (bounds.importance_infonce, lambda a, b: bounds.decomposed_infonce(a, b, 0.5)):
        with pytest.raises(ValueError) as error:
            bound(DotScores(X, Y), ERRORS[message]())
        assert message in str(error.value)


def test_other_errors():
    s = DotScores(X, Y)
    with pytest.raises(TypeError, match="both as DotScores or both as DenseScores, got DotScores and DenseScores"):
        bounds.importance_infonce(s, DenseScores(X @ Y.T))
    for lam in (-0.1, 1.1, math.nan, torch.tensor(0.5)):
        with pytest.raises(ValueError, match="lam: expected a number in"):
            bounds.decomposed_infonce(s, s, lam)
    with pytest.raises(ValueError, match="at least one sub-view"):
        bounds.chained_infonce([])
    empty = DotScores(X[:0], Y)
    for bound in (bounds.importance_infonce, lambda a, b: bounds.decomposed_infonce(a, b, 0.5)):
        with pytest.raises(ValueError, match="n ≥ 1 queries"):
            bound(empty, empty)


@pytest.mark.parametrize("how", ["one y", "two tensors"])
def test_compile(how):
    torch._dynamo.reset()

    def objective(x1, x2, y):
        s1, s2 = DotScores(x1, y, 3.0), DotScores(x2, y if how == "one y" else y * 1.0, 2.0)
        return bounds.decomposed_infonce(s1, s2, 0.3)

    compiled = torch.compile(objective, fullgraph=True, backend="aot_eager")
    found = []
    for call in (objective, compiled):
        leaves = [normal(N, D, seed=k).float().requires_grad_() for k in range(3)]
        value = call(*leaves)
        found.append((value.detach(), *torch.autograd.grad(value, leaves)))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
