"""Copies, pickles and state_dicts of losses, critics, buffers of negatives, bounds with a state, and estimators."""

import copy
import io
import pickle

import pytest
import torch
from objectives import DISCRIMINATOR, D, close, value_and_gradients, views
from torch import nn

from mi_ext import DotScores, MutualInformationEstimator, bounds, critics, losses, negatives
from mi_ext.objective import Objective

pytestmark = pytest.mark.usefixtures("one_thread")
INDEX = torch.arange(8)


def parameter(value):
    return nn.Parameter(torch.tensor(value))


def crd(loss, x, y):
    return loss(x, y, INDEX, generator=torch.Generator().manual_seed(5))


def dim(loss, x, y):
    return loss(x, torch.stack([y, y.flip(0)], 1))


def dependency(loss, x, y):
    return loss(x + y, torch.Generator().manual_seed(5))


def scored(critic, x, y):
    return bounds.infonce(critic(x, y))


def queued(queue, x, y):
    queue.enqueue(y)
    return losses.MoCo()(x, y, queue.queue)


def banked(bank, x, y):
    bank.update(INDEX, y)
    return losses.MoCo()(x, y, bank.memory)


def averaged(bound, x, y):
    return bound(DotScores(x, y))


# name → (how it is built, a value of it, whose gradients for x and y are compared too)
MODULES = {
    "CLIP": (lambda: losses.CLIP(parameter(0.2)), nn.Module.__call__),
    "CRD": (lambda: losses.CRD(16, D, 4, parameter(0.2)), crd),
    "DCL": (lambda: losses.DCL(parameter(0.2)), nn.Module.__call__),
    "DIM": (lambda: losses.DIM(critic=critics.Bilinear(D, D)), dim),
    "InfoNCE": (lambda: losses.InfoNCE(parameter(0.2)), nn.Module.__call__),
    "KPair": (losses.KPair, nn.Module.__call__),
    "MLCPC": (lambda: losses.MLCPC(0.5, parameter(0.2)), nn.Module.__call__),
    "MoCo": (lambda: losses.MoCo(parameter(0.2)), lambda loss, x, y: loss(x, y, y.flip(0))),
    "NTXent": (lambda: losses.NTXent(parameter(0.2)), nn.Module.__call__),
    "NeuralDependency": (lambda: losses.NeuralDependency(copy.deepcopy(DISCRIMINATOR)), dependency),
    "PriorMatching": (
        lambda: losses.PriorMatching(copy.deepcopy(DISCRIMINATOR)),
        lambda loss, x, y: loss.encoder_loss((x + y).sigmoid()),
    ),
    "SigLIP": (lambda: losses.SigLIP(parameter(0.2), parameter(-3.0)), nn.Module.__call__),
    "SupCon": (lambda: losses.SupCon(parameter(0.2)), lambda loss, x, y: loss(x + y, INDEX // 2)),
    "Bilinear": (lambda: critics.Bilinear(D, D), scored),
    "Cosine": (critics.Cosine, scored),
    "Joint": (lambda: critics.Joint(D, D, 5, layers=2), scored),
    "Separable": (lambda: critics.Separable(critics.mlp(D, 5, 4), critics.mlp(D, 4)), scored),
    "Queue": (lambda: negatives.Queue(12, D), queued),
    "MemoryBank": (lambda: negatives.MemoryBank(12, D), banked),
    "DonskerVaradhanEMA": (lambda: bounds.DonskerVaradhanEMA(0.5), averaged),
    "Objective": (lambda: Objective("donsker_varadhan_ema:0.5"), averaged),
}


def pickled(module):
    return pickle.loads(pickle.dumps(module))


def saved(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_the_table_has_every_module():
    packages = losses, critics, negatives, bounds
    public = [value for package in packages for value in vars(package).values() if isinstance(value, type)]
    modules = {t.__name__ for t in public if issubclass(t, nn.Module) and t.__module__.startswith("mi_ext")}
    assert modules - {"ContrastiveLoss"} == set(MODULES) - {"Objective"}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved], ids=["deepcopy", "pickle", "torch.save"])
def test_copies_compute_the_same_and_share_nothing(name, copied):
    """After a step, so that a state (a queue, a memory, a moving average) is not the first one."""
    torch.manual_seed(0)
    build, value = MODULES[name]
    module = build()
    value_and_gradients(lambda x, y: value(module, x, y), *views(seed=1))
    twin = copied(module)
    assert type(twin) is type(module)
    ours, theirs = (value_and_gradients(lambda x, y, m=m: value(m, x, y), *views()) for m in (module, twin))
    close(theirs, ours)
    mine = {t.data_ptr() for t in (*module.parameters(), *module.buffers())}
    assert mine.isdisjoint(t.data_ptr() for t in (*twin.parameters(), *twin.buffers()))


@pytest.mark.parametrize("name", MODULES)
def test_state_dict_holds_all_that_was_learned(name):
    torch.manual_seed(0)
    build, value = MODULES[name]
    module, fresh = build(), build()
    value_and_gradients(lambda x, y: value(module, x, y), *views(seed=1))
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(1.1)
    fresh.load_state_dict(module.state_dict())
    ours, theirs = (value_and_gradients(lambda x, y, m=m: value(m, x, y), *views()) for m in (module, fresh))
    close(theirs, ours)
    assert fresh.state_dict().keys() == module.state_dict().keys()
    for key, t in module.state_dict().items():
        torch.testing.assert_close(fresh.state_dict()[key], t)


@pytest.mark.parametrize("name", MODULES)
def test_float64_and_back(name):
    """.double() turns parameters and buffers of floats; a pointer stays an integer."""
    torch.manual_seed(0)
    build, value = MODULES[name]
    module = build().double()
    assert value(module, *(t.double() for t in views())).dtype == torch.float64
    assert all(t.dtype in (torch.float64, torch.int64) for t in module.state_dict().values())


def test_scores_are_pickled_and_copied():
    """Plain data: a source of scores has the same values after a journey, and its tensors no graph."""
    s = DotScores(*views(), torch.tensor(0.7), 0.1, labels=(INDEX % 3, INDEX % 2))
    for twin in (pickle.loads(pickle.dumps(s)), copy.deepcopy(s)):
        close([bounds.infonce(twin), bounds.nwj(twin)], [bounds.infonce(s), bounds.nwj(s)])


@pytest.mark.parametrize("critic", ["separable", "joint"])
def test_an_estimator_is_pickled_and_copied(critic):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=generator)
    y = x + torch.randn(200, 2, generator=generator)
    estimator = MutualInformationEstimator(critic=critic, steps=5, batch=32).fit(x, y)
    expected = estimator.estimate()
    assert expected == pickle.loads(pickle.dumps(estimator)).estimate() == copy.deepcopy(estimator).estimate()
    assert expected == pickle.loads(pickle.dumps(expected))
