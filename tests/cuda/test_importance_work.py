"""Counted work and compiled size of the walks over two query sets and of the ranks' walk; see test_work.py."""

import pytest
import torch
from problems import problem
from test_compiled import REGISTERS, THREADS, facts  # noqa: F401  a fixture

from mi_ext import ops

WALKS = ("importance_forward", "importance_products", "ranking_walk", "ranking_positives")
D = 128
WEIGHTS = (0.4, 0.7, 1.2)


def objective(n, m, dtype=torch.bfloat16):
    p = problem(n, m, D, "plain", dtype)
    x1, x2, y = (t.detach().requires_grad_() for t in (p.x, p.x.flip(0), p.y))
    log_mass = torch.ones(n, dtype=torch.float64)
    external = p.external, p.external.flip(0)
    return ops.importance_cross_entropy_sum(x1, x2, y, 0.1, 0.2, p.exclusions, external, log_mass, WEIGHTS)[0]


def test_two_blocks_fit_on_a_multiprocessor(facts):  # noqa: F811
    ours = {kernel: fact for kernel, fact in facts.items() if any(walk in kernel for walk in WALKS)}
    assert len(ours) == 4 * (1 + 2 + 1 + 1)
    for kernel, fact in ours.items():
        assert -(-fact["registers"] // 8) * 8 * THREADS * 2 <= REGISTERS, f"{kernel}: {fact}"


@pytest.mark.parametrize(
    "kernel,products,most_lanes,most_waves",
    [("importance_forward", 2, 35, 0.22), ("Lb1E", 4, 47.5, 0.44), ("Lb0E", 4, 49.5, 0.46)],
    ids=["statistics", "queries", "candidates"],
)
def test_work(kernel, products, most_lanes, most_waves, walks):
    """Three exponentials a pair, and in all 20nmd flops: scores of both sets in every walk, products of both in two."""
    small, large = ((64, 128), (64, 256)) if kernel != "Lb0E" else ((128, 128), (256, 128))
    runs = []
    for shape in (small, large):
        objective(*shape)
        (stats,) = (stats for stats in walks.launches if "importance_" in stats.kernel and kernel in stats.kernel)
        assert stats.shared_wavefronts == stats.shared_accesses, "bank conflicts"
        assert stats.atomics == 0 and stats.shared_bytes <= 99 * 1024
        runs.append(stats)

    def per_pair(count) -> float:
        return (count(runs[1]) - count(runs[0])) / (large[0] * large[1] - small[0] * small[1])

    assert per_pair(lambda stats: sum(stats.mma_flops.values())) == products * 2 * D
    assert per_pair(lambda stats: stats.mufu) <= 3.2
    assert per_pair(lambda stats: stats.warp_instructions * 32) <= most_lanes
    assert per_pair(lambda stats: stats.shared_wavefronts) <= most_waves


def test_no_bank_conflicts_in_float32(walks):
    objective(32, 64, torch.float32)
    for stats in (stats for stats in walks.launches if any(walk in stats.kernel for walk in WALKS)):
        assert stats.shared_wavefronts == stats.shared_accesses


def test_runs_give_the_same_bits(walks):
    walks.multiprocessors = 4
    results = []
    for _ in range(2):
        p = problem(20, 150, 16, "targets", torch.bfloat16)
        leaves = [t.detach().requires_grad_() for t in (p.x, p.x.flip(0), p.y)]
        log_mass = torch.ones(20, dtype=torch.float64)
        loss, _ = ops.importance_cross_entropy_sum(*leaves, 0.1, 0.2, p.exclusions, None, log_mass, WEIGHTS)
        results.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    assert all(torch.equal(first, again) for first, again in zip(*results, strict=True))
