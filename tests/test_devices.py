"""What tensors on a GPU meet, on a machine that need not have one."""

from types import SimpleNamespace

import pytest
import torch
from problems import CALLS, problem
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mi_ext import DotScores, GatheredScores, bounds, critics, losses, ops, validation
from mi_ext.ops.cuda import tf32

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


def test_statistics_of_own_negatives_and_of_joint_critics_do_not_wait(monkeypatch):
    as_on_a_gpu(monkeypatch)
    critic = critics.Joint(4, 4, 5)
    forward_and_backward(lambda x, y: losses.KPair()(x, y, torch.stack([y, y.flip(0)], 1), return_stats=True)[0], X, Y)
    with NeverWaiting():
        for given in ({}, {"positive": Y}):
            assert critic(X, Y, labels=LABELS, **given).ranking()[0].shape == (6,)


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


@pytest.mark.parametrize("loss", [losses.InfoNCE(), losses.KPair()], ids=["shared negatives", "own negatives"])
def test_stats_on_a_gpu_have_ranks(loss):
    with FakeTensorMode(), torch.no_grad():
        x, own = torch.empty(5, 3, device="cuda"), torch.empty(5, 7, 3, device="cuda")
        _, stats = loss(x, x.clone(), *([own] if isinstance(loss, losses.KPair) else []), return_stats=True)
    assert {"rank", "top1", "top5", "effective_negatives"} < stats.keys()
    assert stats["rank"].device.type == "cuda"


def test_no_tf32_on_the_cpu(precision):
    precision("tf32")
    assert not tf32(torch.ones(1))
