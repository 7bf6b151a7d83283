"""Ranks and entropies of gathered and joint scores on a GPU, judged as on the CPU: see test_ranking_rows.py."""

import gathered_problems
import joint_problems
import pytest
import torch
from problems import DTYPES, on
from test_ranking_rows import check_gathered, check_joint, joint_ranked, ranked

from mi_ext import _C, GatheredScores, JointScores, critics, losses, ops

if not torch.cuda.is_available():
    pytest.skip("torch finds no GPU here", allow_module_level=True)
if _C.build_info()["cuda"].startswith("no"):
    pytest.fail(f"mi_ext was {_C.build_info()['cuda']}, and there is a GPU", pytrace=False)

EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
LAYERS = pytest.mark.parametrize("layers", [1, 2], ids=["one layer", "two layers"])


def rows(*shape, seed=0, dtype=torch.float32):
    g = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(*shape, generator=g, device="cuda").to(dtype)


@EVERY_DTYPE
@pytest.mark.parametrize("kind", gathered_problems.KINDS)
def test_gathered(kind, dtype):
    with on("cuda"):
        for shape in [*gathered_problems.SHAPES, (2, 9000, 20, 50)]:
            check_gathered(gathered_problems.gathered(*shape, kind, dtype))


@EVERY_DTYPE
@LAYERS
@pytest.mark.parametrize("kind", joint_problems.EXCLUSIONS)
def test_joint(kind, layers, dtype):
    with on("cuda"):
        for shape in [*joint_problems.SHAPES, (300, 700, 65)]:
            check_joint(joint_problems.problem(*shape, layers, kind, dtype))


@EVERY_DTYPE
def test_copies_of_the_positive_are_ties(dtype):
    """However the sums round: none above, none below, wherever the copies lie."""
    for d in (3, 64, 100, 700):
        x, copy, last = rows(300, d, dtype=dtype), rows(1, d, seed=1, dtype=dtype), rows(d, seed=2, dtype=dtype)
        own = copy.expand(300, 257, d)
        assert (ops.gathered_ranking(x, own, None, 0.37, copy.expand(300, d))[2] == 257).all()
        inner = rows(77, d, seed=3, dtype=dtype)
        for network in ((None, None, last), (inner, inner[:, 0], last[:1].expand(77))):
            target = torch.randint(400, (300,), device="cuda")
            assert (ops.joint_ranking(x, copy.expand(400, d), network, (target, None, None, None))[3] == 399).all()


def test_runs_agree_bit_by_bit():
    p, q = (gathered_problems.gathered(60, 700, 33, 300), joint_problems.problem(300, 200, 33, 2, "everything"))
    with on("cuda"):
        runs = [(*ranked(p, p.x.flip(0)), *joint_ranked(q)) for _ in range(4)]
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_nothing_waits():
    x, y, own = rows(150, 40), rows(150, 40, seed=1), rows(150, 30, 40, seed=2)
    critic = critics.Joint(40, 40, 32).cuda()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        _, stats = losses.KPair()(x, y, own, return_stats=True)
        rank, _ = critic(x, y).ranking()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert stats["rank"].shape == rank.shape == (150,)


def test_sources_agree_with_the_cpu():
    x, y, bank, index = rows(50, 6), rows(50, 6, seed=1), rows(90, 6, seed=2), torch.arange(500).view(50, 10) % 90
    critic = critics.Joint(6, 6, 20).double()
    sources = {
        "gathered": lambda x, y, bank, index, critic: GatheredScores(x, bank, index, 0.7, 0.4, positive=y),
        "joint": lambda x, y, bank, index, critic: JointScores(x, bank, critic, positive=y),
    }
    on_cpu = [x.cpu().double(), y.cpu().double(), bank.cpu().double(), index]
    for source in sources.values():
        truth = source(*on_cpu, critic.cpu()).ranking()
        ours = source(*(t.cuda() for t in on_cpu), critic.cuda()).ranking()
        assert torch.equal(ours[0].cpu(), truth[0])
        torch.testing.assert_close(ours[1].cpu(), truth[1])


@pytest.mark.parametrize("outside", [7, -1, 2**40])
def test_an_index_or_a_target_outside(outside):
    """An index outside the bank makes its row's statistics NaN; a positive that is none ranks last."""
    p = gathered_problems.gathered(5, 40, 6, 7, "bank", torch.float32)
    p.index[3, 37] = outside
    q = joint_problems.problem(5, 7, 3, 1, "targets", torch.float32)
    q.exclusions[0][3] = outside
    with on("cuda"):
        lse, entropy, _ = ranked(p, p.x)
        positive, _, _, rank = joint_ranked(q)
    assert lse.isnan().nonzero().tolist() == entropy.isnan().nonzero().tolist() == [[3]]
    assert positive.isnan().nonzero().tolist() == [[3]] and rank[3] == 7
