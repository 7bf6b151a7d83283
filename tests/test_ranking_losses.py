"""Statistics of the losses whose negatives, or positives, are not one shared set: against explicit score matrices."""

import math

import pytest
import torch
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mi_ext import critics, losses
from mi_ext.losses.supervised import best_positive
from mi_ext.scores import DotScores, LocalGlobalScores

pytestmark = pytest.mark.usefixtures("one_thread")
G = torch.Generator().manual_seed(5)


def draw(*shape):
    return torch.randn(*shape, generator=G, dtype=torch.float64)


X, NOISE, OWN = draw(8, 4), draw(8, 4), draw(8, 11, 4)
Y = X + 0.5 * NOISE
SIZE, INDEX = 30, torch.randint(30, (8, 20), generator=G)
GLOBALS, LOCALS = draw(5, 4), draw(5, 3, 4)
BILINEAR, JOINT = critics.Bilinear(4, 4).double(), critics.Joint(4, 4, 6).double()
LABELS = torch.tensor([0, 1, 2, 0, 1, 1, 2, 0, 3, 2, 4, 4])
ANCHORS = normalize(draw(5, 4)[LABELS] + 0.5 * draw(12, 4))
SUPCON = losses.SupCon(0.2)


def own_scores(x, positive, negatives):
    """[n, K], the positive first."""
    return torch.cat([(x * positive).sum(1, keepdim=True), (negatives @ x[:, :, None]).squeeze(2)], 1)


def crd():
    module = losses.CRD(SIZE, 4, temperature=0.3).double()
    return module, module.teacher_memory.memory.clone()


def crd_scores():
    _, memory = crd()
    item = torch.arange(8)
    return own_scores(normalize(X), memory[item], memory[INDEX]) / 0.3


def crd_stats():
    return crd()[0](X, Y, torch.arange(8), INDEX, return_stats=True)


def image_scores(critic):
    """[B·L, 1 + (B − 1) L] of images against locals, own positions fastest."""
    s = critic(GLOBALS, LOCALS.flatten(0, 1), target=torch.zeros(5).long()).column_block(0, 15).detach()
    s = s.view(5, 5, 3)
    rows = []
    for i in range(5):
        others = torch.cat([s[i, k] for k in range(5) if k != i])
        rows += [torch.cat([s[i, i, k : k + 1], others]) for k in range(3)]
    return torch.stack(rows)


def product(x, y, target):
    return DotScores(x, y, target=target)


def dim(critic=None, estimator="infonce"):
    return losses.DIM(estimator, critic)(GLOBALS, LOCALS, return_stats=True)


CASES = {
    "KPair": (lambda: losses.KPair()(X, Y, OWN, return_stats=True), lambda: own_scores(X, Y, OWN)),
    "CRD": (crd_stats, crd_scores),
    "DIM": (dim, lambda: image_scores(product)),
    "DIM, jensen_shannon": (lambda: dim(None, "jensen_shannon"), lambda: image_scores(product)),
    "DIM, donsker_varadhan": (lambda: dim(None, "donsker_varadhan"), lambda: image_scores(product)),
    "DIM, bilinear": (lambda: dim(BILINEAR), lambda: image_scores(BILINEAR)),
    "DIM, joint": (lambda: dim(JOINT), lambda: image_scores(JOINT)),
    "DIM, without labels": (lambda: dim(product), lambda: image_scores(product)),
}


def check_against(stats, s):
    """s [n, K], the positive first."""
    rank = (s[:, 1:] >= s[:, :1]).sum(1)
    assert torch.equal(stats["rank"], rank) and len(rank.unique()) > 2
    for k in (1, 5):
        torch.testing.assert_close(stats[f"top{k}"].double(), (rank < k).double().mean())
    entropy = torch.special.entr(s[:, 1:].softmax(1)).sum(1)
    torch.testing.assert_close(stats["effective_negatives"], entropy.exp(), rtol=1e-9, atol=1e-9)


def seeded(call):
    torch.manual_seed(0)
    return call()


@pytest.mark.parametrize("entries", [1 << 20, 10], ids=["one block", "blocks of two columns"])
@pytest.mark.parametrize("name", CASES)
def test_stats(name, entries, monkeypatch):
    monkeypatch.setattr("mi_ext.scores.blocks._BLOCK_ENTRIES", entries)
    call, scores = CASES[name]
    check_against(seeded(call)[1], seeded(scores))


CRD = losses.CRD(SIZE, 4).double().eval()
TRACED = {
    "KPair": CASES["KPair"][0],
    "CRD": lambda: CRD(X, Y, torch.arange(8), INDEX, return_stats=True),
    "DIM": dim,
}


@pytest.mark.parametrize("name", TRACED)
def test_compile(name):
    torch._dynamo.reset()
    call = TRACED[name]
    (_, ours), (_, expected) = torch.compile(call, fullgraph=True, backend="eager")(), call()
    for key in ("top1", "top5", "rank", "effective_negatives"):
        torch.testing.assert_close(ours[key], expected[key])


@pytest.mark.parametrize(
    "critic,dtype",
    [(critic, dtype) for critic in (None, product) for dtype in (torch.float64, torch.float32, torch.bfloat16)]
    + [(critics.Joint(33, 33, 20).double(), torch.float64)],
)
def test_images_that_are_all_alike_rank_last(critic, dtype):
    x, y = (torch.randn(33, generator=torch.Generator().manual_seed(k)).to(dtype) for k in (0, 1))
    _, stats = losses.DIM("infonce", critic)(x.expand(7, 33), y.expand(7, 5, 33), return_stats=True)
    assert (stats["rank"] == 30).all() and stats["top5"] == 0
    torch.testing.assert_close(stats["effective_negatives"], torch.full_like(stats["effective_negatives"], 30))


def test_images_with_non_finite_scores():
    """−inf never outranks; NaN does; a NaN positive is last; NaN stays with its image. One image has no negatives."""
    g, c = GLOBALS.clone(), LOCALS.clone()
    c[3, 1] = math.nan
    rank, entropy = LocalGlobalScores(g, c).ranking()
    clean, _ = LocalGlobalScores(g, LOCALS).ranking()
    rank, entropy, clean = rank.view(5, 3), entropy.view(5, 3), clean.view(5, 3)
    assert rank[3, 1] == 12 and torch.equal(rank[3, [0, 2]], clean[3, [0, 2]]) and entropy[3].isfinite().all()
    others = [0, 1, 2, 4]
    assert entropy[others].isnan().all() and (rank[others] >= clean[others]).all() and (rank[others] > 0).all()
    rank, entropy = LocalGlobalScores(g[:1], c[:1]).ranking()
    assert (rank == 0).all() and (entropy == -math.inf).all() and len(rank) == 3
    assert len(LocalGlobalScores(g[:0], c[:0]).ranking()[0]) == 0


class LargestResult(TorchDispatchMode):
    """Bytes of the largest storage that any operator returned."""

    nbytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            self.nbytes = max(self.nbytes, t.untyped_storage().nbytes() if isinstance(t, torch.Tensor) else 0)
        return result


@pytest.mark.parametrize("name", ["DIM", "DIM, joint", "SupCon", "KPair"])
def test_nothing_of_all_pairs_is_made(name, monkeypatch):
    """Blocks of 256 scores, and what is linear in the queries; KPair has 16·2000 pairs, the others 256²."""
    monkeypatch.setattr("mi_ext.scores.blocks._BLOCK_ENTRIES", 256)
    x, y = torch.randn(256, 4), torch.randn(16, 2000, 4)
    calls = {
        "DIM": lambda: losses.DIM()(x[:16], x.view(16, 16, 4), return_stats=True),
        "DIM, joint": lambda: losses.DIM("infonce", JOINT)(x[:16], x.view(16, 16, 4), return_stats=True),
        "SupCon": lambda: losses.SupCon()(x, torch.arange(256) // 2, return_stats=True),
        "KPair": lambda: losses.KPair()(x[:16], x[:16], y, return_stats=True),
    }
    with LargestResult() as largest:
        assert "rank" in calls[name]()[1]
    assert 0 < largest.nbytes <= 16 * 256 * 8


def supcon_stats():
    return SUPCON(ANCHORS, LABELS, return_stats=True)[1]


def test_best_of_several_positives(monkeypatch):
    s = ANCHORS @ ANCHORS.T / 0.2
    same = (LABELS[:, None] == LABELS) & ~torch.eye(12, dtype=torch.bool)
    best = s.masked_fill(~same, -math.inf).max(1).values
    negative = LABELS[:, None] != LABELS
    rank = torch.where(same.any(1), ((s >= best[:, None]) & negative).sum(1), negative.sum(1))
    for entries in (1 << 20, 12):
        monkeypatch.setattr("mi_ext.scores.blocks._BLOCK_ENTRIES", entries)
        stats = supcon_stats()
        assert torch.equal(stats["rank"], rank) and stats["rank"][8] == 11  # its label is its alone
        for k in (1, 5):
            share = (rank < k)[same.any(1)].double().mean()
            torch.testing.assert_close(stats[f"top{k}"].double(), share)
            assert 0 < share < 1
        entropy = torch.special.entr(s.masked_fill(~negative, -math.inf).softmax(1)).sum(1)
        torch.testing.assert_close(stats["effective_negatives"], entropy.exp())


def test_nearest_neighbour_accuracy():
    """top1 is the share of anchors whose nearest other row has their label."""
    nearest = (ANCHORS @ ANCHORS.T).fill_diagonal_(-math.inf).argmax(1)
    counts = torch.tensor([(LABELS == label).sum() > 1 for label in LABELS])
    hits = (LABELS[nearest] == LABELS)[counts]
    torch.testing.assert_close(supcon_stats()["top1"].double(), hits.double().mean())


def test_supcon_edges():
    same = torch.ones(12, 4)
    _, stats = losses.SupCon()(same, LABELS, return_stats=True)
    assert stats["top5"] == 0 and torch.equal(stats["rank"], (LABELS[:, None] != LABELS).sum(1))
    _, stats = losses.SupCon()(same, LABELS * 0, return_stats=True)
    assert stats["top1"] == 1 and (stats["rank"] == 0).all() and (stats["effective_negatives"] == 0).all()
    _, stats = losses.SupCon()(same, torch.arange(12), return_stats=True)
    assert stats["top1"].isnan() and (stats["rank"] == 11).all()  # a share of no anchors
    assert torch.equal(best_positive(DotScores(same, same), torch.arange(12)), torch.zeros(12).long())
    torch._dynamo.reset()
    compiled = torch.compile(supcon_stats, fullgraph=True, backend="eager")()
    for key, value in supcon_stats().items():
        torch.testing.assert_close(compiled[key], value)
