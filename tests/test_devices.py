"""What tensors on a GPU meet, on a machine that need not have one."""

import re
from types import SimpleNamespace

import joint_problems
import pytest
import torch
from problems import CALLS, problem
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mi_ext import _C, DotScores, GatheredScores, bounds, critics, losses, ops, validation
from mi_ext.ops.cuda import tf32

raw = torch.ops.mi_ext
CUDA = torch._C.DispatchKey.CUDA
BUILT = not _C.build_info()["cuda"].startswith("no")
OPERATORS = [
    name for name in torch._C._dispatch_get_registrations_for_dispatch_key("CPU") if name.startswith("mi_ext::")
]

# What a program on a GPU would wait for: a value, or a shape that depends on values, brought to the host; and a number
# of the host made a tensor and copied over (torch.full needs no copy).
WAITING = {
    "_local_scalar_dense",
    "_unique2",
    "unique_dim",
    "nonzero",
    "equal",
    "bincount",
    "masked_select",
    "lift_fresh",
}


class NeverWaiting(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in WAITING, f"{name}: on a GPU the host would wait for it"
        return function(*args, **(kwargs or {}))


def as_on_a_gpu(monkeypatch):
    """Tensors of the CPU that may not be looked at, as if they were on a GPU."""
    monkeypatch.setattr(validation, "readable", lambda t: False)


def forward_and_backward(loss, *tensors):
    leaves = [t.clone().requires_grad_() for t in tensors]
    with NeverWaiting():
        value = loss(*leaves)
        value.backward(torch.ones_like(value))
    assert all(t.grad is not None for t in leaves)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, Y, SCALE = numbers(6, 4), numbers(6, 4, seed=1), torch.tensor(1.3)
LABELS = (torch.tensor([0, 1, 2, 3, 0, 5]), torch.tensor([0, 1, 2, 3, 4, 5]))
LOG_WEIGHT = numbers(6)
INDEX = torch.tensor([[0, 4, 1], [2, 2, 3], [1, 0, 4], [3, 4, 0]])
OPTIONS = {
    "plain": {},
    "labels": {"labels": LABELS},
    "log-weights": {"candidate_log_weight": LOG_WEIGHT},
    "everything": {"labels": LABELS, "candidate_log_weight": LOG_WEIGHT, "target": torch.tensor([1, 0, 3, 2, 5, 4])},
}
BOUNDS = {
    "infonce": bounds.infonce,
    "nwj": bounds.nwj,
    "f_mine": bounds.f_mine,
    "donsker_varadhan": bounds.donsker_varadhan,
    "donsker_varadhan, all": lambda s: bounds.donsker_varadhan(s, "all"),
    "donsker_varadhan, ema": bounds.DonskerVaradhanEMA(),
    "eta_dv": lambda s: bounds.eta_dv(s, 0.3),
    "jensen_shannon": bounds.jensen_shannon,
    "smile": lambda s: bounds.smile(s, 2.0),
    "tuba": lambda s: bounds.tuba(s, s.exclusions.target.double()),
}


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("options", OPTIONS)
def test_bounds_do_not_wait(name, options, monkeypatch):
    as_on_a_gpu(monkeypatch)
    forward_and_backward(lambda x, y, scale: BOUNDS[name](DotScores(x, y, scale, 0.1, **OPTIONS[options])), X, Y, SCALE)


@pytest.mark.parametrize("name", ["alpha_cpc", "ml_cpc"])
def test_bounds_with_a_known_number_of_candidates_do_not_wait(name, monkeypatch):
    as_on_a_gpu(monkeypatch)
    forward_and_backward(lambda x, y: getattr(bounds, name)(DotScores(x, y), 0.9), X, Y)


@pytest.mark.parametrize("options", OPTIONS)
def test_two_query_sets_do_not_wait(options, monkeypatch):
    as_on_a_gpu(monkeypatch)
    given = OPTIONS[options]
    forward_and_backward(
        lambda x1, x2, y, scale: bounds.decomposed_infonce(
            DotScores(x1, y, scale, **given), DotScores(x2, y, 0.3, **given), 0.5
        ),
        X,
        X.flip(0),
        Y,
        SCALE,
    )


def test_statistics_beside_a_loss_do_not_wait(monkeypatch):
    as_on_a_gpu(monkeypatch)
    forward_and_backward(lambda x, y: losses.InfoNCE()(x, y, return_stats=True)[0], X, Y)


@pytest.mark.parametrize("loss", ["InfoNCE", "NTXent", "DCL", "CLIP", "SigLIP", "MLCPC"])
def test_losses_do_not_wait(loss, monkeypatch):
    as_on_a_gpu(monkeypatch)
    forward_and_backward(getattr(losses, loss)(), X, Y)


@pytest.mark.parametrize("loss", ["MoCo", "MLCPC"])
def test_losses_with_a_queue_do_not_wait(loss, monkeypatch):
    as_on_a_gpu(monkeypatch)
    forward_and_backward(lambda x: getattr(losses, loss)()(x, Y, Y), X)


@pytest.mark.parametrize("name", [name for name in BOUNDS if name not in ("tuba", "eta_dv")])
def test_bounds_of_gathered_scores_do_not_wait(name, monkeypatch):
    as_on_a_gpu(monkeypatch)
    index = torch.arange(18).reshape(6, 3) % 6
    forward_and_backward(
        lambda x, y, scale: BOUNDS[name](GatheredScores(x, y, index, scale, 0.1, positive=Y)), X, Y, SCALE
    )


def test_loss_with_own_negatives_does_not_wait(monkeypatch):
    as_on_a_gpu(monkeypatch)
    forward_and_backward(lambda x, y: losses.KPair()(x, y, torch.stack([y, y.flip(0)], 1)), X, Y)


def test_supervised_loss_does_not_wait(monkeypatch):
    as_on_a_gpu(monkeypatch)
    forward_and_backward(lambda x: losses.SupCon()(x, LABELS[0]), X)


@pytest.mark.parametrize("name", ["infonce", "jensen_shannon", "smile", "donsker_varadhan", "donsker_varadhan, all"])
@pytest.mark.parametrize("layers", [1, 2])
def test_bounds_of_joint_critics_do_not_wait(name, layers, monkeypatch):
    as_on_a_gpu(monkeypatch)
    critic = critics.Joint(4, 4, 5, layers)
    forward_and_backward(lambda x, y: BOUNDS[name](critic(x, y, labels=LABELS)), X, Y)


def test_waiting_is_noticed():
    with pytest.raises(AssertionError, match="the host would wait"), NeverWaiting():
        SCALE.item()


def test_values_on_a_gpu_are_not_looked_at():
    assert validation.readable(torch.ones(()))
    assert not validation.readable(SimpleNamespace(device=torch.device("cuda")))


def test_equal_counts_that_could_not_be_looked_at_are_a_tensor(monkeypatch):
    labels = (torch.arange(6), torch.arange(6))
    known = DotScores(X, Y, labels=labels).n_negatives
    as_on_a_gpu(monkeypatch)
    unknown = DotScores(X, Y, labels=labels)
    assert known == 5 and torch.equal(unknown.n_negatives, torch.full((6,), 5))
    torch.testing.assert_close(bounds.alpha_cpc(unknown, 0.9), bounds.alpha_cpc(DotScores(X, Y), 0.9))


# Precision


@pytest.fixture
def precision():
    before = torch.backends.cuda.matmul.fp32_precision

    def choose(value):
        torch.backends.cuda.matmul.fp32_precision = value

    yield choose
    choose(before)


class Recording(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.tf32 = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "mi_ext":
            self.tf32.append(args[-1] if len(args) == len(function._schema.arguments) else False)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("chosen", ["tf32", "ieee"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_tf32_where_torch_uses_it(call, chosen, dtype, precision):
    precision(chosen)
    p = problem(5, 7, 3, "targets", dtype)
    leaves = {"scale": p.scale, "bias": p.bias, "external": None, "v": None}
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, Recording() as record, torch.no_grad():
        on_gpu = {name: torch.empty(t.shape, dtype=dtype, device="cuda") for name, t in (("x", p.x), ("y", p.y))}
        target = torch.empty(5, dtype=torch.int64, device="cuda")
        CALLS[call](ops, type(p)(**vars(p) | {"exclusions": (target, None, None, None)}), leaves | on_gpu)
        assert mode and record.tf32 == [chosen == "tf32" and dtype == torch.float32]


def test_stats_on_a_gpu_have_ranks():
    with FakeTensorMode(), torch.no_grad():
        x = torch.empty(5, 3, device="cuda")
        _, stats = losses.InfoNCE()(x, x.clone(), return_stats=True)
    assert {"rank", "top1", "top5", "effective_negatives"} < stats.keys()
    assert stats["rank"].device.type == "cuda"


def test_no_tf32_on_the_cpu(precision):
    precision("tf32")
    assert not tf32(torch.ones(1))


# Errors


def arguments(operator, p):
    """Positional, of a raw operator without its flags' last, tf32."""
    target, x_label, y_label, v = p.exclusions
    scale = torch.tensor(p.scale, dtype=torch.float64)
    sides = p.x, p.y, scale
    exclusions = target, x_label, y_label, v
    rows, none = torch.zeros(len(p.x), dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    return {
        "dot_statistics": (*sides, *exclusions, False),
        "dot_clipped_lse": (*sides, scale, *exclusions, 1.0),
        "dot_fused": (*sides, *exclusions, None, 0.0, 0.0, False, True),
        "dot_gradient": (*sides, *exclusions, rows, rows, none, rows, rows, none, True),
        "dot_softplus_sum": (*sides, scale, *exclusions, True, True),
        "dot_ranking": (*sides, *exclusions, None),
        "importance_statistics": (p.x, *sides, scale, *exclusions),
        "importance_fused": (p.x, *sides, scale, *exclusions, None, None, rows, 1.0, 1.0, 1.0, True, True),
        "importance_gradient": (p.x, *sides, scale, *exclusions, *(rows,) * 10, True, True),
        "gathered_lse": (p.x, p.y, INDEX, scale),
        "gathered_clipped_lse": (p.x, p.y, INDEX, scale, scale, 1.0),
        "gathered_fused": (p.x, p.y, INDEX, scale, rows, 0.0, 0.0, False, True),
        "gathered_gradient": (p.x, p.y, INDEX, scale, rows, rows, True),
        "gathered_softplus_sum": (p.x, p.y, INDEX, scale, scale, True, True),
    }[operator]


WITH_KERNELS = [name for name in OPERATORS if re.match("mi_ext::(dot|importance|gathered)_(?!ranking)", name)]


@pytest.mark.parametrize("operator", [*WITH_KERNELS, "mi_ext::dot_ranking"])
def test_errors_of_kernels_for_gpus(operator):
    """Tensors of the CPU, sent where those of a GPU go: to the kernel's own checks, or to why there is no kernel."""
    of_kernel, of_none = (
        "expected all tensors on one GPU, but x is on cpu",
        "got tensors on .* built .*MI_EXT_CUDA=1 pip",
    )
    name = operator.removeprefix("mi_ext::")
    with pytest.raises(RuntimeError, match=f"{operator}: {of_kernel if BUILT else of_none}"):
        getattr(raw, name).default._op_dk(CUDA, *arguments(name, problem(4, 5, 3)))


def joint_arguments(operator):
    """Positional, of a raw operator."""
    p = joint_problems.problem(4, 5, 3, 1)
    rows, none = torch.zeros(4, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    tensors, exclusions = tuple(p.tensors.values()), p.exclusions
    return {
        "joint_statistics": (*tensors, *exclusions, False),
        "joint_clipped_lse": (*tensors, p.bias, *exclusions, 1.0),
        "joint_fused": (*tensors, *exclusions, 0.0, 0.0, False),
        "joint_gradient": (*tensors, *exclusions, rows, none, rows, rows, none),
        "joint_softplus_sum": (*tensors, p.bias, *exclusions, True),
        "joint_matrix": tensors,
        "joint_matrix_gradient": (*tensors, torch.zeros(4, 5)),
    }[operator]


@pytest.mark.parametrize("operator", [name for name in OPERATORS if re.match("mi_ext::joint_(?!ranking)", name)])
def test_errors_of_joint_kernels_for_gpus(operator):
    of_kernel = "expected all tensors on one GPU, but a is on cpu"
    name = operator.removeprefix("mi_ext::")
    with pytest.raises(RuntimeError, match=f"{operator}: {of_kernel if BUILT else 'got tensors on .* built '}"):
        getattr(raw, name).default._op_dk(CUDA, *joint_arguments(name))


def test_no_operator_leaves_a_tensor_on_a_gpu_without_an_answer():
    assert all(torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA") for name in OPERATORS)
