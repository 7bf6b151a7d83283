"""Counted work of the walks over gathered scores: memory, which is what binds them on a GPU.

Bytes are 32 for every sector that a warp's access touches, so that a row of the bank that many queries read counts each
time; compulsory are the gathered rows and their index, and of a gradient what it must read and write.
"""

import pytest
import torch
from gathered_problems import gathered

N, M, V = 4, 512, 2000
ONE = torch.ones((), dtype=torch.float64)
MOST = 1.1  # times the compulsory bytes


def launches_of(walks, kernel):
    return [stats for stats in walks.launches if kernel in stats.kernel]


def bytes_of(stats) -> int:
    return 32 * (stats.global_load_sectors + stats.global_store_sectors)


def fused(walks, dtype, d, kind="bank", candidate_gradient=False):
    p = gathered(N, M, d, V, kind, dtype)
    walks.gathered_fused(p.x, p.y, p.index, ONE, p.positive, 0.0, 0.0, False, candidate_gradient)
    return p


@pytest.mark.parametrize("dtype,d", [(torch.float32, 128), (torch.bfloat16, 128), (torch.bfloat16, 512)], ids=str)
def test_a_fused_loss_reads_each_gathered_row_once(dtype, d, gathered_walks):
    p = fused(gathered_walks, dtype, d)
    (stats,) = launches_of(gathered_walks, "gathered_queries")
    compulsory = N * M * (d * p.y.element_size() + 8)
    assert compulsory <= bytes_of(stats) <= MOST * compulsory
    others = [bytes_of(s) for s in gathered_walks.launches if s is not stats]
    assert sum(others) <= 0.1 * compulsory


@pytest.mark.parametrize("dtype,d", [(torch.float32, 128), (torch.bfloat16, 64), (torch.float64, 200)], ids=str)
def test_values_alone_read_each_gathered_row_once(dtype, d, gathered_walks):
    p = gathered(N, M, d, V, "bank", dtype)
    gathered_walks.gathered_lse(p.x, p.y, p.index, ONE)
    (stats,) = launches_of(gathered_walks, "gathered_queries")
    compulsory = N * M * (d * p.y.element_size() + 8)
    assert compulsory <= bytes_of(stats) <= MOST * compulsory


def test_the_gradient_of_negatives_does_not_read_them_again(gathered_walks):
    """It writes [n, m, d], and reads a score for each row of it; queries stay in cache."""
    d = 128
    fused(gathered_walks, torch.float32, d, "negatives", True)
    (stats,) = launches_of(gathered_walks, "gathered_negatives")
    written = 4 * N * M * d
    assert stats.dram_write_bytes == 32 * stats.global_store_sectors == written
    assert stats.dram_read_bytes <= 4 * N * M + 4 * N * d + 1024


def test_the_gradient_of_a_bank_reads_queries_not_rows(gathered_walks):
    d = 128
    p = fused(gathered_walks, torch.float32, d, "bank", True)
    (stats,) = launches_of(gathered_walks, "gathered_bankI")
    rows = len(p.index.unique())
    heads = -(-N * M // 128)
    assert stats.dram_write_bytes <= 4 * d * (rows + heads)
    assert stats.dram_read_bytes <= 4 * d * (rows + N) + N * M * (4 + 4 + 8) + 1024


def test_every_access_is_coalesced_and_nothing_is_shared(gathered_walks):
    fused(gathered_walks, torch.bfloat16, 128, "bank", True)
    for stats in launches_of(gathered_walks, "gathered_queries") + launches_of(gathered_walks, "gathered_bank"):
        assert stats.atomics == 0 and stats.shared_accesses == 0
    (stats,) = launches_of(gathered_walks, "gathered_queries")
    assert stats.load_efficiency >= 0.9
    # An H100 issues 74 while the 256 bytes of a row arrive; copies of registers vanish in machine code.
    assert stats.warp_instructions - stats.instructions["move"] <= 50 * N * M
