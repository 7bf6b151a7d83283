"""`mi_ext.dropin.sentence_transformers` beside sentence-transformers: values, every gradient, errors."""

import itertools

import pytest
import torch
from side_by_side import check_same, largest, parameters, raises_alike, saved_bytes
from torch import nn

from mi_ext.dropin import sentence_transformers as ours

pytestmark = pytest.mark.usefixtures("one_thread")
OPTIONAL = "query_to_query", "doc_to_query", "doc_to_doc"
DIRECTIONS = [("query_to_doc", *rest) for k in range(4) for rest in itertools.combinations(OPTIONAL, k)]
HARDNESS = [None, "in_batch_negatives", "hard_negatives", "all_negatives"]
WIDTH = 5


@pytest.fixture(scope="module")
def peer():
    return pytest.importorskip(
        "sentence_transformers.sentence_transformer.losses", reason="sentence-transformers is not installed"
    )


def columns(n_negatives, n=6, dtype=torch.float64):
    g = torch.Generator().manual_seed(n)
    names = ["query", "document", *(f"negative{k}" for k in range(n_negatives))]
    return {name: torch.randn(n, WIDTH, generator=g, dtype=torch.float64).to(dtype) for name in names}


def call(module, **options):
    loss = module.MultipleNegativesRankingLoss(None, **options)
    return lambda **t: loss.compute_loss_from_embeddings(list(t.values()), None)


def beside(peer, inputs, tolerance=1e-9, **options):
    check_same(call(ours, **options), call(peer, **options), inputs, tuple(inputs), tolerance)


def negative_distance(a, b):
    return -torch.cdist(a, b)


def skewed(a, b):
    """Not symmetric: which argument is the query shows."""
    return a @ (2 * b).T + a.sum(1, keepdim=True).tanh()


@pytest.mark.parametrize("directions", DIRECTIONS, ids="+".join)
@pytest.mark.parametrize("n_negatives", [0, 1, 2])
def test_joint(peer, directions, n_negatives):
    for mode, similarity in itertools.product(HARDNESS, (None, skewed)):
        options = {"directions": directions, "hardness_mode": mode, "hardness_strength": 2.5 if mode else 0.0}
        if similarity is not None:
            options["similarity_fct"] = similarity
        beside(peer, columns(n_negatives), **options)


@pytest.mark.parametrize("directions", [("query_to_doc",), ("query_to_doc", "doc_to_query")], ids="+".join)
@pytest.mark.parametrize("mode", HARDNESS)
def test_per_direction(peer, directions, mode):
    for n_negatives in (0, 2):
        options = {"partition_mode": "per_direction", "hardness_mode": mode, "hardness_strength": 0.7}
        beside(peer, columns(n_negatives), directions=directions, scale=3.0, **options)


def test_similarities(peer):
    """The package's functions and ours are one; any callable is taken."""
    from sentence_transformers import util

    every = DIRECTIONS[-1]
    for ours_fct, peer_fct in (
        (util.cos_sim, util.cos_sim),
        (util.dot_score, util.dot_score),
        (ours.dot_score, util.dot_score),
    ):
        pair = (call(m, similarity_fct=f, directions=every) for m, f in ((ours, ours_fct), (peer, peer_fct)))
        inputs = columns(1)
        check_same(*pair, inputs, tuple(inputs))
    beside(peer, columns(1), similarity_fct=negative_distance, directions=every[:1] + every[2:3])
    a, b = columns(0).values()
    for ours_fct, peer_fct in ((ours.cos_sim, util.cos_sim), (ours.dot_score, util.dot_score)):
        torch.testing.assert_close(ours_fct(a, b), peer_fct(a, b))
        assert ours_fct(a.half(), b.half()).dtype == peer_fct(a.half(), b.half()).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_results_are_float32(peer, dtype):
    for options in ({}, {"directions": DIRECTIONS[-1]}, {"hardness_mode": "all_negatives", "hardness_strength": 1.0}):
        beside(peer, columns(1, dtype=dtype), tolerance=max(1e-5, 4 * torch.finfo(dtype).eps), **options)


@pytest.mark.parametrize("n", [1, 2])
def test_small_batches(peer, n):
    for n_negatives, mode in itertools.product((0, 1), HARDNESS):
        options = {"hardness_mode": mode, "hardness_strength": 1.0}
        beside(peer, columns(n_negatives, n), directions=DIRECTIONS[-1], **options)
        beside(peer, columns(n_negatives, n), directions=DIRECTIONS[-1], similarity_fct=skewed, **options)


class Model(nn.Module):
    """What stands for a SentenceTransformer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, WIDTH, dtype=torch.float64)

    def forward(self, features):
        return {"sentence_embedding": self.linear(features["x"])}


def test_forward_and_what_is_saved(peer):
    torch.manual_seed(0)
    model = Model()
    features = [{"x": torch.randn(6, 4, dtype=torch.float64)} for _ in range(3)]
    found = []
    for module in (ours, peer):
        loss = module.MultipleNegativesRankingLoss(model)
        value = loss(features, None)
        found.append([value, *torch.autograd.grad(value, model.parameters())])
        assert list(loss.state_dict()) == ["model.linear.weight", "model.linear.bias"]
        assert loss.temperature == 0.05
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    configs = (m.MultipleNegativesRankingLoss(None, directions=DIRECTIONS[-1]).get_config_dict() for m in (ours, peer))
    assert next(configs) == next(configs)


def test_signature_and_errors(peer):
    loss = [m.MultipleNegativesRankingLoss for m in (ours, peer)]
    assert parameters(loss[0]) == parameters(loss[1])
    assert parameters(loss[0].forward) == parameters(loss[1].forward)
    assert parameters(loss[0].compute_loss_from_embeddings) == parameters(loss[1].compute_loss_from_embeddings)
    for options in (
        {"scale": 0.0},
        {"directions": ()},
        {"directions": ("doc_to_query",)},
        {"directions": ("query_to_doc", "sideways")},
        {"partition_mode": "apart"},
        {"partition_mode": "per_direction", "directions": ("query_to_doc", "doc_to_doc")},
        {"hardness_mode": "soft"},
        {"hardness_strength": -1.0},
    ):
        raises_alike(*(lambda cls=cls, o=options: cls(None, **o) for cls in loss))
    one = [torch.randn(3, 4)]
    raises_alike(*(lambda cls=cls: cls(None).compute_loss_from_embeddings(one, None) for cls in loss))


def test_hardness_without_strength_warns(caplog):
    ours.MultipleNegativesRankingLoss(None, hardness_mode="all_negatives")
    assert "hardness_strength is 0" in caplog.text


def test_some_queries_at_a_time(peer, monkeypatch):
    monkeypatch.setattr("mi_ext.scores.blocks._BLOCK_ENTRIES", 30)
    options = {"hardness_mode": "all_negatives", "hardness_strength": 0.5, "similarity_fct": skewed}
    beside(peer, columns(1), directions=DIRECTIONS[-1], **options)


@pytest.mark.parametrize("options", [{}, {"directions": DIRECTIONS[-1]}, {"hardness_mode": "all_negatives"}], ids=str)
@pytest.mark.parametrize("similarity", [ours.cos_sim, negative_distance])
def test_nothing_of_the_size_of_the_scores_is_kept(options, similarity):
    n = 1280
    inputs = [torch.randn(n, WIDTH, requires_grad=True) for _ in range(3)]
    loss = ours.MultipleNegativesRankingLoss(None, similarity_fct=similarity, hardness_strength=1.0, **options)
    kept = saved_bytes(lambda: loss.compute_loss_from_embeddings(inputs, None))
    assert 0 < kept <= 256 * 3 * n * WIDTH < n * n * 4
    bar = 4 * n * WIDTH if similarity is ours.cos_sim else 1 << 20
    assert largest(lambda: loss.compute_loss_from_embeddings(inputs, None)) <= bar < n * n


@pytest.mark.parametrize("similarity", [ours.cos_sim, skewed])
def test_two_ranks_are_one_batch(similarity, monkeypatch):
    """The mean of the ranks' losses over all queries is the loss of the whole batch, and so are the gradients.

    Ranks of 4 and 2 queries, one after the other in this process: of `gather` its contract stands in.
    """
    options = {"similarity_fct": similarity, "hardness_mode": "all_negatives", "hardness_strength": 0.5}
    options["directions"] = DIRECTIONS[-1]

    def ranks(**whole):
        parts = {name: t.split([4, 2]) for name, t in whole.items()}
        losses = []
        for rank, start, share in ((0, 0, 4 / 6), (1, 4, 2 / 6)):
            own = {name: part[rank] for name, part in parts.items()}
            gathered = {id(own[name]): (whole[name], start) for name in whole}
            monkeypatch.setattr(ours, "gather", lambda t, gathered=gathered: gathered[id(t)])
            losses.append(share * call(ours, gather_across_devices=True, **options)(**own))
        return sum(losses)

    check_same(ranks, call(ours, **options), columns(1), tuple(columns(1)))
