"""GatheredScores against the same scores as an explicit matrix, the positive in its first column."""

import math

import pytest
import torch

from mi_ext import DenseScores, GatheredScores, bounds

INF = math.inf
EMA = bounds.DonskerVaradhanEMA


def problem(kind="bank", n=6, m=9, d=4, rows=7, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()

    arguments = {"x": normal(n, d), "positive": normal(n, d)}
    arguments |= {k: torch.tensor(v, dtype=torch.float64).requires_grad_() for k, v in (("scale", 1.3), ("bias", 0.4))}
    if kind == "bank":
        return arguments | {"bank": normal(rows, d), "index": torch.randint(rows, (n, m), generator=g)}
    return arguments | {"negatives": normal(n, m, d)}


def inputs_of(arguments):
    return [t for t in arguments.values() if t.is_floating_point()]


def dense(arguments):
    x, positive = arguments["x"], arguments["positive"]
    negatives = arguments["negatives"] if "negatives" in arguments else arguments["bank"][arguments["index"]]
    candidates = torch.cat([positive[:, None], negatives], 1)
    matrix = arguments["scale"] * (candidates * x[:, None]).sum(2) + arguments["bias"]
    return DenseScores(matrix, torch.zeros(len(x), dtype=torch.int64))


QUANTITIES = {
    "positive": lambda s: s.positive,
    "negative_lse": lambda s: s.negative_lse,
    "negative_softplus_sum": lambda s: s.negative_softplus_sum(),
    "infonce": bounds.infonce,
    "alpha_cpc": lambda s: bounds.alpha_cpc(s, 1.7),
    "ml_cpc": lambda s: bounds.ml_cpc(s, 0.6),
    "nwj": bounds.nwj,
    "f_mine": bounds.f_mine,
    "dv": bounds.donsker_varadhan,
    "dv all": lambda s: bounds.donsker_varadhan(s, "all"),
    "dv ema": lambda s: EMA()(s),
    "eta_dv": lambda s: bounds.eta_dv(s, 0.4),
    "jensen_shannon": bounds.jensen_shannon,
    "smile": lambda s: bounds.smile(s, 0.5),
    "smile, not clipped": bounds.smile,
}
for a, b in ((0.0, 0.0), (-INF, 0.3), (0.7, -0.2)):
    for how in ("none", "mean", "lse"):
        QUANTITIES[f"log_partition {a} {b} {how}"] = lambda s, a=a, b=b, how=how: s.log_partition(a, b, how)
    for how in ("none", "mean", "sum"):
        QUANTITIES[f"cross_entropy {a} {b} {how}"] = lambda s, a=a, b=b, how=how: s.cross_entropy(a, b, how)
WEIGHTS = torch.linspace(-1, 1, 6, dtype=torch.float64)
QUANTITIES["cross_entropy, tensors"] = lambda s: s.cross_entropy(WEIGHTS, WEIGHTS[0])


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("kind", ["bank", "negatives"])
def test_values_and_gradients_are_those_of_the_matrix(kind, quantity):
    arguments = problem(kind)
    got, expected = (QUANTITIES[quantity](s) for s in (GatheredScores(**arguments), dense(arguments)))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    upstream = torch.linspace(0.5, 1.5, expected.numel(), dtype=torch.float64).reshape(expected.shape)
    gradients = [
        torch.autograd.grad((value * upstream).sum(), inputs_of(arguments), allow_unused=True, materialize_grads=True)
        for value in (got, expected)
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_counts():
    s, d = GatheredScores(**problem()), dense(problem())
    assert (s.n_queries, s.n_negatives, s.n_candidates) == (6, 9, 10) == (d.n_queries, d.n_negatives, d.n_candidates)
    assert (s.negative_mass, s.log_negative_mass) == (d.negative_mass, d.log_negative_mass)
    assert GatheredScores(**problem("negatives", m=3)).n_candidates == 4


@pytest.mark.parametrize("kind", ["bank", "negatives"])
def test_fused_and_recomputed_results_agree(kind):
    results = []
    for first in (False, True):
        arguments = problem(kind)
        scores = GatheredScores(**arguments)
        if first:
            scores.negative_lse.sum()
        total = scores.cross_entropy(0.2, -0.1) + scores.log_partition(0.1, 0.3, "lse")
        results.append([total, *torch.autograd.grad(total, inputs_of(arguments))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    arguments = problem(dtype=dtype)
    scores = GatheredScores(**arguments)
    result = torch.promote_types(dtype, torch.float32)
    loss = scores.cross_entropy()
    assert loss.dtype == scores.positive.dtype == scores.negative_lse.dtype == scores.log_partition().dtype == result
    assert scores.negative_softplus_sum().dtype == scores.clipped_log_partition(1.0).dtype == result
    wide = {k: t.detach().double() if t.is_floating_point() else t for k, t in arguments.items()}
    torch.testing.assert_close(loss.double(), GatheredScores(**wide).cross_entropy(), rtol=1e-6, atol=1e-6)
    loss.backward()
    assert arguments["x"].grad.dtype == arguments["bank"].grad.dtype == arguments["positive"].grad.dtype == dtype


def test_mixed_dtypes_are_promoted():
    x, bank, index = torch.randn(3, 2).half(), torch.randn(5, 2), torch.zeros(3, 4, dtype=torch.int64)
    assert GatheredScores(x, bank, index, positive=x).cross_entropy().dtype == torch.float32
    assert GatheredScores(x, bank, index, positive=x.double()).cross_entropy().dtype == torch.float64


def test_duplicates_count_twice():
    x, bank = torch.ones(1, 1, dtype=torch.float64), torch.tensor([[0.0], [1.0]], dtype=torch.float64).requires_grad_()
    scores = GatheredScores(x, bank, torch.tensor([[1, 1, 0]]), positive=x)
    torch.testing.assert_close(scores.negative_lse, torch.tensor([math.log(2 * math.e + 1)], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(scores.negative_lse.sum(), bank)
    expected = torch.tensor([[1.0], [2 * math.e]], dtype=torch.float64) / (2 * math.e + 1)
    torch.testing.assert_close(gradient, expected)


def test_tiny_losses_keep_their_digits():
    x = torch.eye(2)
    for scale in (46.0, 10000.0):
        scores = GatheredScores(x, x, torch.tensor([[1], [0]]), scale, positive=x)
        expected = torch.full((2,), math.log1p(math.exp(-scale)))
        torch.testing.assert_close(scores.cross_entropy(reduction="none"), expected, rtol=1e-4, atol=0)
        torch.testing.assert_close(scores.cross_entropy(), expected[0], rtol=1e-4, atol=0)


def test_no_negatives_and_no_queries():
    x, bank = torch.randn(3, 2), torch.randn(5, 2)
    alone = GatheredScores(x, bank, torch.zeros(3, 0, dtype=torch.int64), positive=x)
    assert torch.equal(alone.negative_lse, torch.full((3,), -INF)) and alone.n_candidates == 1
    torch.testing.assert_close(alone.cross_entropy(), torch.tensor(0.0))
    nothing = GatheredScores(x[:0], negatives=torch.empty(0, 4, 2), positive=x[:0])
    assert nothing.cross_entropy(reduction="none").shape == nothing.negative_lse.shape == (0,)
    assert nothing.cross_entropy(reduction="sum") == 0 and nothing.log_partition(reduction="lse") == -INF
    with pytest.raises(ValueError, match="n = 0"):
        nothing.cross_entropy()


def test_statistics_kept_without_a_graph_do_not_lose_the_gradient():
    arguments = problem()
    scores = GatheredScores(**arguments)
    with torch.no_grad():
        scores.negative_lse, scores.cross_entropy()
    assert scores.negative_lse.requires_grad and scores.cross_entropy().requires_grad


X, BANK, INDEX, OWN = torch.randn(3, 2), torch.randn(5, 2), torch.zeros(3, 4, dtype=torch.int64), torch.randn(3, 4, 2)
SCORES = GatheredScores(X, BANK, INDEX, positive=X)


def outside(value):
    index = INDEX.clone()
    index[1, 2] = value
    return index


BAD = {
    "no positive": (lambda: GatheredScores(X, BANK, INDEX), TypeError, "positive"),
    "positive shape": (lambda: GatheredScores(X, BANK, INDEX, positive=X[:2]), ValueError, "^positive: "),
    "x 1-D": (lambda: GatheredScores(X[0], BANK, INDEX, positive=X), ValueError, "^x: "),
    "nothing": (lambda: GatheredScores(X, positive=X), ValueError, "^bank, index, negatives: .*none"),
    "no index": (lambda: GatheredScores(X, BANK, positive=X), ValueError, "^bank, index, negatives: .*'bank'"),
    "index alone": (lambda: GatheredScores(X, index=INDEX, positive=X), ValueError, "^bank, index, negatives: "),
    "both": (lambda: GatheredScores(X, BANK, INDEX, negatives=OWN, positive=X), ValueError, "^bank, index, negatives"),
    "bank width": (lambda: GatheredScores(X, BANK[:, :1], INDEX, positive=X), ValueError, "^bank: .*d = 2"),
    "bank dtype": (lambda: GatheredScores(X, BANK.long(), INDEX, positive=X), TypeError, "^bank: "),
    "bank device": (lambda: GatheredScores(X, BANK.to("meta"), INDEX, positive=X), ValueError, "^bank: .*meta"),
    "index dtype": (lambda: GatheredScores(X, BANK, INDEX.int(), positive=X), TypeError, "^index: .*int32"),
    "index shape": (lambda: GatheredScores(X, BANK, INDEX[:2], positive=X), ValueError, r"^index: .*\(2, 4\)"),
    "index high": (
        lambda: GatheredScores(X, BANK, outside(5), positive=X),
        ValueError,
        r"^index: .*\[0, 5\).*5 at \[1, 2",
    ),
    "index negative": (
        lambda: GatheredScores(X, BANK, outside(-1), positive=X),
        ValueError,
        r"^index: .*-1 at \[1, 2\]",
    ),
    "negatives dtype": (lambda: GatheredScores(X, negatives=OWN.long(), positive=X), TypeError, "^negatives: "),
    "negatives 2-D": (lambda: GatheredScores(X, negatives=X, positive=X), ValueError, r"^negatives: .*\(3, K−1, 2\)"),
    "negatives width": (lambda: GatheredScores(X, negatives=OWN[:, :, :1], positive=X), ValueError, "^negatives: "),
    "scale": (lambda: GatheredScores(X, BANK, INDEX, 0.0, positive=X), ValueError, "^scale: "),
    "bias": (lambda: GatheredScores(X, BANK, INDEX, bias=math.nan, positive=X), ValueError, "^bias: "),
    "tuba": (
        lambda: bounds.tuba(SCORES, torch.zeros(5)),
        ValueError,
        "^column_negative_lse: GatheredScores has no col",
    ),
    "shuffled": (lambda: bounds.donsker_varadhan(SCORES, "shuffled"), ValueError, "^negatives: .*GatheredScores"),
    "interpolated": (lambda: bounds.interpolated(SCORES, 0.5, torch.zeros(5)), ValueError, "^scores: .*GatheredScores"),
    "column block": (lambda: SCORES.column_block(0, 1), ValueError, "^column_block: GatheredScores"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_name_the_argument(name):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call()
