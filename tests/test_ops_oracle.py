"""Every operator against the dense reference in float64: values and gradients, every instruction set and dtype."""

import pytest
import torch
from problems import (
    ALL,
    CALLS,
    DEVICES,
    DTYPES,
    EXCLUSIONS,
    ISAS,
    LAYOUTS,
    LOG_WEIGHT_GRADIENT,
    SHAPES,
    SMALL_SHAPES,
    check,
    evaluate,
    expected,
    laid_out,
    problem,
    wide,
)

from mi_ext import _C, ops

BFLOAT16_PRODUCTS = [isa for isa in _C.available_isas() if isa.endswith(("+bf16", "+amx"))]
COMPLETE = [isa for isa in ISAS if isa not in BFLOAT16_PRODUCTS]
GPU = DEVICES[1:]
FUSED = [call for call in CALLS if call.startswith(("cross-entropy", "log-partition"))]
one_thread = pytest.mark.usefixtures("one_thread")
on_every_device = pytest.mark.usefixtures("device")


def on(isas):
    return pytest.mark.parametrize("isa", isas, indirect=True)


def shapes_for(kind):
    """Every other shape, so that each meets half of the exclusions."""
    return SHAPES[EXCLUSIONS.index(kind) % 2 :: 2]


def judged(call, shape, kind, dtype, wanted=ALL):
    e = expected(call, shape, kind, dtype, wanted)
    e.judge(evaluate(ops, call, e.problem, wanted))


@one_thread
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", EXCLUSIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@on(COMPLETE + GPU)
def test_values_and_gradients(call, kind, dtype, isa):
    """16-bit inputs are widened and then take the way of float32."""
    for shape in shapes_for(kind) if dtype == wide(dtype) else SMALL_SHAPES:
        judged(call, shape, kind, dtype)


@one_thread
@pytest.mark.parametrize("call", FUSED)
@pytest.mark.parametrize("kind", EXCLUSIONS)
@on(BFLOAT16_PRODUCTS)
def test_products_of_bfloat16(call, kind, isa):
    """Instruction sets that differ in the fused walk of bfloat16 inputs alone."""
    for shape in shapes_for(kind):
        judged(call, shape, kind, torch.bfloat16)


@one_thread
@pytest.mark.parametrize("wanted", [{"x"}, {"y"}, {"scale"}, {"external"}, {"bias"}, set()], ids=lambda w: "".join(w))
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ["targets", "everything, external"])
@on(COMPLETE + GPU)
def test_only_some_gradients(call, kind, wanted, isa):
    """Each set of wanted gradients has its own way through the engine: no dy asks for no second product."""
    for shape in SMALL_SHAPES[1:]:
        for dtype in (torch.float64, torch.float32):
            judged(call, shape, kind, dtype, frozenset(wanted))


@one_thread
@on_every_device
@pytest.mark.parametrize("call", LOG_WEIGHT_GRADIENT)
@pytest.mark.parametrize("kind", ["log-weights", "everything", "everything, external"])
def test_gradient_of_log_weights(call, kind):
    for shape in SMALL_SHAPES:
        for dtype in (torch.float64, torch.float32):
            judged(call, shape, kind, dtype, frozenset({"x", "y", "scale", "external", "v"}))


@one_thread
@on_every_device
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("side", ["x", "y"])
def test_layouts(call, layout, side):
    """d = 64 is read where it lies, d = 20 from a copy."""
    kind = "everything, external" if layout == "expanded rows" else "everything"  # equal y_j: p_i − lse_i is constant
    for shape, dtype in [((19, 37, 64), torch.float32), ((19, 37, 20), torch.float64), ((3, 8, 1), torch.bfloat16)]:
        p = problem(*shape, kind, dtype)
        arranged = laid_out(getattr(p, side), layout)
        check(call, type(p)(**{**vars(p), side: arranged}))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ["targets", "everything, external"])
def test_threads(call, kind, threads):
    """Few queries: the candidates are shared out among the threads; many: the queries."""
    for shape in [(1, 500, 20), (40, 400, 8), (300, 100, 33)]:
        for dtype in (torch.float64, torch.float32):
            check(call, problem(*shape, kind, dtype))
            check(call, problem(*shape, kind, dtype), frozenset({"x"}))


groups_of_threads = pytest.mark.parametrize("threads", [2, 4], indirect=True)


@groups_of_threads
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ["everything", "everything, external"])
@on(COMPLETE)
def test_threads_in_groups(call, kind, isa, threads):
    """Many candidates: two threads share a block of queries; four are two such groups, one with a block more."""
    check(call, problem(200, 2100, 20, kind, torch.float32))
    check(call, problem(200, 2100, 5, kind, torch.float64))


@groups_of_threads
@pytest.mark.parametrize("call", FUSED)
@pytest.mark.parametrize("kind", ["everything", "everything, external"])
@on(BFLOAT16_PRODUCTS)
def test_threads_in_groups_by_products_of_bfloat16(call, kind, isa, threads):
    check(call, problem(200, 2240, 20, kind, torch.bfloat16))  # parts that begin within six candidates


@on_every_device
@pytest.mark.parametrize("call", ["cross-entropy", "log-partition"])
@pytest.mark.parametrize("kind", ["targets", "everything, external"])
def test_more_candidates_than_a_block_can_keep(call, kind):
    """Beyond 64 MiB of exponentials a block of queries, the fused gradient takes two walks."""
    check(call, problem(3, 90_000, 2, kind, torch.float64))
    check(call, problem(3, 180_000, 2, kind, torch.float32))


@one_thread
@on_every_device
@pytest.mark.parametrize("name", ["target", "x_label", "y_label", "v"])
def test_side_inputs_may_be_strided(name):
    p = problem(11, 23, 5, "everything")
    at = ["target", "x_label", "y_label", "v"].index(name)
    exclusions = list(p.exclusions)
    exclusions[at] = exclusions[at].repeat_interleave(2)[::2]
    for call in CALLS:
        strided = type(p)(**{**vars(p), "exclusions": tuple(exclusions)})
        for key, value in evaluate(ops, call, p).items():
            torch.testing.assert_close(evaluate(ops, call, strided)[key], value, rtol=0, atol=0)


def test_unknown_instruction_set_is_an_error():
    with pytest.raises(ValueError, match="isa: 'none' is not available here"):
        _C.set_isa("none")
