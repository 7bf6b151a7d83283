"""Losses and critics against their textbook forms on dense float64 matrices."""

import math

import pytest
import torch
from torch.nn import functional as F

from mi_ext import DenseScores, DotScores, JointScores, bounds, critics, losses

INF = math.inf


def embeddings(n=6, d=4, count=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=g, dtype=torch.float64).requires_grad_() for _ in range(count)]


def cosines(a, b):
    return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T


def by_ntxent(a, b, temperature):
    z = torch.cat([a, b])
    s = (cosines(z, z) / temperature).masked_fill(torch.eye(len(z), dtype=torch.bool), -INF)
    return F.cross_entropy(s, torch.arange(len(z)).roll(len(a)))


def by_dcl(a, b, temperature):
    z = torch.cat([a, b])
    s, other = cosines(z, z) / temperature, torch.arange(len(z)).roll(len(a))
    excluded = torch.eye(len(z), dtype=torch.bool) | F.one_hot(other, len(z)).bool()
    return (s.masked_fill(excluded, -INF).logsumexp(1) - s[torch.arange(len(z)), other]).mean()


def by_clip(a, b, temperature):
    s, own = cosines(a, b) / temperature, torch.arange(len(a))
    return (F.cross_entropy(s, own) + F.cross_entropy(s.T, own)) / 2


def by_siglip(a, b, temperature, bias):
    s = cosines(a, b) / temperature + bias
    sign = 2 * torch.eye(len(a), dtype=torch.float64) - 1
    return -(1 / (1 + (-sign * s).exp())).log().sum() / len(a)


def by_supcon(z, labels, temperature):
    s, terms = cosines(z, z) / temperature, []
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        positives = [k for k in others if labels[k] == labels[i]]
        if positives:
            terms.append(s[i, others].logsumexp(0) - s[i, positives].mean())
    return torch.stack(terms).mean()


def by_moco(query, key, queue, temperature):
    own = (F.normalize(query, dim=1) * F.normalize(key.detach(), dim=1)).sum(1, keepdim=True)
    logits = torch.cat([own, cosines(query, queue.detach())], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long))


def by_ml_cpc(logits, alpha):
    """log(K/α) − J_α for logits [n, K] with the positive first."""
    n, k = logits.shape
    weights = torch.full((n, k), math.log((k - alpha) / (k - 1)), dtype=torch.float64)
    weights[:, 0] = math.log(alpha)
    return math.log(k / alpha) - (math.log(n * k) + logits[:, 0].mean() - (logits + weights).flatten().logsumexp(0))


def positive_first(s):
    n = len(s)
    off = ~torch.eye(n, dtype=torch.bool)
    return torch.cat([s.diagonal()[:, None], s[off].reshape(n, n - 1)], 1)


LABELS = torch.tensor([0, 1, 0, 2, 1, 0])
A, B, QUEUE = embeddings(count=3)
QUEUE = F.normalize(QUEUE.detach(), dim=1).requires_grad_()  # as enqueued
CASES = {
    "InfoNCE": (
        lambda a, b: losses.InfoNCE(0.3)(a, b),
        lambda a, b: F.cross_entropy(cosines(a, b) / 0.3, torch.arange(len(a))),
    ),
    "InfoNCE, not normalised": (
        lambda a, b: losses.InfoNCE(0.3, normalize=False)(a, b),
        lambda a, b: F.cross_entropy(a @ b.T / 0.3, torch.arange(len(a))),
    ),
    "InfoNCE, target": (
        lambda a, b: losses.InfoNCE(0.3)(a[:4], b, torch.tensor([3, 5, 0, 0])),
        lambda a, b: F.cross_entropy(cosines(a[:4], b) / 0.3, torch.tensor([3, 5, 0, 0])),
    ),
    "InfoNCE, labels": (
        lambda a, b: losses.InfoNCE(0.3)(a, b, labels=(LABELS, LABELS)),
        lambda a, b: F.cross_entropy(
            (cosines(a, b) / 0.3).masked_fill((LABELS[:, None] == LABELS) & ~torch.eye(6, dtype=torch.bool), -INF),
            torch.arange(6),
        ),
    ),
    "NTXent": (lambda a, b: losses.NTXent(0.5)(a, b), lambda a, b: by_ntxent(a, b, 0.5)),
    "DCL": (lambda a, b: losses.DCL(0.2)(a, b), lambda a, b: by_dcl(a, b, 0.2)),
    "CLIP": (lambda a, b: losses.CLIP(0.07)(a, b), lambda a, b: by_clip(a, b, 0.07)),
    "SigLIP": (lambda a, b: losses.SigLIP(0.2, -3.0)(a, b), lambda a, b: by_siglip(a, b, 0.2, -3.0)),
    "SupCon": (lambda a, b: losses.SupCon(0.1)(a, LABELS), lambda a, b: by_supcon(a, LABELS.tolist(), 0.1)),
    "MoCo": (lambda a, b: losses.MoCo(0.1)(a, b, QUEUE[:5].to(a.dtype)), lambda a, b: by_moco(a, b, QUEUE[:5], 0.1)),
    "MLCPC": (
        lambda a, b: losses.MLCPC(0.5, 0.2)(a, b),
        lambda a, b: by_ml_cpc(positive_first(cosines(a, b) / 0.2), 0.5),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_follow_the_textbook(name):
    ours, truth = CASES[name]
    a, b = embeddings()
    got, expected = ours(a, b), truth(a, b)
    assert got.dim() == 0
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    mine = torch.autograd.grad(got, (a, b), materialize_grads=True, allow_unused=True)
    theirs = torch.autograd.grad(expected, (a, b), materialize_grads=True, allow_unused=True)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_sixteen_bit_embeddings_give_float32_losses(name):
    a, b = (t.detach().bfloat16().requires_grad_() for t in embeddings())
    loss = CASES[name][0](a, b.detach())
    loss.backward()
    assert loss.dtype == torch.float32 and a.grad.dtype == torch.bfloat16 and a.grad.isfinite().all()
    assert loss.item() == pytest.approx(CASES[name][1](*embeddings()).item(), rel=0.05, abs=0.05)


STATS = {
    "InfoNCE": (lambda a, b: losses.InfoNCE(0.3)(a, b, return_stats=True), 5, lambda loss: math.log(6) - loss),
    "NTXent": (lambda a, b: losses.NTXent()(a, b, return_stats=True), 10, lambda loss: math.log(11) - loss),
    "CLIP": (lambda a, b: losses.CLIP()(a, b, return_stats=True), 5, lambda loss: math.log(6) - loss),
    "SupCon": (lambda a, b: losses.SupCon()(a, LABELS, return_stats=True), 4, lambda loss: math.log(5) - loss),
    "MoCo": (lambda a, b: losses.MoCo()(a, b, QUEUE, return_stats=True), 6, lambda loss: math.log(7) - loss),
    "MLCPC": (lambda a, b: losses.MLCPC(0.5)(a, b, return_stats=True), 5, lambda loss: math.log(6 / 0.5) - loss),
    "MLCPC, queue": (lambda a, b: losses.MLCPC()(a, b, QUEUE, return_stats=True), 6, lambda loss: math.log(7) - loss),
    "DCL": (lambda a, b: losses.DCL(0.5)(a, b, return_stats=True), 10, lambda _: math.log(11) - by_ntxent(A, B, 0.5)),
    "SigLIP": (
        lambda a, b: losses.SigLIP()(a, b, return_stats=True),
        5,
        lambda loss: bounds.infonce(DenseScores(10 * cosines(A, B))),
    ),
}


@pytest.mark.parametrize("name", STATS)
def test_stats(name):
    call, n_negatives, mi = STATS[name]
    loss, stats = call(A, B)
    assert loss.requires_grad and stats["n_negatives"] == n_negatives
    torch.testing.assert_close(stats["mi"], mi(loss).detach(), rtol=1e-9, atol=1e-9)
    rows = 12 if name in ("NTXent", "DCL") else 6
    assert stats["log_partition"].shape == (rows,) and not stats["log_partition"].requires_grad
    assert not stats["mi"].requires_grad


def test_log_partition_of_stats_is_that_of_rows():
    _, stats = losses.CLIP(0.2)(A, B, return_stats=True)
    torch.testing.assert_close(stats["log_partition"], (cosines(A, B) / 0.2).logsumexp(1).detach())


def test_asking_for_stats_does_not_change_loss_or_gradient():
    a, b = embeddings()
    for loss in (losses.InfoNCE(), losses.NTXent(), losses.CLIP(), losses.SigLIP(), losses.DCL(), losses.MLCPC()):
        plain, (told, _) = loss(a, b), loss(a, b, return_stats=True)
        torch.testing.assert_close(plain, told, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.autograd.grad(plain, a), torch.autograd.grad(told, a), rtol=1e-9, atol=1e-12)


def test_learned_temperature_and_bias_get_the_right_gradients():
    a, b = embeddings()
    temperature = torch.nn.Parameter(torch.tensor(0.2, dtype=torch.float64))
    bias = torch.nn.Parameter(torch.tensor(-3.0, dtype=torch.float64))
    module = losses.SigLIP(temperature, bias)
    assert {name for name, _ in module.named_parameters()} == {"temperature", "bias"}
    got = torch.autograd.grad(module(a, b), (temperature, bias))
    expected = torch.autograd.grad(by_siglip(a, b, temperature, bias), (temperature, bias))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    got = torch.autograd.grad(losses.CLIP(temperature)(a, b), temperature)
    torch.testing.assert_close(got, torch.autograd.grad(by_clip(a, b, temperature), temperature), rtol=1e-9, atol=1e-9)
    got = torch.autograd.grad(losses.SupCon(temperature)(a, LABELS), temperature)
    expected = torch.autograd.grad(by_supcon(a, LABELS.tolist(), temperature), temperature)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    labels = torch.tensor([0, 0, 1, 2, 3, 4])  # excluded pairs with a learned temperature: no NaN
    assert torch.autograd.grad(losses.CLIP(temperature)(a, b, labels=(labels, labels)), temperature)[0].isfinite()


@pytest.mark.parametrize("alpha", [0.1, 1.0, 3.0])
@pytest.mark.filterwarnings("ignore:ml_cpc is a lower bound")
def test_ml_cpc_grad_scale_and_queue(alpha):
    own = (F.normalize(A, dim=1) * F.normalize(B, dim=1)).sum(1, keepdim=True)
    logits = torch.cat([own, cosines(A, QUEUE)], 1) / 0.2
    expected = by_ml_cpc(logits, alpha)
    plain, scaled = (losses.MLCPC(alpha, 0.2, grad_scale=g)(A, B, QUEUE) for g in ("none", "1/alpha"))
    torch.testing.assert_close(plain, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(scaled, expected / alpha, rtol=1e-9, atol=1e-9)
    mine, theirs = torch.autograd.grad(scaled, A)[0], torch.autograd.grad(plain, A)[0]
    torch.testing.assert_close(mine, theirs / alpha, rtol=1e-9, atol=1e-12)


def test_moco_and_queued_ml_cpc_leave_keys_and_queue_alone():
    for loss in (losses.MoCo(), losses.MLCPC()):
        gradients = torch.autograd.grad(loss(A, B, QUEUE), (A, B, QUEUE), allow_unused=True)
        assert gradients[0].abs().sum() > 0 and gradients[1] is None and gradients[2] is None
    assert torch.autograd.grad(losses.MLCPC()(A, B), B)[0].abs().sum() > 0


def test_supcon_leaves_out_anchors_without_a_positive():
    a, _ = embeddings()
    labels = torch.tensor([7, 7, 1, 2, 3, 4])
    got, expected = losses.SupCon()(a, labels), by_supcon(a, labels.tolist(), 0.1)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    nothing = losses.SupCon()(a, torch.arange(6))
    assert nothing == 0 and torch.equal(torch.autograd.grad(nothing, a)[0], torch.zeros_like(a))
    alone = losses.SupCon()(a[:1], labels[:1])
    assert alone == 0 and torch.autograd.grad(alone, a)[0].isfinite().all()


def test_zero_vectors_give_no_nan():
    for dtype in (torch.float32, torch.float16):
        a = torch.zeros(3, 4, dtype=dtype, requires_grad=True)
        loss = losses.InfoNCE()(a, torch.randn(3, 4).to(dtype))
        loss.backward()
        assert loss.isfinite() and not a.grad.isnan().any()


# Critics ------------------------------------------------------------------------------------------------------------


def check_critic(scores, matrix, kind):
    assert isinstance(scores, kind)
    expected = DenseScores(matrix)
    torch.testing.assert_close(scores.positive, expected.positive, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(scores.negative_lse, expected.negative_lse, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layers", [1, 2])
def test_joint_critic_scores_every_concatenated_pair(layers):
    x, y = torch.randn(3, 2, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    critic = critics.Joint(2, 3, 7, layers).double()
    shapes = [tuple(p.shape) for p in critic.parameters()]
    assert shapes == [(7, 5), (7,), *[(7, 7), (7,)] * (layers - 1), (1, 7), (1,)]
    network = torch.nn.Sequential(*[m for linear in critic.linears for m in (linear, torch.nn.ReLU())][:-1])
    matrix = torch.stack([torch.cat([network(torch.cat([a, b])) for b in y]) for a in x])
    check_critic(critic(x, y), matrix, JointScores)
    bounds.nwj(critic(x, y)).backward()
    assert all(p.grad is not None for p in critic.parameters())


def test_product_critics():
    x, y = torch.randn(3, 2, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    bilinear = critics.Bilinear(2, 3).double()
    check_critic(bilinear(x, y), x @ bilinear.weight @ y.T, DotScores)
    separable = critics.Separable(torch.nn.Linear(2, 4), torch.nn.Linear(3, 4)).double()
    check_critic(separable(x, y), separable.encode_x(x) @ separable.encode_y(y).T, DotScores)
    cosine = critics.Cosine(0.1).double()
    assert cosine.log_scale.exp().item() == pytest.approx(10, rel=1e-6)
    check_critic(cosine(x, x), cosine.log_scale.exp() * cosines(x, x), DotScores)
    bounds.infonce(cosine(x, x)).backward()
    assert cosine.log_scale.grad.isfinite()
    target = torch.tensor([4, 0, 1])
    assert torch.equal(bilinear(x, y, target).target, target)
