"""What training does to a loss: autocast, gradient scaling, checkpointing, backward twice, benchmarks."""

import copy

import pytest
import torch
from objectives import BOUNDS, DISCRIMINATOR, LOSSES, OBJECTIVES, SOURCES, D, close, value_and_gradients, views
from torch import nn
from torch.utils import benchmark
from torch.utils.checkpoint import checkpoint

from mi_ext import DotScores, bounds, losses

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = [torch.bfloat16, torch.float16]
DETERMINISTIC = [name for name in OBJECTIVES if name != "NeuralDependency"]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", SHORT, ids=str)
def test_autocast(name, dtype):
    """An encoder gives 16-bit embeddings; the loss stays float32, and each gradient has the dtype of its tensor."""
    torch.manual_seed(0)
    encoder, (x, y) = nn.Linear(D, D), views()
    x.requires_grad_()

    def loss():
        torch.manual_seed(1)
        return LOSSES[name](encoder(x), y)

    expected = loss()
    (expected_gradient,) = torch.autograd.grad(expected, encoder.weight)
    with torch.autocast("cpu", dtype):
        assert encoder(x).dtype == dtype
        value = loss()
    value.backward()
    assert value.dtype == torch.float32
    assert encoder.weight.grad.dtype == x.grad.dtype == torch.float32
    rounding = 30 * torch.finfo(dtype).eps
    torch.testing.assert_close(value, expected, rtol=rounding, atol=rounding)
    scale = expected_gradient.abs().max().item()
    torch.testing.assert_close(encoder.weight.grad, expected_gradient, rtol=rounding, atol=rounding * scale)


@pytest.mark.parametrize("dtype", SHORT, ids=str)
def test_statistics_of_16_bit_embeddings_are_exact(dtype):
    """As of the same numbers in float64, but for the rounding of one float32: no score is rounded to 16 bits."""
    x, y = (t.to(dtype) for t in views(40))
    with torch.autocast("cpu", dtype):
        s = DotScores(x, y, 20.0)
        value, lse = s.cross_entropy(), s.negative_lse
    truth = DotScores(x.double(), y.double(), 20.0)
    assert value.dtype == lse.dtype == torch.float32
    torch.testing.assert_close(lse, truth.negative_lse.float(), rtol=3e-6, atol=1e-5)
    torch.testing.assert_close(value, truth.cross_entropy().float(), rtol=3e-6, atol=1e-5)


@pytest.mark.parametrize("name", ["InfoNCE", "SigLIP", "MLCPC", "joint", "gathered softplus"])
def test_a_scaled_loss_has_the_unscaled_gradients(name):
    """GradScaler multiplies a loss by 2^16 and divides the gradients: powers of two, so float32 does not notice."""
    model = nn.Linear(D, D)
    (x, y), optimiser = views(), torch.optim.SGD(model.parameters(), 0.1)
    expected = torch.autograd.grad(OBJECTIVES[name](model(x), y), list(model.parameters()))
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(OBJECTIVES[name](model(x), y)).backward()
    scaler.unscale_(optimiser)
    close([p.grad for p in model.parameters()], expected)
    before = model.weight.detach().clone()
    scaler.step(optimiser)
    scaler.update()
    assert scaler.get_scale() == 2.0**16 and not torch.equal(model.weight, before)


def test_half_gradients_of_a_scaled_loss_do_not_vanish():
    """They may lie below float16's smallest number; those of a scaled loss are scaled before they are rounded."""
    x, y = (t.half() for t in views(300))
    x = (1e-3 * x).requires_grad_()
    loss = losses.InfoNCE(temperature=100.0, normalize=False)
    (plain,) = torch.autograd.grad(loss(x, 1e-3 * y), x)
    (scaled,) = torch.autograd.grad(2.0**16 * loss(x, 1e-3 * y), x)
    wide = x.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(loss(wide, (1e-3 * y).float()), wide)
    assert (plain == 0).float().mean() > 0.5
    torch.testing.assert_close(scaled.float() / 2.0**16, expected, rtol=5e-3, atol=1e-10)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("reentrant", [False, True], ids=["by hooks", "reentrant"])
def test_checkpointing(name, reentrant):
    def checkpointed(x, y):
        return checkpoint(OBJECTIVES[name], x, y, use_reentrant=reentrant)

    x, y = (t.clone().requires_grad_() for t in views())
    checkpointed(x, y).backward()
    expected = value_and_gradients(OBJECTIVES[name], *views())[1:]
    close([t.new_zeros(t.shape) if t.grad is None else t.grad for t in (x, y)], expected)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_backward_twice(name):
    """retain_graph: the same gradients again; without it, torch's error."""
    x, y = (t.clone().requires_grad_() for t in views())
    value = OBJECTIVES[name](x, y)
    first, second = (
        torch.autograd.grad(value, (x, y), retain_graph=True, allow_unused=True, materialize_grads=True) for _ in "12"
    )
    close(second, first)
    value.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        value.backward()


@pytest.mark.parametrize("name", ["InfoNCE", "SigLIP", "CLIP", "gathered softplus", "joint", "importance_infonce"])
def test_one_value_used_twice(name):
    x, y = (t.double().requires_grad_() for t in views())
    value = OBJECTIVES[name](x, y)
    ours = torch.autograd.grad(value.square() + 3 * value, (x, y))
    _, *gradients = value_and_gradients(OBJECTIVES[name], x.detach(), y.detach())
    close(ours, [(2 * value.detach() + 3) * g for g in gradients])


def test_one_source_serves_two_bounds():
    """Its statistics are computed once and kept with their graph."""
    x, y = (t.clone().requires_grad_() for t in views())
    s = DotScores(x, y)
    ours = torch.autograd.grad(bounds.infonce(s) + bounds.nwj(s) + s.cross_entropy(reduction="none").max(), (x, y))

    def apart(x, y):
        rows = DotScores(x, y).cross_entropy(reduction="none")
        return bounds.infonce(DotScores(x, y)) + bounds.nwj(DotScores(x, y)) + rows.max()

    close(ours, value_and_gradients(apart, *views())[1:])


def test_gradients_accumulate_over_microbatches():
    model, (x, y) = nn.Linear(D, D), views(16)
    for half in (slice(0, 8), slice(8, 16)):
        losses.InfoNCE()(model(x[half]), y[half]).backward()
    total = sum(losses.InfoNCE()(model(x[half]), y[half]) for half in (slice(0, 8), slice(8, 16)))
    close([model.weight.grad], torch.autograd.grad(total, model.weight))


def test_a_frozen_discriminator_stays_so():
    frozen = copy.deepcopy(DISCRIMINATOR).requires_grad_(False)
    z = views()[0].sigmoid().requires_grad_()
    losses.PriorMatching(frozen).encoder_loss(z).backward()
    assert z.grad.abs().sum() > 0 and all(p.grad is None for p in frozen.parameters())


def test_benchmark():
    timer = benchmark.Timer("loss(x, y)", globals={"loss": losses.InfoNCE(), "x": views()[0], "y": views()[1]})
    assert 0 < timer.timeit(5).median < 10


def test_inference_mode():
    for name in BOUNDS | SOURCES | LOSSES:
        if name in DETERMINISTIC and name != "sobolev_penalty":
            with torch.inference_mode():
                value = OBJECTIVES[name](*views())
            close([value], [OBJECTIVES[name](*views())])
