"""Scores at their edges: dtypes, tiny losses, −inf, NaN, nothing at all, and wrong arguments."""

import math
import warnings

import pytest
import torch

from mi_ext import DenseScores, DotScores, GatheredScores, bounds, critics, reference
from mi_ext.scores import LocalGlobalScores

INF = math.inf


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    result = torch.float64 if dtype == torch.float64 else torch.float32
    x, y = torch.randn(5, 4, dtype=torch.float64).to(dtype), torch.randn(5, 4, dtype=torch.float64).to(dtype)
    truth = DotScores(x.double(), y.double(), 0.5)
    scores = DotScores(x.requires_grad_(), y, 0.5)
    for name in ("positive", "negative_lse", "column_negative_lse"):
        assert getattr(scores, name).dtype == result
    loss = scores.cross_entropy()
    assert loss.dtype == scores.log_partition().dtype == scores.negative_softplus_sum().dtype == result
    assert scores.double().cross_entropy().dtype == torch.float64
    if dtype in (torch.float64, torch.float32):
        torch.testing.assert_close(loss.double(), truth.cross_entropy(), rtol=1e-5, atol=1e-6)
    loss.backward()
    assert x.grad.dtype == dtype


def test_mixed_dtypes_are_promoted():
    x, y = torch.randn(3, 2), torch.randn(3, 2, dtype=torch.float64)
    assert DotScores(x, y).cross_entropy().dtype == torch.float64
    assert DotScores(x.half(), x.bfloat16()).cross_entropy().dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiny_losses_keep_their_digits(dtype):
    """−log p = log(1 + e^{−46}) = 1.05e-20, which log-partition minus positive cannot represent."""
    x = torch.eye(2, dtype=dtype)
    for scale in (46.0, 10000.0):
        expected = torch.full((2,), math.log1p(math.exp(-scale)), dtype=dtype)
        for scores in (DotScores(x, x, scale), DenseScores(scale * x)):
            torch.testing.assert_close(scores.cross_entropy(reduction="none"), expected, rtol=1e-4, atol=0)
            torch.testing.assert_close(scores.cross_entropy(), expected[0], rtol=1e-4, atol=0)


def test_softplus_has_no_threshold():
    """softplus(25) − 25 = 1.39e-11, which torch's softplus drops above its threshold of 20."""
    s = torch.tensor([[0.0, 25.0], [25.0, 0.0]], dtype=torch.float64)
    excess = 2 * math.log1p(math.exp(-25.0))
    unit = torch.eye(2, dtype=torch.float64)
    for scores in (DotScores(s, unit), DenseScores(s)):
        assert scores.negative_softplus_sum().item() - 50 == pytest.approx(excess, rel=1e-2)
        assert scores.cross_entropy(reduction="sum").item() - 50 == pytest.approx(excess, rel=1e-2)
    exact = reference.dot_cross_entropy_sum(s, unit, 1.0, (torch.arange(2), None, None, None), None, 0.0, 0.0)
    assert exact.item() - 50 == pytest.approx(excess, rel=1e-2)


def test_excluded_rows_have_minus_infinity_and_no_gradient():
    x, y = torch.randn(3, 2).requires_grad_(), torch.randn(3, 2).requires_grad_()
    scale = torch.tensor(2.0, requires_grad=True)
    scores = DotScores(x, y, scale, labels=(torch.tensor([0, 0, 0]), torch.tensor([0, 0, 0])))
    assert torch.equal(scores.negative_lse, torch.full((3,), -INF))
    value = scores.cross_entropy() + scores.log_partition(reduction="lse") + scores.column_negative_lse.exp().sum()
    assert torch.equal(scores.cross_entropy(reduction="none"), torch.zeros(3))
    for t, g in zip((x, y, scale), torch.autograd.grad(value, (x, y, scale)), strict=True):
        assert g.isfinite().all(), t
    again = DotScores(x, y, scale, labels=(torch.zeros(3).long(), torch.zeros(3).long()))
    (only,) = torch.autograd.grad(again.negative_lse.exp().sum(), x)
    assert torch.equal(only, torch.zeros_like(x))


def test_minus_infinity_entries_of_a_matrix_take_no_part():
    matrix = torch.tensor([[1.0, -INF, -INF], [0.5, 2.0, -INF], [0.1, 0.2, 0.3]], dtype=torch.float64).requires_grad_()
    scores = DenseScores(matrix)
    expected = torch.tensor([-INF, 0.5, math.log(math.exp(0.1) + math.exp(0.2))], dtype=torch.float64)
    torch.testing.assert_close(scores.negative_lse, expected)
    (gradient,) = torch.autograd.grad(scores.log_partition(reduction="lse") + scores.cross_entropy(), matrix)
    assert gradient.isfinite().all() and (gradient[matrix == -INF] == 0).all()


def test_nan_stays_in_its_row():
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    x[2, 1] = math.nan
    for scores in (DotScores(x, y), DenseScores(x @ y.T)):
        expected = torch.tensor([False, False, True, False])
        assert torch.equal(scores.negative_lse.isnan(), expected)
        assert torch.equal(scores.cross_entropy(reduction="none").isnan(), expected)


def test_no_candidates_and_no_queries():
    x, nothing = torch.randn(3, 2), torch.empty(0, 2)
    bank = DotScores(x, nothing, positive=x)
    assert torch.equal(bank.negative_lse, torch.full((3,), -INF)) and bank.n_candidates == 1
    torch.testing.assert_close(bank.cross_entropy(), torch.tensor(0.0))
    for scores in (DotScores(nothing, x), DenseScores(torch.empty(0, 3))):
        assert scores.cross_entropy(reduction="none").shape == scores.negative_lse.shape == (0,)
        assert scores.cross_entropy(reduction="sum") == 0 and scores.log_partition(reduction="lse") == -INF
        for method in (scores.cross_entropy, scores.log_partition):
            with pytest.raises(ValueError, match="n = 0"):
                method(reduction="mean")


def test_statistics_kept_without_a_graph_do_not_lose_the_gradient():
    x = torch.randn(4, 3, requires_grad=True)
    scores = DotScores(x, x.detach())
    with torch.no_grad():
        scores.negative_lse, scores.cross_entropy()
    assert scores.negative_lse.requires_grad and scores.cross_entropy().requires_grad


def test_learned_scale_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scale = torch.nn.Parameter(torch.tensor(2.0))
        DotScores(torch.randn(3, 2), torch.randn(3, 2), scale).cross_entropy().backward()


X, Y, LONG, LABEL = torch.randn(3, 2), torch.randn(4, 2), torch.arange(3), torch.arange(4)
BAD = {
    "x is a list": (lambda: DotScores([1.0], Y), TypeError, "^x: "),
    "x integer": (lambda: DotScores(X.long(), Y), TypeError, "^x: .*int64"),
    "x 1-D": (lambda: DotScores(X[0], Y), ValueError, r"^x: .*\(2,\)"),
    "y width": (lambda: DotScores(X, Y[:, :1]), ValueError, "^y: .*d = 2"),
    "device": (lambda: DotScores(X, Y.to("meta")), ValueError, "^y: .*meta"),
    "few candidates": (lambda: DotScores(X, Y[:2]), ValueError, "^target: .*n = 3.*m = 2"),
    "target dtype": (lambda: DotScores(X, Y, target=LONG.int()), TypeError, "^target: .*int32"),
    "target shape": (lambda: DotScores(X, Y, target=LONG[:2]), ValueError, r"^target: .*\(2,\)"),
    "target range": (lambda: DotScores(X, Y, target=LONG + 2), ValueError, r"^target: .*\[0, 4\).*2 to 4"),
    "target negative": (lambda: DotScores(X, Y, target=LONG - 1), ValueError, "^target: .*-1"),
    "target and positive": (lambda: DotScores(X, Y, target=LONG, positive=X), ValueError, "^target, positive: "),
    "positive shape": (lambda: DotScores(X, Y, positive=Y), ValueError, "^positive: "),
    "labels not a pair": (lambda: DotScores(X, Y, labels=LONG), TypeError, "^labels: .*pair"),
    "labels float": (lambda: DotScores(X, Y, labels=(X[:, 0], Y[:, 0])), TypeError, "^labels: .*integer"),
    "labels shape": (lambda: DotScores(X, Y, labels=(LONG, LONG)), ValueError, r"^labels: .*\(4,\) for y"),
    "weight shape": (lambda: DotScores(X, Y, candidate_log_weight=X[:, 0]), ValueError, "^candidate_log_weight: "),
    "weight dtype": (lambda: DotScores(X, Y, candidate_log_weight=LABEL), TypeError, "^candidate_log_weight: "),
    "scale 0": (lambda: DotScores(X, Y, 0.0), ValueError, "^scale: .*other than 0"),
    "scale tensor 0": (lambda: DotScores(X, Y, torch.tensor(0.0)), ValueError, "^scale: .*other than 0"),
    "scale inf": (lambda: DotScores(X, Y, INF), ValueError, "^scale: .*inf"),
    "scale shape": (lambda: DotScores(X, Y, torch.ones(1)), ValueError, "^scale: .*0-dim"),
    "scale type": (lambda: DotScores(X, Y, "1"), TypeError, "^scale: "),
    "bias nan": (lambda: DotScores(X, Y, bias=math.nan), ValueError, "^bias: "),
    "reduction": (lambda: DotScores(X, Y).cross_entropy(reduction="lse"), ValueError, "^reduction: .*'sum'"),
    "partition reduction": (lambda: DotScores(X, Y).log_partition(reduction="sum"), ValueError, "^reduction: .*'lse'"),
    "weight nan": (lambda: DotScores(X, Y).cross_entropy(math.nan), ValueError, "^positive_log_weight: "),
    "weight length": (lambda: DotScores(X, Y).cross_entropy(0, torch.ones(2)), ValueError, "^negative_log_weight: "),
    "index range": (lambda: DotScores(X, Y).shuffled(LONG + 2), ValueError, "^index: "),
    "matrix 1-D": (lambda: DenseScores(X[0]), ValueError, "^matrix: "),
    "matrix few columns": (lambda: DenseScores(X), ValueError, "^target: "),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_name_the_argument(name):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call()


SOURCES = {
    "dot": lambda x, y: DotScores(x, y, 2.0, 0.1),
    "dense": lambda x, y: DenseScores(x @ y.T),
    "gathered": lambda x, y: GatheredScores(x, negatives=y[None].repeat(len(x), 1, 1), positive=y),
    "joint": lambda x, y: critics.Joint(4, 4, 8)(x, y),
    "local_global": lambda x, y: LocalGlobalScores(x, y[:, None].repeat(1, 3, 1)),
}


@pytest.mark.parametrize("source", SOURCES)
def test_annotations_name_what_an_object_holds(source):
    """Under torch.compile `double` copies what they name."""
    scores = SOURCES[source](torch.randn(5, 4), torch.randn(5, 4))
    assert sorted(vars(scores)) == sorted(scores._attributes)


CANCELLING = {
    "dot": lambda bias: DotScores(X, Y, 2.0, bias).cross_entropy(),
    "gathered": lambda bias: GatheredScores(
        X, negatives=Y[None].repeat(len(X), 1, 1), bias=bias, positive=X
    ).cross_entropy(),
    "symmetric": lambda bias: DotScores(X, Y[:3], 2.0, bias).symmetric_cross_entropy(),
    "importance": lambda bias: bounds.importance_infonce(DotScores(X, Y, 2.0, bias), DotScores(X, Y, 1.0, bias)),
}


@pytest.mark.parametrize("name", CANCELLING)
def test_a_bias_that_cancels_has_gradient_0_and_not_none(name):
    """DistributedDataParallel waits for a gradient of every parameter."""
    bias = torch.tensor(0.3, requires_grad=True)
    CANCELLING[name](bias).backward()
    torch.testing.assert_close(bias.grad, torch.zeros(()), rtol=0, atol=1e-12)
