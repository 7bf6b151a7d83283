"""Counted work of the walks in whole tiles of bfloat16, d = 128: no timing, but what no GPU can do without.

Per further score, so that starting and ending a walk does not count. lanes: warp instructions · 32, of PTX: the machine
code has fewer (test_machine_code.py), for the copies (`mov`) and the sums in addresses vanish in it. waves: wavefronts
of shared memory, 128 bytes each. The bounds are what is reached now.
"""

import pytest
import torch
from problems import problem

D = 128
SCALE = torch.tensor(0.1, dtype=torch.float64)
NOTHING = torch.empty(0, dtype=torch.float64)


def embeddings(n: int, m: int, dtype=torch.bfloat16):
    p = problem(n, m, D, "plain", dtype)
    return p.x, p.y, SCALE, *p.exclusions


def full(count: int, value: float):
    return torch.full((count,), value, dtype=torch.float64)


def statistics(walks, n, m):
    walks.dot_statistics(*embeddings(n, m), False)


def clip(walks, n, m):
    x, y, scale, _, *exclusions = embeddings(n, m)
    walks.dot_statistics(x, y, scale, torch.arange(n), *exclusions, True)


def statistics_by_warpgroups(walks, n, m):
    walks.capability = 90
    statistics(walks, n, m)


def clip_by_warpgroups(walks, n, m):
    walks.capability = 90
    clip(walks, n, m)


def softplus_by_warpgroups(walks, n, m):
    walks.capability = 90
    x, y, scale, *exclusions = embeddings(n, m)
    walks.dot_softplus_sum(x, y, scale, torch.tensor(-0.7, dtype=torch.float64), *exclusions, True, False)


def fused(walks, n, m):
    walks.dot_fused(*embeddings(n, m), full(n, 0.0), 0.0, 0.0, False, True)


def fused_by_warpgroups(walks, n, m):
    walks.capability = 90
    fused(walks, n, m)


def rows_and_columns(walks, n, m):
    upstream = full(n, 8.0), full(m, 8.0), NOTHING, full(n, 1.0), full(m, 1.0)
    walks.dot_gradient(*embeddings(n, m), NOTHING, *upstream, False)


@pytest.mark.parametrize(
    "walk,kernel,products,most_lanes,most_waves,most_exponentials",
    [
        (statistics, "pairwise_forward", 1, 7.95, 0.0785, 1.001),
        (clip, "pairwise_two_sided", 1, 10.5, 0.08, 1.016),
        (statistics_by_warpgroups, "warpgroup_forward", 1, 5.1, 0.0470, 1.001),
        (clip_by_warpgroups, "warpgroup_two_sided", 1, 7.2, 0.0470, 1.016),
        (softplus_by_warpgroups, "warpgroup_forward", 1, 25.7, 0.0470, 2),
        (softplus_by_warpgroups, "SigmoidWeights", 2, 6.6, 0.0940, 2),
        (fused, "OnlineWeights", 2, 12.1, 0.172, 1.001),
        (fused, "FixedWeights", 2, 11.25, 0.18, 1),
        (rows_and_columns, "FixedWeights", 2, 15.2, 0.2151, 2),
        (fused_by_warpgroups, "OnlineWeights", 2, 7, 0.0940, 1.001),
        (fused_by_warpgroups, "FixedWeights", 2, 7.3, 0.112, 1),
    ],
    ids=[
        "forward",
        "forward, rows and columns",
        "forward by warpgroups",
        "forward, rows and columns, by warpgroups",
        "softplus by warpgroups",
        "gradient of softplus by warpgroups",
        "fused, queries",
        "fused, candidates",
        "rows and columns",
        "fused, queries, by warpgroups",
        "fused, candidates, by warpgroups",
    ],
)
def test_work(walk, kernel, products, most_lanes, most_waves, most_exponentials, walks):
    small, large = (128, 256), (128, 768)
    if kernel == "FixedWeights" and walk is not rows_and_columns:  # the candidates own this walk, the queries stream by
        small, large = (256, 128), (768, 128)
    runs = []
    for shape in (small, large):
        walk(walks, *shape)
        (stats,) = (stats for stats in walks.launches if kernel in stats.kernel)
        assert stats.shared_wavefronts == stats.shared_accesses, "bank conflicts"
        assert stats.atomics == 0
        runs.append(stats)

    def per_score(count) -> float:
        return (count(runs[1]) - count(runs[0])) / (large[0] * large[1] - small[0] * small[1])

    assert per_score(lambda stats: sum(stats.mma_flops.values())) == products * 2 * D
    assert per_score(lambda stats: stats.warp_instructions * 32) <= most_lanes
    assert per_score(lambda stats: stats.shared_wavefronts) <= most_waves
    assert per_score(lambda stats: stats.mufu) <= most_exponentials


def test_rows_and_columns_take_one_product(walks):
    """2nmd flops in all; the walks over what is undecided find nothing."""
    clip(walks, 128, 256)
    flops = [(stats.kernel, sum(stats.mma_flops.values())) for stats in walks.launches if "pairwise" in stats.kernel]
    assert ["two_sided" in kernel for kernel, _ in flops] == [True, False, False]
    assert [count for _, count in flops] == [2 * D * 128 * 256, 0, 0]


def test_a_fused_loss_takes_two_walks_of_two_products(walks):
    """8nmd flops in all."""
    fused(walks, 128, 128)
    flops = [sum(stats.mma_flops.values()) for stats in walks.launches if "pairwise" in stats.kernel]
    assert flops == [2 * 2 * D * 128 * 128] * 2


def test_no_bank_conflicts_in_float32(walks):
    walks.dot_fused(*embeddings(64, 64, torch.float32), full(64, 0.0), 0.0, 0.0, False, True)
    for stats in (stats for stats in walks.launches if "pairwise" in stats.kernel):
        assert stats.shared_wavefronts == stats.shared_accesses
