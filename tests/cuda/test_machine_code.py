"""What ptxas made of the walks over 16-bit features: structure of the machine code, and the instructions of the loops.

A turn of a walk's loop multiplies a tile. Its lanes, instructions · 32 per score of a warp, are counted along the
shortest way through the loop that does the tile's products, exponentials and copies: that of a whole tile without
exclusions. Beside the targets of the design, forward 8, rows and columns 7.5, gradients 8.5.
"""

import re

import pytest
from machine_code import counts, disassembled, find_cuobjdump, operation, shortest_turn

WALKS = ("pairwise_forward", "pairwise_two_sided", "pairwise_gradient")
# of a warp's tile of 64 x 64 scores, of 32 x 64 and of 32 x 32, d = 128
FORWARD = {"HMMA": 256, "MUFU.EX2": 128, "LDGSTS": 16}
TWO_SIDED = {"HMMA": 256, "MUFU.EX2": 128 + 1, "LDGSTS": 16, "SHFL": 8 + 4 + 2}  # to join the columns' sums
WIDE = {"HMMA": 256, "MUFU.EX2": 64, "LDGSTS": 8}
WARPGROUP_GRADIENT = {"HGMMA": 32, "LDGSTS": 16}  # 16 x 128
NARROW = {"HMMA": 128, "MUFU.EX2": 64, "LDGSTS": 4}
QUERIES_STREAM = {"LDGSTS": 8 + 3, "LDS": 8 + 2}  # with targets and terms: references for each pair of columns
CANDIDATES_STREAM = {"LDGSTS": 4 + 2, "LDS": 4 + 4}  # with terms


FENCES = {
    "DEPBAR.LE": "W",  # wait for copies
    "FENCE.VIEW": "F",
    "BAR.SYNC": "B",
    "WARPGROUP.ARRIVE": "S",  # registers are ready
    "HGMMA.64x64x16": "P",
    "WARPGROUP.DEPBAR": "A",  # await products
}


def stem(line: str) -> str:
    return ".".join(operation(line).split(".")[:2])


@pytest.fixture(scope="module")
def code(build):
    """kernel → instructions, of both 16-bit types."""
    if find_cuobjdump() is None:
        pytest.fail("no machine code was tested: cuobjdump is not there; it comes with triton (mi_ext[test]) and CUDA")
    return disassembled(o for o in build.objects if re.match(r"(warpgroup_)?b?float16-", o.name))


def test_16_bit_walks_use_tensor_cores_and_wide_copies(code):
    walks = {kernel: lines for kernel, lines in code.items() if any(walk in kernel for walk in WALKS)}
    assert len(walks) == 2 * 15
    for kernel, lines in walks.items():
        products = {operation(line) for line in lines if operation(line).startswith("HMMA")}
        assert products == {"HMMA.16816.F32.BF16" if "bfloat16" in kernel else "HMMA.16816.F32"}, kernel
        fragments = {operation(line) for line in lines if operation(line).startswith("LDSM")}
        assert fragments and all(op.endswith(".4") for op in fragments), f"{kernel}: {fragments}"
        copies = counts(lines, ["LDGSTS.E.BYPASS.128"])[0]
        assert copies >= 8, f"{kernel}: {copies} copies of 16 bytes past the first cache"
        assert counts(lines, ["LDL", "STL"]) == (0, 0), f"{kernel} keeps values in local memory"


@pytest.mark.parametrize("dtype", ["__nv_bfloat16", "6__half"])
@pytest.mark.parametrize(
    "names,work,scores,most_lanes",
    [
        (("pairwise_forward", "Lb0E"), FORWARD, 64 * 64, 6.62),
        (("pairwise_two_sided",), TWO_SIDED, 64 * 64, 8.22),
        (("OnlineWeights",), WIDE, 32 * 64, 10.1),
        (("FixedWeights", "Lb1ELb0E"), WIDE, 32 * 64, 9.1),
        (("FixedWeights", "Lb0ELb1E"), {**WIDE, **QUERIES_STREAM}, 32 * 64, 9.9),
        (("FixedWeights", "Lb1ELb1E"), {**NARROW, **CANDIDATES_STREAM}, 32 * 32, 14.9),
    ],
    ids=["forward", "rows and columns", "fused, queries", "queries", "candidates", "rows and columns, queries"],
)
def test_lanes_of_the_main_loop(names, work, scores, most_lanes, dtype, code):
    parts = "pairwise", "Chunked", dtype, *names
    (kernel,) = (name for name in code if all(part in name for part in parts))
    turn = shortest_turn(code[kernel], work)
    assert 32 * len(turn) / scores <= most_lanes
    assert counts(turn, ["HMMA", "MUFU.EX2"]) == (work["HMMA"], work["MUFU.EX2"])


@pytest.mark.parametrize("dtype", ["__nv_bfloat16", "6__half"])
@pytest.mark.parametrize(
    "names,work,scores,most_lanes",
    [
        (("warpgroup_forward",), {"HGMMA": 16, "LDGSTS": 8}, 32 * 64, 4.63),
        (("warpgroup_gradient", "OnlineWeights"), WARPGROUP_GRADIENT, 16 * 128, 6.1),
        (("warpgroup_gradient", "Lb1ELb0E"), WARPGROUP_GRADIENT, 16 * 128, 5.2),
        (("warpgroup_gradient", "Lb0ELb1E"), WARPGROUP_GRADIENT, 16 * 128, 5.4),
        (("warpgroup_gradient", "Lb1ELb1E"), {"HGMMA": 16, "LDGSTS": 8}, 16 * 64, 9.5),
    ],
    ids=["forward", "fused, queries", "queries", "candidates", "rows and columns, queries"],
)
def test_turns_by_warpgroups(names, work, scores, most_lanes, dtype, code):
    """Their lanes; and fences where a simulator would not miss them: copies are shown to the tensor cores before anyone
    passes the barrier behind which they are read, products are awaited before their use and before the next barrier."""
    kernels = [name for name in code if all(part in name for part in (*names, dtype))]
    assert all(counts(code[name], ["LDL", "STL", "HMMA"]) == (0, 0, 0) for name in kernels)
    (kernel,) = (name for name in kernels if re.search(r"Li2EE+NS|Li2EE+v", name))  # chunks, d = 128
    turn = shortest_turn(code[kernel], {"MUFU.EX2": 64, **work})
    assert 32 * len(turn) / scores <= most_lanes
    assert counts(turn, ["HGMMA.64x64x16.F32", "MUFU.EX2"]) == (work["HGMMA"], 64)
    assert re.fullmatch(r"WFB(SP+A)+", "".join(FENCES.get(stem(line), "") for line in turn))
