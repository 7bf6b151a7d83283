"""`mi_ext.dropin.cut_cross_entropy` beside dense torch, and beside the package's torch_compile path where it is there.

The package computes in float32 whatever it gets, and its other path needs a GPU: float64 is compared with dense torch.
"""

import functools
import importlib
import itertools

import pytest
import torch
from side_by_side import check_same, evaluate, largest, parameters, raises_alike, saved_bytes
from torch.nn import functional as F

from mi_ext.dropin import _capped
from mi_ext.dropin.cut_cross_entropy import LinearCrossEntropy, LinearCrossEntropyImpl, linear_cross_entropy

pytestmark = pytest.mark.usefixtures("one_thread")
WANTED = "e", "c", "bias"
VOCABULARY, WIDTH = 7, 4


def problem(shape=(3, 5), bias=True, dtype=torch.float64):
    g = torch.Generator().manual_seed(len(shape))
    return {
        "e": torch.randn(*shape, WIDTH, generator=g).to(dtype),
        "c": torch.randn(VOCABULARY, WIDTH, generator=g).to(dtype),
        "targets": torch.randint(VOCABULARY, shape, generator=g),
        "bias": torch.randn(VOCABULARY, generator=g).to(dtype) if bias else None,
    }


def dense(e, c, targets, bias=None, *, ignore_index=-100, softcap=None, reduction="mean", shift=0, return_lse=False):
    if shift:
        e, targets = e[..., : -int(shift), :], targets[..., int(shift) :]
    logits = e.reshape(-1, e.shape[-1]) @ c.T + (0 if bias is None else bias)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    target = targets.reshape(-1)
    loss = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction=reduction)
    loss = loss.reshape(targets.shape) if reduction == "none" else loss
    lse = torch.where(target == ignore_index, 0, logits.logsumexp(1)).reshape(targets.shape)
    return (loss, lse) if return_lse else loss


def beside_dense(inputs, **options):
    def of(function):
        return lambda e, c, targets, bias: function(e, c, targets, bias, **options)

    check_same(of(linear_cross_entropy), of(dense), inputs, WANTED)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("return_lse", [False, True])
def test_options(reduction, softcap, return_lse):
    for shift, ignore_index, bias in itertools.product((0, 2, True), (-100, 3), (False, True)):
        options = {"reduction": reduction, "softcap": softcap, "return_lse": return_lse, "shift": shift}
        beside_dense(problem(bias=bias), ignore_index=ignore_index, **options)


@pytest.mark.parametrize("shape", [(), (1,), (6,), (2, 3, 4), (0, 3)], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_shapes_and_everything_ignored(shape, reduction, softcap):
    inputs = problem(shape)
    beside_dense(inputs, reduction=reduction, softcap=softcap)
    ignored = inputs | {"targets": torch.full(shape, -100)}
    beside_dense(ignored, reduction=reduction, softcap=softcap, return_lse=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_results_are_float32(dtype):
    """And as near to the truth as 32 bits allow, from the very numbers that came in 16."""
    inputs = problem(dtype=dtype)
    for softcap in (None, 1.5):
        options = {"softcap": softcap, "return_lse": True, "reduction": "none"}
        truth = dense(**{k: t.double() if t.is_floating_point() else t for k, t in inputs.items()}, **options)
        for ours, expected in zip(linear_cross_entropy(**inputs, **options), truth, strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)


def larger(n, vocabulary, width, dtype):
    """Half as many classes as inputs equal inputs; a fifth of the targets are ignored; inputs [4, n / 4, width]."""
    g = torch.Generator().manual_seed(n)
    e, c = torch.randn(n, width, generator=g) / width**0.5, torch.randn(vocabulary, width, generator=g)
    c[: n // 2] = e[: n // 2]
    targets = torch.randint(vocabulary, (n,), generator=g)
    targets[torch.randperm(n, generator=g)[: n // 5]] = -100
    return {"e": e.view(4, -1, width).to(dtype), "c": c.to(dtype), "targets": targets.view(4, -1)}


@pytest.mark.parametrize("sizes", [(256, 512, 128), (252, 507, 123)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("softcap", [None, 20.0])
def test_every_entry_at_larger_sizes(sizes, dtype, softcap):
    """Results in float32, gradients in the dtype of the inputs: no entry further from the truth than that allows."""
    inputs = larger(*sizes, dtype)
    exact = {k: t.double() if t.is_floating_point() else t for k, t in inputs.items()}
    digit = torch.finfo(dtype).eps * (16 if dtype == torch.float32 else 1)
    for reduction, shift in itertools.product(("none", "mean", "sum"), (False, True)):
        options = {"softcap": softcap, "shift": shift, "reduction": reduction, "return_lse": reduction == "none"}
        found = evaluate(functools.partial(linear_cross_entropy, **options), inputs, ("e", "c"))
        truth = evaluate(functools.partial(dense, **options), exact, ("e", "c"))
        assert [t.dtype for t in found] == [*(torch.float32 for _ in found[2:]), dtype, dtype]
        for result, expected in zip(found[:-2], truth[:-2], strict=True):
            torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
        for result, expected in zip(found[-2:], truth[-2:], strict=True):
            assert (result - expected).abs().max() <= digit * expected.abs().max()


def test_module_and_ignored_values():
    """A row that is ignored is not read, not even where it holds NaN."""
    inputs = problem()
    options = {"ignore_index": 3, "softcap": 2.0, "reduction": "sum", "shift": 1}
    module = LinearCrossEntropy(**options)
    check_same(module, lambda *a, **t: dense(*a, **t, **options), inputs, WANTED)
    inputs["e"][inputs["targets"] == 3] = torch.nan
    for reduction in ("none", "sum"):
        inputs |= {"ignore_index": 3, "reduction": reduction}
        assert all(t.isfinite().all() for t in evaluate(linear_cross_entropy, inputs, WANTED))


def test_release_25_1_1(monkeypatch):
    """Its signature by keyword, its values on the torch_compile path, its errors."""
    peer = pytest.importorskip("cut_cross_entropy", reason="cut-cross-entropy is not installed")
    for ours, theirs in (
        (linear_cross_entropy, peer.linear_cross_entropy),
        (LinearCrossEntropy, peer.LinearCrossEntropy),
    ):
        defaults = {name: default for name, _, default in parameters(ours)}
        expected = {name: default for name, _, default in parameters(theirs) if name != "filter_eps"}
        assert "filter_eps" in defaults and defaults.items() >= expected.items()
    assert {i.name: i.value for i in LinearCrossEntropyImpl} == {i.name: i.value for i in peer.LinearCrossEntropyImpl}
    inputs = {k: t for k, t in problem(bias=False, dtype=torch.float32).items() if t is not None}

    def of(function, **options):
        return lambda **t: function(**t, **options)

    path = importlib.import_module("cut_cross_entropy.torch_compile")
    for name in ("softcapping", "torch_compile_linear_cross_entropy_apply"):  # the formula without the compiler
        monkeypatch.setattr(path, name, getattr(path, name)._torchdynamo_orig_callable)
    for options in ({}, {"shift": True, "reduction": "none"}, {"softcap": 2.0, "ignore_index": 3}):
        ours = of(linear_cross_entropy, **options, impl=LinearCrossEntropyImpl.CCE)
        check_same(ours, of(peer.linear_cross_entropy, **options, impl="torch_compile"), inputs, ("e", "c"), 1e-5)
    for change in ({"targets": torch.zeros(4, dtype=torch.int64)}, {"c": torch.zeros(7, 3)}):
        raises_alike(
            *(
                of(f, **(inputs | change), impl="torch_compile")
                for f in (linear_cross_entropy, peer.linear_cross_entropy)
            )
        )
    raises_alike(*(of(f, **inputs, impl="nonsense") for f in (linear_cross_entropy, peer.linear_cross_entropy)))


def test_errors_name_the_argument():
    inputs = problem()
    for name, change, error in (
        ("targets", {"targets": torch.full((3, 5), VOCABULARY)}, IndexError),
        ("shift", {"shift": 5}, ValueError),
        ("shift", {"shift": -1}, ValueError),
        ("bias", {"bias": torch.zeros(3)}, ValueError),
        ("bias", {"bias": -100}, TypeError),
        ("reduction", {"reduction": "median"}, ValueError),
        ("vocab_parallel_options", {"vocab_parallel_options": object()}, NotImplementedError),
    ):
        with pytest.raises(error, match=f"^{name}: "):
            linear_cross_entropy(**(inputs | change))


@pytest.mark.parametrize(
    "options", [{}, {"reduction": "none"}, {"return_lse": True}, {"softcap": 3.0}, {"ignore_index": 3}], ids=str
)
def test_nothing_of_the_size_of_the_logits_is_kept(options, monkeypatch):
    monkeypatch.setattr(_capped, "_BLOCK_ENTRIES", 1 << 20)
    for operator in ("_value", "_gradient"):  # to see what they do inside
        monkeypatch.setattr(_capped, operator, getattr(_capped, operator)._init_fn)
    n, vocabulary, width = 1024, 4096, 16
    e, c = torch.randn(n, width, requires_grad=True), torch.randn(vocabulary, width, requires_grad=True)
    targets = torch.randint(vocabulary, (n,))
    call = functools.partial(linear_cross_entropy, e, c, targets, **options)
    kept = saved_bytes(call)
    assert 0 < kept <= 8 * (n + vocabulary) * (width + 8) * 4 < n * vocabulary * 4
    assert largest(call) <= (1 << 20 if "softcap" in options else vocabulary * width) < n * vocabulary


def test_several_blocks_of_rows_with_a_softcap(monkeypatch):
    monkeypatch.setattr(_capped, "_BLOCK_ENTRIES", 4 * VOCABULARY)
    beside_dense(problem((3, 5)), softcap=1.5, ignore_index=3, return_lse=True)


def test_autocast_does_not_round_capped_logits():
    inputs = problem((64,), dtype=torch.float32)
    expected = evaluate(functools.partial(dense, softcap=1.5), inputs, WANTED)
    with torch.autocast("cpu", torch.bfloat16):
        found = evaluate(functools.partial(linear_cross_entropy, softcap=1.5), inputs, WANTED)
    torch.testing.assert_close(found, expected)


def test_second_derivative_of_a_softcap_is_an_error():
    inputs = problem()
    e = inputs.pop("e").requires_grad_()
    (gradient,) = torch.autograd.grad(linear_cross_entropy(e, **inputs, softcap=1.5), e, create_graph=True)
    with pytest.raises(RuntimeError, match="a softcap has no second derivative"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_softcap_keeps_its_inputs_as_they_are(dtype):
    inputs = problem((64,), dtype=dtype)
    leaves = {k: t.requires_grad_(t.is_floating_point()) for k, t in inputs.items()}
    expected = sum(t.numel() * t.element_size() for t in leaves.values())
    assert saved_bytes(lambda: linear_cross_entropy(**leaves, softcap=1.5, reduction="none")) == expected


GRADIENTS_ASKED = [list(asked) for asked in itertools.product((True, False), repeat=3) if any(asked)]


@pytest.mark.parametrize("asked", GRADIENTS_ASKED, ids=str)
def test_gradients_that_nobody_asks_for_are_not_made(asked, monkeypatch):
    """They change no others, whose dtypes are those of the inputs."""
    inputs = problem((5,))
    inputs |= {"e": inputs["e"].bfloat16(), "c": inputs["c"].float()}
    all_three = evaluate(functools.partial(linear_cross_entropy, softcap=1.5), inputs, WANTED)
    made, gradient = [], _capped._gradient

    def recorded(*arguments):
        made.extend(t.numel() > 0 for t in gradient(*arguments))
        return gradient(*arguments)

    monkeypatch.setattr(_capped, "_gradient", recorded)
    wanted = tuple(itertools.compress(WANTED, asked))
    found = evaluate(functools.partial(linear_cross_entropy, softcap=1.5), inputs, wanted)
    assert made == asked
    assert [t.dtype for t in found[1:]] == [inputs[name].dtype for name in wanted]
    torch.testing.assert_close(found, [all_three[0], *itertools.compress(all_three[1:], asked)])


@pytest.mark.parametrize("asked", [[True, True], [True, False], [False, True], [False, False]], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_shapes_of_the_operators_for_tracing(bias, asked):
    inputs = problem((5,), bias, torch.float32)
    arguments = inputs["e"].bfloat16(), inputs["c"], inputs["bias"], inputs["targets"], 1.5
    tests = "test_schema", "test_faketensor"
    torch.library.opcheck(_capped._value, arguments, test_utils=tests)
    torch.library.opcheck(_capped._gradient, (*arguments, torch.randn(2, 5), [*asked, bias]), test_utils=tests)


def test_a_frozen_classifier_with_a_softcap_compiles():
    """One graph that leaves the gradient of c out."""
    torch._dynamo.reset()
    inputs = problem((5,), dtype=torch.float32)
    call = functools.partial(linear_cross_entropy, softcap=1.5)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(evaluate(compiled, inputs, ("e",)), evaluate(call, inputs, ("e",)))
