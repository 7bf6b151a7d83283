"""One process and k agree in value and in every gradient, in float64."""

import multiprocessing

import pytest
import torch
import torch.multiprocessing
from distributed_peers import CASES
from distributed_workers import LOSSES, ROWS, Encoder, batch, dense, value_and_gradients, worker

from mi_ext import DenseScores, DotScores, bounds
from mi_ext.distributed import RingScores, gather, sum_gradient


@pytest.fixture(scope="module", params=ROWS, ids="{} ranks".format)
def found(request, tmp_path_factory):
    """(results of each rank, the whole batch, its rows on each rank)."""
    ranks = request.param
    folder = tmp_path_factory.mktemp(f"ranks_{ranks}")
    multiprocessing.set_forkserver_preload(["mi_ext.distributed"])  # imported once for all ranks
    options = {"nprocs": ranks, "start_method": "forkserver"}
    torch.multiprocessing.start_processes(worker, (ranks, str(folder)), **options)
    rows = ROWS[ranks]
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)], batch(sum(rows)), rows


def close(ours, truth):
    torch.testing.assert_close(ours, truth, rtol=1e-11, atol=1e-13)


def of_all_ranks(parts: list[dict]) -> dict:
    """Rows one below the other; values, and gradients of scalars, added."""
    return {k: torch.cat([p[k] for p in parts]) if k in "xy" else sum(p[k] for p in parts) for k in parts[0]}


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients(found, name):
    parts, whole, _ = found
    ours, truth = of_all_ranks([p[name] for p in parts]), value_and_gradients(LOSSES[name][1], whole)
    for k, t in truth.items():
        close(ours[k], t)


@pytest.mark.parametrize(
    "name, loss, wanted", [("queries alone", "cross-entropy", "x"), ("softplus, candidates alone", "softplus", "y")]
)
def test_gradients_of_one_side(found, name, loss, wanted):
    parts, whole, _ = found
    ours, truth = of_all_ranks([p[name] for p in parts]), value_and_gradients(LOSSES[loss][1], whole, wanted)
    assert ours.keys() == truth.keys()
    for k, t in truth.items():
        close(ours[k], t)


@pytest.mark.parametrize("name", ["cross-entropy", "softplus", "gathered"])
def test_all_rows_on_one_rank(found, name):
    parts, whole, rows = found
    ours = of_all_ranks([p[f"rows on one rank, {name}"] for p in parts])
    for k, t in value_and_gradients(LOSSES[name][1], whole.part(0, rows)).items():
        close(ours[k], t)


@pytest.mark.parametrize("name", ["cross-entropy", "softplus", "gathered"])
def test_bfloat16(found, name):
    """Gradients are rounded to 16 bits where they come to rest, and where they are added up if gathered."""
    parts, whole, _ = found
    ours = of_all_ranks([p[f"bfloat16, {name}"] for p in parts])
    rounded = whole._replace(x=whole.x.bfloat16().double(), y=whole.y.bfloat16().double())
    for k, t in value_and_gradients(LOSSES[name][1], rounded).items():
        assert (ours[k].dtype == torch.bfloat16) == (k in "xy")
        assert (ours[k] - t).norm() <= 1e-2 * t.norm() + 1e-6


@pytest.mark.parametrize("name", ["ring", "gathered", "whole loss"])
def test_ddp_gives_the_gradient_of_the_whole_batch(found, name):
    """With unequal batches too; nothing is off by the number of ranks."""
    parts, whole, _ = found
    encoder = Encoder()
    x, y, scale = encoder(whole)
    dense(whole._replace(x=x, y=y), scale, 0.0).cross_entropy().backward()
    for part in parts:
        for ours, truth in zip(part[f"DDP, {name}"], encoder.gradients(), strict=True):
            close(ours, truth)


def test_statistics(found):
    parts, whole, rows = found
    scores = DotScores(whole.x, whole.y, 0.7, -0.3)
    clipped = torch.stack([p["statistics"]["clipped"] for p in parts]).logsumexp(0)
    close(clipped, scores.clipped_log_partition(0.5))
    infonce = sum(n * p["statistics"]["infonce"] for n, p in zip(rows, parts, strict=True)) / sum(rows)
    close(infonce, bounds.infonce(scores))
    counts = DotScores(whole.x, whole.y, labels=(whole.label, whole.label)).n_negatives
    for rank, part in enumerate(parts):
        statistics = part["statistics"]
        assert statistics["n_candidates"] == sum(rows)
        expected = torch.as_tensor(counts).expand(sum(rows)).split(rows)[rank]
        assert torch.equal(torch.as_tensor(statistics["n_negatives"]).expand(rows[rank]), expected)
        everything, start = statistics["rows"]
        assert torch.equal(everything, whole.x) and start == sum(rows[:rank])


def test_float32(found):
    parts, whole, rows = found
    truth = DotScores(whole.x, whole.y, 0.7).cross_entropy(reduction="none").split(rows)
    for part, expected in zip(parts, truth, strict=True):
        assert part["float32"].dtype == torch.float32
        torch.testing.assert_close(part["float32"].double(), expected.mean(), rtol=1e-5, atol=1e-6)


def test_errors_reach_every_rank(found):
    parts, *_ = found
    for part in parts:
        messages = part["messages"]
        for name in ("width", "dtype", "requires_grad", "need of a gradient", "use of labels"):
            assert f"expected the same {name} on every rank" in messages[name]
            assert messages[name].startswith("ValueError: ")
        assert "column_negative_lse" in messages["columns"]
        assert "second derivative" in messages["second derivative"]


def test_a_rank_keeps_its_own_vectors_only(found):
    """And five numbers a query: statistics of rows, never other ranks' candidates."""
    parts, _, rows = found
    for part, n in zip(parts, rows, strict=True):
        saved, own = part["saved bytes"]
        assert own <= saved <= 2 * own + 40 * n * 64


def test_group(found):
    """Of the first and the last rank; others neither take part nor wait."""
    parts, whole, rows = found
    b = [torch.cat([t.split(rows)[0], t.split(rows)[-1]]) for t in whole[:2]]
    members = [part["group"] for part in parts if "group" in part]
    assert len(members) == 2
    close(sum(members), DotScores(*b, 0.7).cross_entropy(reduction="sum"))


def test_summed_gradient(found):
    parts, _, rows = found
    assert all(part["summed gradient"] == sum(range(1, len(rows) + 1)) for part in parts)


@pytest.mark.parametrize("name", CASES)
def test_drop_ins(found, name):
    """The loss of each rank, and what of it reaches each rank's features, scale and bias, are those of the peer."""
    tolerance = {"rtol": 1e-9, "atol": 1e-12} if CASES[name].dtype == torch.float64 else {"rtol": 2e-5, "atol": 2e-6}
    for part in found[0]:
        if part["peers"][name] is None:
            pytest.skip(f"{CASES[name].peer.partition('.')[0]} is not installed")
        torch.testing.assert_close(*part["peers"][name], **tolerance)


class TestOneProcess:
    """Without a process group."""

    @pytest.mark.parametrize("name", LOSSES)
    def test_values_and_gradients(self, name):
        ours, truth = (value_and_gradients(loss, batch(7)) for loss in LOSSES[name])
        for k, t in truth.items():
            close(ours[k], t)

    def test_nothing_is_copied(self):
        x = torch.randn(3, 2, requires_grad=True)
        everything, start = gather(x)
        assert everything is x and start == 0 and sum_gradient(x) is x

    def test_backward_twice(self):
        x, y = (t.requires_grad_() for t in batch(5)[:2])
        loss = RingScores(x, y, 0.7).cross_entropy() + RingScores(x, y).negative_softplus_sum()
        first, second = (torch.autograd.grad(loss, (x, y), retain_graph=True) for _ in range(2))
        assert all(map(torch.equal, first, second))

    def test_without_negatives(self):
        x = torch.randn(1, 2, requires_grad=True)
        loss = RingScores(x, x.detach()).cross_entropy()
        loss.backward()
        assert loss == 0 and not x.grad.any()

    def test_a_row_of_one_label(self):
        x, y = torch.randn(3, 2, requires_grad=True), torch.randn(3, 2)
        scores = RingScores(x, y, labels=(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 1])))
        assert torch.equal(scores.negative_lse.isinf(), torch.tensor([False, False, False]))
        alike = RingScores(x, y, labels=(torch.zeros(3, dtype=torch.int64),) * 2)
        alike.cross_entropy().backward()
        assert alike.negative_lse.isneginf().all() and not x.grad.any()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("statistic", ["negative_lse", "negative_softplus_sum"])
    def test_dtypes(self, dtype, statistic):
        """As `DotScores`, which is compared with the truth in every dtype."""
        results = []
        for source in (RingScores, DotScores):
            x, y = (t.to(dtype).requires_grad_() for t in batch(9)[:2])
            scale = torch.tensor(0.7, requires_grad=True)
            value = getattr(source(x, y, scale, -0.3), statistic)
            value = value() if callable(value) else value
            results.append([value, *torch.autograd.grad(value.sum(), (x, y, scale))])
        for ours, expected in zip(*results, strict=True):
            assert ours.dtype == expected.dtype
            torch.testing.assert_close(ours, expected)

    def test_nan_stays_in_its_row(self):
        x, y = (t.float() for t in batch(6)[:2])
        x[2, 1] = torch.nan
        x.requires_grad_()
        loss = RingScores(x, y).cross_entropy(reduction="none")
        loss.sum().backward()
        others = torch.arange(6) != 2
        assert torch.equal(loss.isnan(), ~others) and torch.equal(x.grad.isnan().any(1), ~others)

    def test_errors(self):
        x = torch.randn(3, 2)
        with pytest.raises(TypeError, match="x: expected a floating-point tensor"):
            RingScores(x.long(), x)
        with pytest.raises(ValueError, match="target: the default"):
            RingScores(x, x[:2])
        with pytest.raises(ValueError, match="scale"):
            RingScores(x, x, 0.0)

    def test_a_bound_of_dense_scores(self):
        x, y = torch.randn(4, 3).double(), torch.randn(4, 3).double()
        close(bounds.smile(RingScores(x, y, 0.5), 0.2), bounds.smile(DenseScores(0.5 * x @ y.T), 0.2))
