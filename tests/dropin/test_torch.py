"""`mi_ext.dropin.torch` beside torch.nn.functional.linear_cross_entropy and the dense InfoNCE."""

import functools
import itertools

import pytest
import torch
from side_by_side import check_same, largest, parameters, raises_alike, saved_bytes
from torch.nn import functional as F

from mi_ext.dropin.torch import InfoNCELoss, info_nce_loss, linear_cross_entropy

pytestmark = pytest.mark.usefixtures("one_thread")
torch_has_it = pytest.mark.skipif(
    not hasattr(F, "linear_cross_entropy"), reason="this torch has no linear_cross_entropy to compare with"
)
CLASSES, WIDTH = 5, 4


def problem(positions=(), bias=True, weight=False, soft=False, n=6, dtype=torch.float64):
    g = torch.Generator().manual_seed(n + 10 * len(positions))
    shape = CLASSES, *positions
    target = (
        torch.rand(n, *shape, generator=g).to(dtype) if soft else torch.randint(CLASSES, (n, *positions), generator=g)
    )
    return {
        "input": torch.randn(n, WIDTH, generator=g).to(dtype),
        "linear_weight": torch.randn(*shape, WIDTH, generator=g).to(dtype),
        "target": target,
        "linear_bias": torch.randn(shape, generator=g).to(dtype) if bias else None,
        "weight": torch.rand(CLASSES, generator=g).to(dtype) if weight else None,
    }


def beside_torch(inputs: dict, wanted=("input", "linear_weight", "linear_bias"), tolerance=1e-9, **options):
    def of(function):
        return lambda input, linear_weight, target, **rest: function(input, linear_weight, target, **rest, **options)

    check_same(of(linear_cross_entropy), of(F.linear_cross_entropy), inputs, wanted, tolerance)


@torch_has_it
def test_signature():
    assert parameters(linear_cross_entropy) == parameters(F.linear_cross_entropy)


@torch_has_it
@pytest.mark.parametrize("positions", [(), (2, 3)])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
def test_classes(positions, reduction, label_smoothing):
    for bias, weight, ignore_index in itertools.product((False, True), (False, True), (None, 2)):
        options = {"reduction": reduction, "label_smoothing": label_smoothing, "ignore_index": ignore_index}
        beside_torch(problem(positions, bias, weight), **options)


@torch_has_it
@pytest.mark.parametrize("positions", [(), (2, 3)])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_probabilities(positions, reduction):
    for bias, weight, label_smoothing in itertools.product((False, True), (False, True), (0.0, 0.1)):
        inputs = problem(positions, bias, weight, soft=True)
        wanted = "input", "linear_weight", "linear_bias", "target"
        beside_torch(inputs, wanted, reduction=reduction, label_smoothing=label_smoothing)


@torch_has_it
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_everything_ignored_one_row_and_none(reduction):
    inputs = problem()
    beside_torch(inputs | {"target": torch.full((6,), -100)}, reduction=reduction)
    beside_torch(inputs | {"input": inputs["input"][0], "target": torch.tensor(3)}, reduction=reduction)
    beside_torch(inputs | {"target": inputs["target"].to(torch.uint8)}, reduction=reduction)
    beside_torch(problem(n=0), reduction=reduction)


@torch_has_it
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_the_input_s(dtype):
    for soft in (False, True):
        beside_torch(problem(soft=soft, dtype=dtype), tolerance=4 * torch.finfo(dtype).eps)


@torch_has_it
def test_autocast_returns_float32():
    inputs = {k: t for k, t in problem(dtype=torch.bfloat16).items() if k != "weight"}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x, w, target, b = inputs.values()
        for function in (linear_cross_entropy, F.linear_cross_entropy):
            assert function(x, w, target, linear_bias=b).dtype == torch.float32
        assert info_nce_loss(x, x.flip(0)).dtype == torch.float32


@torch_has_it
def test_errors():
    good = {k: t for k, t in problem().items() if k != "weight"}
    sides = good["input"], good["linear_weight"], good["target"]
    bad = [
        ((sides[0], sides[1], torch.tensor([0, 1, 2, 3, 4, 5])), {}),
        ((sides[0], sides[1], torch.tensor([0, 1, 2, 3, 4, -1])), {}),
        ((sides[0], sides[1], sides[2][:3]), {}),
        ((sides[0], sides[1], sides[2].int()), {}),
        ((sides[0][:, :2], sides[1], sides[2]), {}),
        ((sides[0][None], sides[1], sides[2]), {}),
        ((sides[0], sides[1][0], sides[2]), {}),
        ((sides[0][0], sides[1][:, None], sides[2]), {}),
        (sides, {"linear_bias": torch.zeros(2)}),
        (sides, {"weight": torch.zeros(2).double()}),
        (sides, {"reduction": "median"}),
        (sides, {"label_smoothing": 1.5}),
        ((sides[0], sides[1], torch.rand(6, CLASSES).double()), {"ignore_index": 1}),
    ]
    for arguments, options in bad:
        calls = [lambda f=f, a=arguments, o=options: f(*a, **o) for f in (linear_cross_entropy, F.linear_cross_entropy)]
        raises_alike(*calls)


def test_compiles_whole():
    inputs = problem(n=8)
    del inputs["weight"]

    def loss(x, w, t, b):
        return linear_cross_entropy(x, w, t, linear_bias=b)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for target in (inputs["target"], torch.where(inputs["target"] == 1, -100, inputs["target"])):
        call = {"x": inputs["input"], "w": inputs["linear_weight"], "t": target, "b": inputs["linear_bias"]}
        check_same(compiled, loss, call, ("x", "w", "b"))


@pytest.mark.parametrize("options", [{}, {"reduction": "none"}, {"label_smoothing": 0.1}, {"ignore_index": 3}], ids=str)
def test_nothing_of_the_size_of_the_logits_is_kept(options):
    n, classes, width = 1024, 2048, 16
    x, w = torch.randn(n, width, requires_grad=True), torch.randn(classes, width, requires_grad=True)
    b, target = torch.randn(classes, requires_grad=True), torch.randint(classes, (n,))
    call = functools.partial(linear_cross_entropy, x, w, target, linear_bias=b, **options)
    kept = saved_bytes(call)
    assert 0 < kept <= 8 * (n + classes) * (width + 8) * 4 < n * classes * 4
    assert largest(call) <= classes * (width + 1)


def dense_info_nce(query, positive_key, negative_keys=None, temperature=0.07, reduction="mean"):
    q, p = F.normalize(query), F.normalize(positive_key)
    if negative_keys is None:
        return F.cross_entropy(q @ p.T / temperature, torch.arange(len(q)), reduction=reduction)
    logits = torch.cat([(q * p).sum(1, keepdim=True), q @ F.normalize(negative_keys).T], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64), reduction=reduction)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("n_negatives", [None, 1, 9])
def test_info_nce(reduction, n_negatives):
    q, p = torch.randn(2, 7, 5, dtype=torch.float64)
    negatives = None if n_negatives is None else torch.randn(n_negatives, 5, dtype=torch.float64)
    for temperature in (0.07, 1.0):
        inputs = {"query": q, "positive_key": p, "negative_keys": negatives}
        options = {"temperature": temperature, "reduction": reduction}
        peer = functools.partial(dense_info_nce, **options)
        for ours in (functools.partial(info_nce_loss, **options), InfoNCELoss(temperature, reduction)):
            check_same(ours, peer, inputs, ("query", "positive_key", "negative_keys"))


def test_info_nce_signature_and_errors():
    assert parameters(info_nce_loss)[3][2] == parameters(InfoNCELoss)[0][2] == 0.07
    assert info_nce_loss(*torch.randn(2, 7, 5).bfloat16()).dtype == torch.bfloat16
    q = torch.randn(7, 5)
    for arguments in ((q[0], q), (q, q[:3]), (q, q, q[0]), (q, q[:, :3]), (q, q, q[:, :3])):
        with pytest.raises(ValueError, match="query|positive_key|y"):
            info_nce_loss(*arguments)
    with pytest.raises(ValueError, match="reduction"):
        info_nce_loss(q, q, reduction="median")


def test_info_nce_keeps_nothing_of_the_size_of_the_scores():
    n, width = 2048, 16
    q, p = torch.randn(2, n, width, requires_grad=True)
    for call in (lambda: info_nce_loss(q, p), lambda: info_nce_loss(q, p, p, reduction="none")):
        assert 0 < saved_bytes(call) <= 16 * n * width * 8 < n * n * 4
        assert largest(call) <= 2 * n * width
