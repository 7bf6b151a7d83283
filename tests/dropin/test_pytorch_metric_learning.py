"""`mi_ext.dropin.pytorch_metric_learning` beside pytorch-metric-learning: values, gradients, state, errors."""

import pytest
import torch
from side_by_side import check_same, largest, parameters, raises_alike, saved_bytes

from mi_ext.dropin import _equal_pairs
from mi_ext.dropin import pytorch_metric_learning as ours

peer = pytest.importorskip("pytorch_metric_learning.losses", reason="pytorch-metric-learning is not installed")
from pytorch_metric_learning import distances, miners, reducers, regularizers  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
LOSSES = ["NTXentLoss", "SupConLoss"]
WIDTH = 5


def embeddings(n, seed=0, dtype=torch.float64):
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def labels(n, kinds, seed=0):
    return torch.randint(kinds, (n,), generator=torch.Generator().manual_seed(seed))


def beside(name, inputs, wanted=("embeddings",), tolerance=1e-9, **options):
    check_same(getattr(ours, name)(**options), getattr(peer, name)(**options), inputs, wanted, tolerance)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kinds", [1, 2, 5, 1000])
@pytest.mark.parametrize("n", [1, 2, 3, 12])
def test_labels(name, kinds, n):
    """One label, two, many, nearly all different: no positives or no negatives give 0 with a graph."""
    for temperature in (0.07, 0.5):
        beside(name, {"embeddings": embeddings(n), "labels": labels(n, kinds)}, temperature=temperature)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kinds", [1, 4])
def test_references(name, kinds):
    """Other candidates, with labels that some anchors do not have; the anchors' own labels; none."""
    inputs = {"embeddings": embeddings(8), "labels": labels(8, kinds), "ref_emb": embeddings(11, 1)}
    wanted = "embeddings", "ref_emb"
    for ref_kinds in (1, 3, 6):
        beside(name, inputs | {"ref_labels": labels(11, ref_kinds, 2) + 1}, wanted)
    beside(name, inputs, wanted)
    both, ref = labels(8, kinds), embeddings(8, 1)

    def with_one_tensor(loss):
        return lambda x, y: loss(x, both, ref_emb=y, ref_labels=both)

    pair = (with_one_tensor(getattr(module, name)()) for module in (ours, peer))
    check_same(*pair, {"x": embeddings(8), "y": ref}, ("x", "y"))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", ["pairs", "triplets", "no positives", "no negatives", "one of each"])
def test_indices(name, kind):
    g = torch.Generator().manual_seed(3)
    y = labels(10, 3)
    if kind == "triplets":
        triplets = miners.TripletMarginMiner(margin=0.9)(embeddings(10), y)
        tuples = [triplets, tuple(t[torch.randperm(len(t), generator=g)[:6]] for t in (triplets[0],) * 3)]
        tuples[1] = tuple(t[:7] for t in triplets)
    else:
        same = (y[:, None] == y).logical_and(~torch.eye(10, dtype=torch.bool))
        positive, negative = same.nonzero(), (y[:, None] != y).nonzero()
        positive = positive[
            torch.randperm(len(positive), generator=g)[: {"no positives": 0, "one of each": 1}.get(kind, 9)]
        ]
        negative = negative[
            torch.randperm(len(negative), generator=g)[: {"no negatives": 0, "one of each": 1}.get(kind, 14)]
        ]
        tuples = [(*positive.T, *negative.T)]
    for indices in tuples:
        inputs = {"embeddings": embeddings(10), "labels": y, "indices_tuple": indices}
        beside(name, inputs)
        beside(name, inputs | {"labels": None})
        beside(name, inputs | {"ref_emb": embeddings(10, 1)}, ("embeddings", "ref_emb"))


def test_pairs_given_twice():
    """NTXent counts a negative that comes twice twice, SupCon takes the pairs as a set."""
    indices = tuple(map(torch.tensor, ([0, 0, 1], [1, 1, 0], [0, 0, 1, 1], [2, 2, 3, 2])))
    for name in LOSSES:
        beside(name, {"embeddings": embeddings(4), "labels": None, "indices_tuple": indices})
    both = tuple(map(torch.tensor, ([0, 1], [1, 0], [0, 1], [1, 2])))
    calls = (lambda m=m: m.SupConLoss()(embeddings(4), indices_tuple=both) for m in (ours, peer))
    raises_alike(*calls)


@pytest.mark.parametrize("name", LOSSES)
def test_options(name):
    inputs = {"embeddings": embeddings(9), "labels": labels(9, 3)}
    for options in (
        {"distance": distances.CosineSimilarity()},
        {"distance": distances.DotProductSimilarity()},
        {"distance": distances.DotProductSimilarity(normalize_embeddings=False)},
        {"reducer": reducers.MeanReducer()},
        {"reducer": reducers.SumReducer()},
        {"reducer": reducers.ThresholdReducer(low=0.5, high=3.0)},
        {"reducer": reducers.ClassWeightedReducer(torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64))},
        {"embedding_regularizer": regularizers.LpRegularizer(), "embedding_reg_weight": 0.3},
    ):
        beside(name, inputs, **options)
    for distance in (distances.LpDistance(), distances.SNRDistance(), distances.CosineSimilarity(power=2)):
        with pytest.raises(ValueError, match="^distance: "):
            getattr(ours, name)(distance=distance)
    with pytest.raises(TypeError):
        getattr(ours, name)(margin=1)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_is_the_embeddings(name, dtype):
    x, y = embeddings(12, dtype=dtype), labels(12, 3)
    loss = getattr(ours, name)(0.5)(x, y)
    assert loss.dtype == dtype
    truth = getattr(peer, name)(0.5)(x.double(), y)
    torch.testing.assert_close(loss.double(), truth, rtol=8 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_errors_and_signatures(name):
    x, y = embeddings(6), labels(6, 2)
    ours_loss, peer_loss = (getattr(module, name) for module in (ours, peer))
    assert parameters(ours_loss) == parameters(peer_loss)
    assert parameters(ours_loss.forward) == parameters(peer_loss.forward)
    for arguments in ((x,), (x, y[:3]), (x, y[:, None]), (x[0], y[:5]), (x, y, None, x[:3], y)):
        raises_alike(*(lambda loss=loss, a=arguments: loss()(*a) for loss in (ours_loss, peer_loss)))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("memory_size", [8, 10, 11, 4])
def test_memory_over_several_steps(name, memory_size):
    """A ring: filled exactly, wrapped in the middle of a batch, as large as a batch; loss, gradients, state.

    Its place is no part of the state dict, and is restored by hand.
    """
    pair = [m.CrossBatchMemory(getattr(m, name)(0.3), WIDTH, memory_size) for m in (ours, peer)]
    for step in range(8):
        check_same(*pair, {"embeddings": embeddings(4, step), "labels": labels(4, 3, step)}, ("embeddings",))
        check_same_state(*pair)
        saved, pair[0] = pair[0], ours.CrossBatchMemory(getattr(ours, name)(0.3), WIDTH, memory_size).double()
        pair[0].load_state_dict(saved.state_dict())
        pair[0].has_been_filled, pair[0].queue_idx = saved.has_been_filled, saved.queue_idx


def check_same_state(a, b):
    assert (a.queue_idx, a.has_been_filled) == (b.queue_idx, b.has_been_filled)
    assert list(a.state_dict()) == list(b.state_dict())
    for t, u in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        assert t.dtype == u.dtype and torch.equal(t, u)


@pytest.mark.parametrize("name", LOSSES)
def test_memory_with_a_mask(name):
    """Only some rows are written, only the others are anchors; at first nothing is in memory."""
    pair = [m.CrossBatchMemory(getattr(m, name)(0.3), WIDTH, 10) for m in (ours, peer)]
    for step, mask in enumerate(([0, 1, 1, 0, 1, 0], [1, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0])):
        inputs = {"embeddings": embeddings(6, step), "labels": labels(6, 3, step)}
        mask = torch.tensor(mask, dtype=torch.bool)
        check_same(*pair, inputs | {"enqueue_mask": mask}, ("embeddings",))
        check_same_state(*pair)
    nothing = torch.zeros(6, dtype=torch.bool)
    fresh = ours.CrossBatchMemory(getattr(ours, name)(), WIDTH, 10)
    assert fresh(embeddings(6), labels(6, 3), enqueue_mask=nothing).item() == 0


@pytest.mark.parametrize("name", [*LOSSES, "TripletMarginLoss", "ContrastiveLoss"])
@pytest.mark.parametrize("miner", [None, "MultiSimilarityMiner", "TripletMarginMiner"])
def test_memory_with_a_miner_and_indices(name, miner):
    """The package's other losses and its miners, and pairs or triplets on top of them."""
    pair = []
    for module in (ours, peer):
        loss = getattr(module if name in LOSSES else peer, name)()
        pair.append(module.CrossBatchMemory(loss, WIDTH, 9, None if miner is None else getattr(miners, miner)()))
    for step in range(4):
        x, y = embeddings(4, step), torch.tensor([0, 0, 1, 2])
        own = [int(k) for k in (torch.arange(4) + pair[0].queue_idx) % 9]
        pairs = tuple(map(torch.tensor, ([0], own[1:2], [0, 3], own[2:4])))
        triplets = tuple(map(torch.tensor, ([0, 1], [own[1], own[0]], [own[2], own[3]])))
        given = (None, pairs, triplets)[step % 3] if step > 0 else None
        if name == "TripletMarginLoss" and miner is None:
            torch.manual_seed(step)  # the package draws triplets from pairs
        check_same(*pair, {"embeddings": x, "labels": y, "indices_tuple": given}, ("embeddings",))
        check_same_state(*pair)


def test_own_slot_of_a_batch_of_one():
    """It is no positive either: the package has it as one, by a mistake in the arithmetic of its ring."""
    bank = ours.CrossBatchMemory(ours.NTXentLoss(), WIDTH)
    bank(embeddings(4), torch.arange(4))
    assert bank(embeddings(1), torch.tensor([9])).item() == 0
    assert bank(embeddings(1), torch.tensor([2])).item() > 0


def test_memory_contract():
    a, b = (m.CrossBatchMemory(m.NTXentLoss(), WIDTH) for m in (ours, peer))
    assert parameters(ours.CrossBatchMemory) == parameters(peer.CrossBatchMemory)
    assert parameters(a.forward) == parameters(b.forward)
    assert [name for name, _ in a.named_children()] == ["loss"]
    check_same_state(a, b)
    a.load_state_dict(b.state_dict())
    x, y = embeddings(4), labels(4, 2)
    mask = torch.ones(4, dtype=torch.bool)
    small = [m.CrossBatchMemory(m.NTXentLoss(), WIDTH, 3) for m in (ours, peer)]
    raises_alike(*(lambda m=m: m(x, y) for m in small))
    raises_alike(*(lambda m=m: m(x, y, enqueue_mask=mask[:2]) for m in (a, b)))
    raises_alike(*(lambda m=m: m(x, y, (y, y, y), mask) for m in (a, b)))
    raises_alike(*(lambda m=m: m.CrossBatchMemory(torch.nn.Linear(1, 1), WIDTH) for m in (ours, peer)))
    a.reset_queue()
    assert a.queue_idx == 0 and not a.embedding_memory.any()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_two_augmentations(name, symmetric):
    pair = [m.SelfSupervisedLoss(getattr(m, name)(), symmetric) for m in (ours, peer)]
    check_same(*pair, {"embeddings": embeddings(7), "ref_emb": embeddings(7, 1)}, ("embeddings", "ref_emb"))
    assert parameters(ours.SelfSupervisedLoss) == parameters(peer.SelfSupervisedLoss)
    raises_alike(*(lambda m=m: m.SelfSupervisedLoss(torch.nn.Linear(1, 1)) for m in (ours, peer)))


@pytest.mark.parametrize("name", LOSSES)
def test_a_block_of_pairs_at_a_time(name, monkeypatch):
    monkeypatch.setattr("mi_ext.dropin._pairs._BLOCK_ENTRIES", 3 * WIDTH)
    beside(name, {"embeddings": embeddings(12), "labels": labels(12, 3)}, reducer=reducers.MeanReducer())


@pytest.mark.parametrize("rows,columns", [(1, 1), (3, 2), (4, 5), (12, 1)])
def test_blocks_of_sorted_labels(rows, columns, monkeypatch):
    """Labels across blocks, labels that only one side has, more candidates than anchors and fewer, own slots."""
    monkeypatch.setattr(_equal_pairs, "_ROWS", rows)
    monkeypatch.setattr(_equal_pairs, "_COLUMNS", columns)
    for n, m, kinds in ((12, 17, 3), (17, 12, 6), (12, 12, 1)):
        inputs = {"embeddings": embeddings(n), "labels": labels(n, kinds)}
        beside("NTXentLoss", inputs)
        references = {"ref_emb": embeddings(m, 1), "ref_labels": labels(m, kinds + 2, 2) - 1}
        beside("NTXentLoss", inputs | references, ("embeddings", "ref_emb"))
    test_memory_over_several_steps("NTXentLoss", 10)


def test_second_derivative_is_an_error():
    x = embeddings(6).requires_grad_()
    (gradient,) = torch.autograd.grad(ours.NTXentLoss()(x, labels(6, 2)), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.sum().backward()


def test_a_temperature_that_learns():
    x, y, temperature = embeddings(9), labels(9, 3), torch.tensor(0.3, dtype=torch.float64)
    pair = [lambda x, t, m=m: m.NTXentLoss(t)(x, y) for m in (ours, peer)]
    check_same(*pair, {"x": x, "t": temperature}, ("x", "t"))


def test_autocast_does_not_round_scores():
    x, y = embeddings(24, dtype=torch.float32), labels(24, 3)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ours.NTXentLoss()(x, y), peer.NTXentLoss()(x.double(), y).float())


def test_many_pairs_take_no_memory(monkeypatch):
    """Half of all pairs are positive, and nothing grows with their number."""
    monkeypatch.setattr(_equal_pairs, "_COLUMNS", 256)
    monkeypatch.setattr(_equal_pairs, "_walk", _equal_pairs._walk._init_fn)  # to see what it does inside
    n = 2048
    x, y = torch.randn(n, WIDTH, requires_grad=True), torch.arange(n) % 2
    assert largest(lambda: ours.NTXentLoss()(x, y)) <= 128 * 256
    assert 0 < saved_bytes(lambda: ours.NTXentLoss()(x, y)) <= 64 * n * (WIDTH + 8) < 4 * n * n


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_of_all_pairs_is_kept(name):
    n, memory = 2048, 4096
    x, y = torch.randn(n, WIDTH, requires_grad=True), torch.arange(n) // 2
    loss = getattr(ours, name)()
    bank = ours.CrossBatchMemory(getattr(ours, name)(), WIDTH, memory)
    bank.has_been_filled = True
    several = ours.SelfSupervisedLoss(loss)
    for call in (lambda: loss(x, y), lambda: bank(x, y), lambda: several(x, 2 * x)):
        assert largest(call) <= 2 * memory * WIDTH
    assert 0 < saved_bytes(lambda: loss(x, y)) <= 64 * n * (WIDTH + 8) < 4 * n * n
    assert 0 < saved_bytes(lambda: bank(x, y)) <= 64 * (n + memory) * (WIDTH + 8) < 4 * n * memory
    assert 0 < saved_bytes(lambda: several(x, 2 * x)) <= 64 * 2 * n * (WIDTH + 8) < 4 * n * n


@pytest.mark.parametrize("gradient", [True, False])
def test_shapes_of_the_operator_for_tracing(gradient):
    x, y, lse = embeddings(6, dtype=torch.float32), embeddings(9, dtype=torch.bfloat16), torch.randn(6).double()
    arguments = x, y, lse, labels(6, 2), labels(9, 2), torch.arange(6), gradient
    torch.library.opcheck(_equal_pairs._walk, arguments, test_utils=("test_schema", "test_faketensor"))


def test_operator_that_waits_for_a_gpu_says_so_to_cuda_graphs():
    assert torch.Tag.cudagraph_unsafe in torch.ops.mi_ext.equal_pair_loss.default.tags
