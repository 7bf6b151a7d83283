"""Walks over gathered scores against the float64 reference, judged as the operators on the CPU are."""

from dataclasses import replace

import pytest
import torch
from gathered_problems import CALLS, KINDS, check, evaluate, gathered
from problems import DTYPES, laid_out

pytestmark = pytest.mark.usefixtures("gathered_walks")
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)

# (n, m, d, V): a row of one lane, of a quarter, a half and all lanes of a warp, of 1 to 8 pieces a lane, and one that
# takes several blocks of threads; widths that 16, 4 or 2 bytes divide.
SHAPES = [
    (37, 5, 1, 4),
    (1, 1, 3, 2),
    (3, 35, 31, 9),
    (2, 70, 64, 30),
    (2, 40, 128, 30),
    (2, 17, 200, 30),
    (1, 12, 401, 20),
    (1, 9, 1030, 8),
    (1, 5, 2060, 4),
]


@EVERY_DTYPE
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients(kind, dtype):
    for call in CALLS if (kind, dtype) == ("bank", torch.float32) else ("negative_lse", "log-partition", "softplus"):
        check(call, gathered(3, 37, 20, 9, kind, dtype))


@EVERY_DTYPE
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ragged_shapes(shape, dtype):
    for call, kind in (("cross-entropy", "bank"), ("softplus", "negatives")):
        check(call, gathered(*shape, kind, dtype))


@EVERY_DTYPE
def test_parts_of_a_query(dtype, gathered_walks, walks):
    """Several warps for each query, and more negatives than one of them may sum."""
    walks.multiprocessors = 4
    for call in ("negative_lse", "softplus"):
        check(call, gathered(2, 700, 16, 50, "bank", dtype))
    walks.multiprocessors = 1
    if dtype == torch.float32:
        check("log-partition", gathered(16, 4200, 2, 50, "bank", dtype), frozenset({"x", "scale"}))


@pytest.mark.parametrize("d", [3, 128])
def test_runs_of_one_bank_row_over_many_chunks(d):
    """720 of 1200 pairs point to one row: the chunks after the first hand over what they have."""
    for dtype in (torch.float64, torch.bfloat16):
        check("cross-entropy", gathered(30, 40, d, 7, "skewed bank", dtype), frozenset({"y"}))


@pytest.mark.parametrize("call", ["negative_lse", "softplus"])
def test_queries_are_sorted_by_bank_row_in_blocks(call, gathered_walks):
    """Some queries at a time add to the gradient of the bank; the last block is smaller."""
    gathered_walks.pairs_sorted = 100
    check(call, gathered(11, 31, 12, 9, "skewed bank", torch.float32))


@EVERY_DTYPE
@pytest.mark.parametrize("layout", ["rows apart", "strided", "offset", "expanded rows"])
def test_layouts(layout, dtype):
    """Rows apart or shared, not aligned to 16 bytes, those of 16-bit elements not to 4; NaN lies between the rows."""
    p = gathered(3, 9, 13, 7, "bank", dtype)
    check("negative_lse", replace(p, x=laid_out(p.x, layout), y=laid_out(p.y, layout.replace("expanded rows", ""))))


def test_negatives_with_any_strides_and_a_strided_index():
    p = gathered(6, 19, 16, 9, "negatives", torch.float32)
    truth = evaluate_with_ops(p)
    views = [p.y.transpose(0, 1).contiguous().transpose(0, 1), p.y.repeat(1, 1, 2)[:, :, :16], p.y.mT.contiguous().mT]
    views += [torch.cat([p.y, p.y[:, :1]], 1)[:, :19], torch.cat([p.y, p.y[:, :, :1]], 2)[:, :, :16]]
    for view in views:
        assert all(torch.equal(truth[name], t) for name, t in evaluate_with_ops(replace(p, y=view)).items())
    p = gathered(6, 19, 16, 9, "bank", torch.float32)
    truth, strided = evaluate_with_ops(p), replace(p, index=p.index.T.contiguous().T)
    assert all(torch.equal(truth[name], t) for name, t in evaluate_with_ops(strided).items())


def evaluate_with_ops(p):
    from mi_ext import ops

    return evaluate(ops, "negative_lse", p)


@pytest.mark.parametrize("wanted", [{"x"}, {"y"}, {"scale"}, {"positive"}, {"bias"}, set()], ids="".join)
def test_only_some_gradients(wanted):
    for call, kind in (("cross-entropy", "bank"), ("softplus", "bank"), ("negative_lse", "negatives")):
        check(call, gathered(7, 40, 20, 30, kind, torch.float32), frozenset(wanted))


@pytest.mark.parametrize("kind", ["skewed bank", "negatives"])
def test_two_runs_agree_to_the_last_bit(kind, walks):
    walks.multiprocessors = 2
    p = gathered(5, 150, 24, 30, kind, torch.bfloat16)
    first, second = evaluate_with_ops(p), evaluate_with_ops(p)
    assert all(torch.equal(first[name], second[name]) for name in first)
