"""Operators on gathered scores against the dense reference in float64, and at their edges."""

from dataclasses import replace

import pytest
import torch
from gathered_problems import ALL, CALLS, KINDS, SHAPES, Gathered, check, evaluate, expected, gathered
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import DTYPES, INF, laid_out, wide

from mi_ext import ops, reference

FLOATS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
EVERY_CALL = pytest.mark.parametrize("call", CALLS)
one_thread = pytest.mark.usefixtures("one_thread")
NAN = float("nan")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def from_scores(s, dtype=torch.float64, bank=True):
    """The problem with these scores: x = the scores, and the unit vectors as a bank or as negatives."""
    n, m = s.shape
    unit = torch.eye(m, dtype=dtype)
    y, index = (unit, torch.arange(m).expand(n, m)) if bank else (unit.expand(n, m, m), None)
    return Gathered(s.to(dtype), y, index, 1.0, 0.0, normal(n))


@one_thread
@EVERY_CALL
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_gradients(call, kind, dtype, isa):
    for shape in SHAPES if dtype == wide(dtype) else SHAPES[1::2]:
        e = expected(call, shape, kind, dtype)
        e.judge(evaluate(ops, call, e.problem))


@one_thread
@EVERY_CALL
@pytest.mark.parametrize("wanted", [{"x"}, {"y"}, {"scale"}, {"positive"}, {"bias"}, set()], ids=lambda w: "".join(w))
@pytest.mark.parametrize("kind", ["bank", "negatives"])
def test_only_some_gradients(call, kind, wanted):
    for dtype in (torch.float64, torch.float32):
        check(call, gathered(7, 40, 20, 30, kind, dtype), frozenset(wanted))


@pytest.mark.parametrize("call", ["negative_lse", "cross-entropy", "softplus"])
@pytest.mark.parametrize("kind", ["bank", "negatives"])
def test_threads(call, kind, threads):
    """Few queries: their negatives are shared out among the threads; many: the queries; and the rows of a bank."""
    for n, m, dtype in ((1, 3000, torch.float64), (2, 600, torch.float32), (60, 100, torch.float64)):
        check(call, gathered(n, m, 12, 50, kind, dtype))


@pytest.mark.parametrize("kind", ["bank", "skewed bank", "negatives"])
def test_two_runs_agree_to_the_last_bit(kind, threads):
    p = gathered(30, 700, 24, 300, kind, torch.float32)
    for call in ("negative_lse", "log-partition", "softplus"):
        first, second = evaluate(ops, call, p), evaluate(ops, call, p)
        assert all(torch.equal(first[name], second[name]) for name in first)


@one_thread
@pytest.mark.parametrize("n,m,rows", [(90, 25_000, 11), (3, 400_000, 11), (90, 12_000, 80_000)])
def test_queries_are_sorted_by_bank_row_in_blocks(n, m, rows):
    """More pairs than 2^20: several blocks of queries add to the gradient of the bank, whose rows have many or few."""
    p = gathered(n, m, 2, rows, "bank", torch.float32)
    for call in ("cross-entropy", "softplus"):
        check(call, p, frozenset({"x", "y"}))


@one_thread
@EVERY_CALL
@pytest.mark.parametrize("layout", ["rows apart", "strided", "transposed", "expanded rows", "offset"])
@pytest.mark.parametrize("side", ["x", "y"])
def test_layouts(call, layout, side):
    for d, dtype in ((64, torch.float32), (20, torch.float64), (5, torch.bfloat16)):
        p = gathered(9, 21, d, 13, "bank", dtype)
        if layout == "expanded rows" and side == "y":  # equal y: p_i − lse_i is constant, its gradient rounding alone
            continue
        check(call, replace(p, **{side: laid_out(getattr(p, side), layout)}))


@one_thread
@EVERY_CALL
def test_negatives_with_any_strides_and_a_strided_index(call):
    p = gathered(6, 19, 16, 9, "negatives", torch.float32)
    truth = evaluate(ops, call, p)
    views = [p.y.transpose(0, 1).contiguous().transpose(0, 1), p.y.repeat(1, 1, 2)[:, :, :16], p.y.mT.contiguous().mT]
    for view in views:
        assert not view.is_contiguous()
        assert all(torch.equal(truth[name], t) for name, t in evaluate(ops, call, replace(p, y=view)).items())
    p = gathered(6, 19, 16, 9, "bank", torch.float32)
    truth, strided = evaluate(ops, call, p), replace(p, index=p.index.T.contiguous().T)
    assert all(torch.equal(truth[name], t) for name, t in evaluate(ops, call, strided).items())


@one_thread
@FLOATS
@EVERY_CALL
@pytest.mark.parametrize("n,m", [(0, 5), (4, 0), (0, 0)])
@pytest.mark.parametrize("kind", ["bank", "negatives"])
def test_nothing(call, n, m, kind, dtype):
    p = gathered(n, m, 3, 7, kind, dtype)
    results = evaluate(ops, call, p)
    for name, truth in evaluate(reference, call, p).items():
        torch.testing.assert_close(results[name].double(), truth.double(), msg=lambda text, name=name: name + text)
    assert all((results[name] == 0).all() for name in ("dx", "dy", "dscale", "dbias"))


@one_thread
@FLOATS
@EVERY_CALL
@pytest.mark.parametrize("height", [30.0, 300.0, 3000.0])
@pytest.mark.parametrize("where", [0, 16, 255, 256, 269])
def test_one_dominant_score(call, height, where, dtype):
    """Also when it arrives last: everything that was summed before is then measured against it."""
    s = normal(5, 270)
    s[::2, where] += height
    check(call, from_scores(s, dtype, bank=where % 2 == 0))


@one_thread
@FLOATS
@EVERY_CALL
@pytest.mark.parametrize("step", [50.0, -50.0, 41.5])
def test_references_raised_again_and_again(call, step, dtype):
    check(call, from_scores(step * torch.arange(300.0, dtype=torch.float64) + normal(3, 300), dtype))


@one_thread
@FLOATS
@EVERY_CALL
@pytest.mark.parametrize("scale", [100.0, 1e4, -1.0, 1e-6])
def test_scales(call, scale, dtype):
    for kind in ("bank", "negatives"):
        check(call, gathered(20, 70, 20, 50, kind, dtype, scale))


@one_thread
@FLOATS
@EVERY_CALL
def test_all_equal(call, dtype):
    """Equal terms are all rounded the same way: over the longest run of sums, errors add up."""
    check(call, from_scores(torch.full((9, 300), 3.0, dtype=torch.float64), dtype), epsilons=300)


@one_thread
@FLOATS
def test_tiny_losses(dtype):
    """Losses of e^{−46} = 1e-20, where dense float32 has 0 from 1e-8 on."""
    p = replace(gathered(6, 40, 8, 20, "bank", dtype), positive=torch.full((6,), 50.0, dtype=torch.float64))
    truth, ours = (evaluate(f, "cross-entropy", q) for f, q in ((reference, p.to(torch.float64)), (ops, p)))
    assert 0 < truth["value"] < 1e-17
    for name in ("value", "dx", "dy", "dscale", "dpositive"):
        assert (ours[name].double() - truth[name]).norm() <= 1e-4 * truth[name].norm()


@one_thread
@FLOATS
@EVERY_CALL
@pytest.mark.parametrize("value", [-INF, INF, NAN])
@pytest.mark.parametrize("side", ["x", "y"])
@pytest.mark.parametrize("d", [5, 16])
def test_non_finite_entries(call, value, side, d, dtype):
    """As torch.logsumexp, row by row, wherever in a row they stand."""
    p = gathered(20, 21, d, 60, "bank", dtype)
    getattr(p, side)[3, 2] = value
    getattr(p, side)[17, d - 1] = value
    ours, truth = (evaluate(f, call, q, frozenset()) for f, q in ((ops, p), (reference, p.to(torch.float64))))
    torch.testing.assert_close(ours["value"], truth["value"], rtol=1e-5, atol=1e-5, equal_nan=True)


@one_thread
@FLOATS
def test_nan_stays_in_its_row(dtype):
    p = gathered(20, 21, 5, 60, "negatives", dtype)
    p.y[3, 20, 4] = NAN
    results = evaluate(ops, "negative_lse", p)
    others = torch.arange(20) != 3
    assert results["value"].isnan().tolist() == (~others).tolist()
    assert results["dx"][others].isfinite().all() and results["dx"][3].isnan().all()


@one_thread
@pytest.mark.parametrize("call,side", [("negative_lse", "x"), ("negative_lse", "y"), ("softplus", "y")])
@pytest.mark.parametrize("rows", [40, 400], ids=["most rows have queries", "few have"])
def test_nan_reaches_no_bank_row_that_has_not_its_query(call, side, rows, isa):
    """Query 4, or a row that no query has, is NaN."""
    p = gathered(32, 30, 20, rows, "bank", torch.float32)
    p.index.clamp_(max=rows - 2)
    clean, spoilt = evaluate(ops, call, p), replace(p, x=p.x.clone(), y=p.y.clone())
    getattr(spoilt, side)[4 if side == "x" else rows - 1, 3] = NAN
    others = torch.ones(rows, dtype=torch.bool)
    if side == "x":
        others[p.index[4]] = False
    torch.testing.assert_close(evaluate(ops, call, spoilt)["dy"][others], clean["dy"][others])


@one_thread
@pytest.mark.parametrize("upstream", [0.0, 1.0])
def test_minus_infinity_scores_pull_nowhere(upstream):
    """Every score of a row −inf: the row is empty, and its gradient 0."""
    x, y = torch.zeros(2, 4, dtype=torch.float64), normal(2, 20, 4)
    x[1, 0], y[1] = 1e300, torch.tensor([-1e300, 0, 0, 0], dtype=torch.float64)
    x.requires_grad_(), y.requires_grad_()
    lse = ops.gathered_negative_lse(x, y, None, 1.0)
    dx, dy = torch.autograd.grad(lse, (x, y), torch.tensor([1.0, upstream], dtype=torch.float64))
    assert lse[1] == -INF and (dx[1] == 0).all() and (dy[1] == 0).all() and (dx[0] != 0).all()


GATHERED = st.builds(
    gathered,
    n=st.integers(1, 20),
    m=st.integers(1, 90),
    d=st.integers(1, 40),
    rows=st.integers(1, 60),
    kind=st.sampled_from(KINDS[:2]),
    scale=st.sampled_from([1.3, -0.8, 7.0]),
    seed=st.integers(0, 5),
)


@one_thread
@settings(max_examples=8, deadline=None)
@given(p=GATHERED, seed=st.integers(0, 99))
@EVERY_CALL
def test_what_the_order_of_negatives_and_of_bank_rows_changes(call, p, seed):
    """Nothing, but that the gradient of the bank moves along."""
    g = torch.Generator().manual_seed(seed)
    order = torch.argsort(torch.rand(p.index.shape, generator=g), 1)
    rows = torch.randperm(len(p.y), generator=g)
    moved = replace(p, y=p.y[rows], index=torch.argsort(rows)[p.index.gather(1, order)])
    before, after = evaluate(ops, call, p), evaluate(ops, call, moved)
    before["dy"] = before["dy"][rows]
    for name in ALL:
        torch.testing.assert_close(after[f"d{name}"], before[f"d{name}"], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(after["value"], before["value"], rtol=1e-11, atol=1e-11)


@one_thread
@settings(max_examples=8, deadline=None)
@given(p=GATHERED, cut=st.integers(0, 90))
def test_halves_make_the_whole(p, cut):
    whole = ops.gathered_negative_lse(p.x, p.y, p.index, p.scale)
    halves = [ops.gathered_negative_lse(p.x, p.y, index, p.scale) for index in (p.index[:, :cut], p.index[:, cut:])]
    torch.testing.assert_close(torch.logaddexp(*halves), whole, rtol=1e-12, atol=1e-12)
