"""Deep InfoMax: global against local features, against loops over explicit scores in float64."""

import math

import pytest
import torch
from score_matrices import close

from mi_ext import bounds, critics, losses, ops
from mi_ext.scores import LocalGlobalScores

pytestmark = pytest.mark.usefixtures("one_thread")


def features(n=4, n_locals=3, d=5, seed=0, dtype=torch.float64):
    """(globals [B, d], locals [B, L, d])."""
    g = torch.Generator().manual_seed(seed)
    draw = (torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype) for shape in ((n, d), (n, n_locals, d)))
    return [t.requires_grad_() for t in draw]


def all_scores(score, g, c):
    """s [B, B, L]: global i with local (k, l)."""
    return torch.stack([torch.stack([torch.stack([score(x, y) for y in image]) for image in c]) for x in g])


def product(x, y):
    return x @ y


def by_loops(s, estimator):
    """(loss, mi, log-partitions) with a query for each (image, own local) and the locals of the others as negatives."""
    n, _, n_locals = s.shape
    p = torch.stack([s[i, i, k] for i in range(n) for k in range(n_locals)])
    negatives = [torch.cat([s[i, k] for k in range(n) if k != i]) for i in range(n) for _ in range(n_locals)]
    rows = torch.stack([torch.cat([p[i : i + 1], others]).logsumexp(0) for i, others in enumerate(negatives)])
    every = torch.cat(negatives)
    nce, dv = (rows - p).mean(), p.mean() - every.exp().mean().log()
    mi = math.log(1 + (n - 1) * n_locals) - nce
    if estimator == "jensen_shannon":
        return (1 + (-p).exp()).log().mean() + (1 + every.exp()).log().mean(), mi, rows
    return (nce, mi, rows) if estimator == "infonce" else (-dv, dv, rows)


def mlp(critic):
    network = torch.nn.Sequential(*[m for linear in critic.linears for m in (linear, torch.nn.ReLU())][:-1])
    return lambda x, y: network(torch.cat([x, y])).squeeze()


class WithoutLabels(torch.nn.Module):
    """A critic that can be told of its positives only."""

    def __init__(self, critic):
        super().__init__()
        self.critic = critic

    def forward(self, x, y, target):
        return self.critic(x, y, target)


PRODUCT = critics.Separable(torch.nn.Identity(), torch.nn.Identity())
ESTIMATORS = pytest.mark.parametrize("estimator", ["jensen_shannon", "infonce", "donsker_varadhan"])
SHAPES = pytest.mark.parametrize("n, n_locals", [(4, 3), (2, 1), (5, 1), (3, 4)])


@ESTIMATORS
@SHAPES
def test_product_follows_the_definition(estimator, n, n_locals):
    g, c = features(n, n_locals)
    loss, stats = losses.DIM(estimator)(g, c, return_stats=True)
    expected, mi, rows = by_loops(all_scores(product, g, c), estimator)
    close(loss, expected)
    close(stats["mi"], mi.detach())
    close(stats["log_partition"], rows.detach())
    assert stats["n_negatives"] == (n - 1) * n_locals
    for ours, truth in zip(*(torch.autograd.grad(t, (g, c)) for t in (loss, expected)), strict=True):
        close(ours, truth)
    close(losses.DIM(estimator)(g, c), loss)


@ESTIMATORS
@SHAPES
@pytest.mark.parametrize("kind", ["joint", "joint, two layers", "bilinear", "bilinear without labels"])
def test_critics_follow_the_definition(estimator, n, n_locals, kind):
    torch.manual_seed(0)
    g, c = features(n, n_locals)
    if kind.startswith("joint"):
        critic = critics.Joint(5, 5, 6, layers=2 if "two" in kind else 1).double()
        score = mlp(critic)
    else:
        critic = bilinear = critics.Bilinear(5, 5).double()
        critic = WithoutLabels(critic) if "without" in kind else critic

        def score(x, y):
            return x @ bilinear.weight @ y

    loss, stats = losses.DIM(estimator, critic)(g, c, return_stats=True)
    expected, mi, rows = by_loops(all_scores(score, g, c), estimator)
    close(loss, expected)
    close(stats["mi"], mi.detach())
    close(stats["log_partition"], rows.detach())
    asked = (g, c, *critic.parameters())
    for ours, truth in zip(*(torch.autograd.grad(t, asked) for t in (loss, expected)), strict=True):
        close(ours, truth)


@ESTIMATORS
def test_gradcheck(estimator):
    g, c = features(3, 2, 2)
    assert torch.autograd.gradcheck(losses.DIM(estimator), (g, c))
    critic = critics.Bilinear(2, 2).double()
    assert torch.autograd.gradcheck(losses.DIM(estimator, WithoutLabels(critic)), (g, c))


@ESTIMATORS
def test_maps_are_read_position_by_position(estimator):
    g, c = features(3, 4)
    as_map = c.detach().mT.unflatten(2, (2, 2))
    loss = losses.DIM(estimator)
    close(loss(g, as_map), loss(g, c))


@ESTIMATORS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_short_floats(estimator, dtype):
    g, c = features(6, 4, dtype=dtype)
    loss = losses.DIM(estimator)(g, c)
    loss.backward()
    assert loss.dtype == torch.float32 and g.grad.dtype == c.grad.dtype == dtype
    close(loss, by_loops(all_scores(product, g.double(), c.double()), estimator)[0], 1e-5)


@pytest.mark.parametrize("critic", [None, PRODUCT, WithoutLabels(PRODUCT)])
def test_every_bound_takes_the_scores(critic):
    g, c = (t.detach().float() for t in features(4, 3))
    scores = LocalGlobalScores(g, c, critic)
    s = all_scores(product, g, c).double()
    p = torch.stack([s[i, i] for i in range(4)]).flatten()
    every = torch.cat([s[i, k] for i in range(4) for k in range(4) if k != i])
    assert scores.n_queries == 12 and scores.n_candidates == 10
    close(bounds.nwj(scores), p.mean() - (every - 1).exp().mean(), 1e-4)
    close(bounds.smile(scores, 1.0), p.mean() - every.clamp(-1, 1).exp().mean().log(), 1e-4)
    with pytest.raises(ValueError, match="LocalGlobalScores has no columns"):
        bounds.tuba(scores, torch.zeros(12))


def test_with_one_local_it_is_the_in_batch_loss():
    g, c = features(6, 1)
    close(losses.DIM("infonce")(g, c), losses.InfoNCE(1.0, normalize=False)(g, c[:, 0]))


def test_order_of_images_and_of_positions_does_not_matter():
    g, c = features(5, 4)
    images, positions = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([2, 0, 3, 1])
    for estimator in ("jensen_shannon", "infonce", "donsker_varadhan"):
        loss = losses.DIM(estimator)
        close(loss(g[images], c[images][:, positions]), loss(g, c))


def test_own_locals_are_no_negatives():
    """An own local far above everything raises its own query's score and no denominator."""
    g, c = torch.ones(3, 1, dtype=torch.float64), torch.zeros(3, 2, 1, dtype=torch.float64)
    c[0, 1] = 1e3
    scores = LocalGlobalScores(g, c)
    close(scores.negative_lse[:2], torch.tensor([4.0, 4.0], dtype=torch.float64).log())
    close(scores.positive, torch.tensor([0.0, 1e3, 0, 0, 0, 0]))
    close(
        LocalGlobalScores(g, c, WithoutLabels(PRODUCT)).negative_lse,
        scores.negative_lse,
    )


def test_large_scores_do_not_overflow_and_small_losses_keep_their_digits():
    g, c = torch.eye(3, dtype=torch.float64), 1e3 * torch.eye(3, dtype=torch.float64)[:, None].repeat(1, 2, 1)
    close(losses.DIM("donsker_varadhan")(g, c), -1e3)
    close(losses.DIM("infonce")(g, c), 0.0)
    close(losses.DIM("infonce")(g, c / 25).log(), math.log(4) - 40)  # 4 negatives of score 0 beside e^40


def test_one_image_has_no_negatives():
    g, c = features(1, 3)
    bilinear = critics.Bilinear(5, 5).double()
    for critic in (None, bilinear, WithoutLabels(bilinear)):
        loss, stats = losses.DIM("infonce", critic)(g, c, return_stats=True)
        assert loss == 0 and stats["mi"] == 0 and stats["n_negatives"] == 0
        assert torch.equal(torch.autograd.grad(loss, c)[0], torch.zeros_like(c))
        for estimator in ("jensen_shannon", "donsker_varadhan"):
            with pytest.raises(ValueError, match="^scores: .*0 negatives"):
                losses.DIM(estimator, critic)(g, c)


def test_nan_stays_in_its_image():
    g, c = features(4, 2)
    with torch.no_grad():
        g[1] = math.nan
    rows = LocalGlobalScores(g, c).log_partition()
    assert rows[2:4].isnan().all() and rows[[0, 1, 4, 5, 6, 7]].isfinite().all()


@ESTIMATORS
def test_nothing_larger_than_the_locals_is_kept_and_images_are_the_queries(estimator, monkeypatch):
    g, c = features(16, 9, 2, dtype=torch.float32)
    walks = []
    for name in ("dot_statistics", "dot_log_partition", "dot_softplus_sum"):
        operator = getattr(ops, name)
        monkeypatch.setattr(ops, name, lambda x, y, *rest, f=operator: walks.append((len(x), len(y))) or f(x, y, *rest))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        losses.DIM(estimator)(g, c)
    assert walks == [(16, 16 * 9)]
    assert max(kept) <= c.numel() < 16 * 16 * 9


@ESTIMATORS
@pytest.mark.parametrize("critic", [None, PRODUCT])
def test_compile(estimator, critic):
    loss = losses.DIM(estimator, critic)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    g, c = features(5, 3)
    value, expected = compiled(g, c), loss(g, c)
    close(value, expected)
    for ours, truth in zip(*(torch.autograd.grad(t, (g, c)) for t in (value, expected)), strict=True):
        close(ours, truth)


G, C = features(4, 3)
BAD = {
    "estimator": (lambda: losses.DIM("jsd"), ValueError, "^estimator: .*'jensen_shannon'"),
    "globals": (lambda: losses.DIM()(C, C), ValueError, r"^global_features: .*\[B, d\]"),
    "locals": (lambda: losses.DIM()(G, G), ValueError, r"^local_features: .*\[B, d, M, M\].*\(4, 5\)"),
    "locals dtype": (lambda: losses.DIM()(G, C.long()), TypeError, "^local_features: .*int64"),
    "images": (lambda: losses.DIM()(G, C[:3]), ValueError, r"^local_features: .*4 images.*\(3, 3, 5\)"),
    "no locals": (lambda: losses.DIM()(G, C[:, :0]), ValueError, r"^local_features: .*at least one local"),
    "width": (lambda: losses.DIM()(G, C[:, :, :2]), ValueError, "^local_features: .*d = 5"),
    "critic width": (lambda: losses.DIM(critic=critics.Joint(5, 2, 3).double())(G, C), ValueError, "^y: .*width 2"),
    "no images": (lambda: losses.DIM("infonce")(G[:0], C[:0]), ValueError, "n = 0"),
    "no images, critic": (
        lambda: losses.DIM("infonce", critics.Bilinear(5, 5).double())(G[:0], C[:0]),
        ValueError,
        "n = 0",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_name_the_argument(name):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call()
