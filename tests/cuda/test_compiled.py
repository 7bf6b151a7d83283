"""What the compiler made of the kernels: registers, spills and shared memory, as csrc/cuda/traits.cuh plans them."""

import re
from collections import defaultdict

import pytest
import torch
from problems import problem

WALKS = (
    "pairwise_forward",
    "pairwise_two_sided",
    "pairwise_gradient",
    "warpgroup_forward",
    "warpgroup_two_sided",
    "warpgroup_gradient",
)
REGISTERS = 65536  # of a multiprocessor
THREADS = 128


@pytest.fixture(scope="module")
def facts(build):
    """kernel → {registers, stack, spilled}."""
    found = defaultdict(dict)
    for line in build.ptxas.splitlines():
        if name := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = name[1]
        if sizes := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            found[kernel].update(stack=int(sizes[1]), spilled=int(sizes[2]) + int(sizes[3]))
        if registers := re.search(r"Used (\d+) registers", line):
            found[kernel]["registers"] = int(registers[1])
    return found


def test_every_kernel_stays_in_registers(facts):
    # for any d 2 forward, rows and columns and 6 gradient; those that are not softplus again for every d that Traits
    # know; by warpgroups, of each 16-bit type, 2 forward and 5 gradients for 1 to 4 chunks, rows and
    # columns for 1 to 3
    known = (2 + 4) + 2 * (2 * 2 + 3 * 4)
    assert sum(any(walk in kernel for walk in WALKS) for kernel in facts) == 4 * 9 + known + 2 * (4 * (2 + 5) + 3)
    for kernel, fact in facts.items():
        assert fact["spilled"] == 0 and fact["stack"] == 0, f"{kernel}: {fact}"


def test_two_blocks_fit_on_a_multiprocessor(facts):
    for kernel, fact in facts.items():
        if any(walk in kernel for walk in WALKS):
            assert -(-fact["registers"] // 8) * 8 * THREADS * 2 <= REGISTERS, f"{kernel}: {fact}"


def test_products_of_warpgroups_run_beside_other_instructions(build):
    """ptxas says so where it makes them wait: for one another, or for an early use of their results."""
    assert not re.findall(r".*(?:wgmma.* serialized|warpgroup.* injected).*", build.ptxas)


def test_warps_enough_to_wait_for_gathered_rows(facts):
    """4 KiB are on their way to each warp; what a multiprocessor of an H100 has to have on its way is some 20 KiB."""
    walks = [kernel for kernel in facts if "gathered_queries" in kernel]
    kinds = 2 * 2 + 1  # two weights with and without a gradient, and ranks
    assert len(walks) == kinds * (4 * 4 + 2)  # dtypes x widths, and 2 halfwords
    for kernel in walks:
        fewest = 8 if "Li8E" in kernel else 14 if "RankedExponentialsId" in kernel else 16  # wide rows; float64
        registers = -(-facts[kernel]["registers"] // 8) * 8 * 32
        assert REGISTERS // registers >= fewest, f"{kernel}: {facts[kernel]}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("d", [64, 128, 256, 300])
def test_a_block_fits_into_the_smallest_shared_memory(d, dtype, walks):
    """99 KiB, of compute capabilities 8.6 and 8.9; a multiprocessor of 8.0 then holds a block, or two at d <= 128."""
    p = problem(8, 8, d, "plain", dtype)
    scale = torch.ones((), dtype=torch.float64)
    walks.dot_fused(p.x, p.y, scale, *p.exclusions, p.external, 0.0, 0.0, False, True)
    sizes = [stats.shared_bytes for stats in walks.launches if "pairwise" in stats.kernel]
    walks.dot_statistics(p.x, p.y, scale, *p.exclusions, False)
    sizes += [stats.shared_bytes for stats in walks.launches if "pairwise" in stats.kernel]
    assert max(sizes) <= 99 * 1024
    if dtype == torch.bfloat16 and d <= 128:
        assert 2 * (max(sizes) + 1024) <= 164 * 1024
