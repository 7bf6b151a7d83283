"""What ptxas made of the walks over 16-bit features: structure of the machine code, and the instructions of the loops.

A turn of a walk's loop multiplies a tile. Its lanes, instructions · 32 per score of a warp, are counted along the
shortest way through the loop that does the tile's products, exponentials and copies: that of a whole tile without
exclusions, and of a walk with targets where a block's tiles have none. Beside the targets of the design, forward 8,
rows and columns 7.5, gradients 8.5.

What no such loop over 32 x 64 scores can do without at d = 128, per score: 4 lanes of tensor-core products, 1.25 of
loads of their factors, 1 each of multiply-adds, exponentials and, where they are summed, additions, .5 of roundings to
16 bits and .125 of copies: 8.9 for the queries in one walk with the loss. The candidates need no sums but .08 for
references: 8. These floors are 6.2 and 5.3 at d = 64, and 11.9 and 11 for each 128 features of d = 256, whose scores
are computed twice.
"""

import re

import pytest
from machine_code import counts, disassembled, find_cuobjdump, operation, shortest_turn

WALKS = ("pairwise_forward", "pairwise_two_sided", "pairwise_gradient")
FORWARD, TWO_SIDED, ONLINE = ("pairwise_forward", "Lb0E"), ("pairwise_two_sided",), ("OnlineWeights",)
OWN, STREAMED, BOTH = (
    ("FixedWeights", sides) for sides in ("Lb1ELb0E", "Lb0ELb1E", "Lb1ELb1E")
)  # terms of the weights
WARPGROUP_FORWARD = {"HGMMA": 16, "LDGSTS": 8, "MUFU.EX2": 64}  # 32 x 64
WARPGROUP_GRADIENT = {"HGMMA": 16, "LDGSTS": 16, "MUFU.EX2": 64}  # 16 x 128
DEEP = {"HGMMA": 24, "LDGSTS": 16, "MUFU.EX2": 32}  # 16 x 64, d = 256


FENCES = {
    "DEPBAR.LE": "W",  # wait for copies
    "FENCE.VIEW": "F",
    "BAR.SYNC": "B",
    "WARPGROUP.ARRIVE": "S",  # registers are ready
    "HGMMA": "P",
    "WARPGROUP.DEPBAR": "A",  # await products
}


def stem(line: str) -> str:
    names = operation(line).split(".")
    return names[0] if names[0] == "HGMMA" else ".".join(names[:2])


@pytest.fixture(scope="module")
def code(build):
    """kernel → instructions, of both 16-bit types."""
    if find_cuobjdump() is None:
        pytest.fail("no machine code was tested: cuobjdump is not there; it comes with triton (mi_ext[test]) and CUDA")
    return disassembled(o for o in build.objects if re.match(r"(warpgroup_)?b?float16-", o.name))


def test_16_bit_walks_use_tensor_cores_and_wide_copies(code):
    walks = {kernel: lines for kernel, lines in code.items() if any(walk in kernel for walk in WALKS)}
    # of rows, of rows and columns and of gradients for any d, and of all but softplus for the d that Traits know
    assert len(walks) == 2 * (8 + 1 + 2 + 2 + 3 * 4)
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
    "d,names,shape,work,most_lanes",
    [
        # work: products, exponentials, copies and, of the streamed side, references
        (64, FORWARD, (64, 64), (128, 128, 8, 0), 4.7),
        (128, FORWARD, (64, 64), (256, 128, 16, 0), 6.1),
        (128, TWO_SIDED, (64, 64), (256, 128 + 1, 16, 0), 7.47),
        (64, ONLINE, (32, 64), (64 + 64, 64, 4, 0), 6.71),
        (128, ONLINE, (32, 64), (128 + 128, 64, 8, 0), 9.4),
        (256, ONLINE, (32, 64), (256 + 128, 64, 16 + 8, 0), 13.96),
        (128, OWN, (32, 64), (128 + 128, 64, 8, 0), 8.3),
        (64, STREAMED, (32, 64), (64 + 64, 64, 4 + 1, 4), 5.75),
        (128, STREAMED, (32, 64), (128 + 128, 64, 8 + 1, 4), 8.47),
        (256, STREAMED, (32, 64), (256 + 128, 64, 16 + 8 + 1, 4), 12.99),
        (128, BOTH, (32, 32), (64 + 64, 64, 4 + 1, 2), 12.25),
    ],
)
def test_lanes_of_the_main_loop(d, names, shape, work, most_lanes, dtype, code):
    """For 128 features of a gradient. Where d is known, T is Chunked<Tiling<...>, chunks of 64 features>."""
    names = ("pairwise", *names, dtype, f"EEELi{d // 64}EEE")
    (kernel,) = (name for name in code if "Chunked" in name and all(part in name for part in names))
    turn = shortest_turn(code[kernel], dict(zip(["HMMA", "MUFU.EX2", "LDGSTS", "LDS.128"], work, strict=True)))
    assert 32 * len(turn) / (shape[0] * shape[1]) <= most_lanes
    assert counts(turn, ["HMMA", "MUFU.EX2"]) == work[:2]


@pytest.mark.parametrize("dtype", ["__nv_bfloat16", "6__half"])
@pytest.mark.parametrize(
    "names,chunks,work,scores,most_lanes",
    [
        (("warpgroup_forward", "ELb0E"), 2, WARPGROUP_FORWARD, 32 * 64, 4.22),
        (("warpgroup_forward", "ELb1E"), 2, WARPGROUP_FORWARD, 32 * 64, 22.2),
        (("warpgroup_two_sided",), 2, {**WARPGROUP_FORWARD, "MUFU.EX2": 64 + 1}, 32 * 64, 6.12),
        (("warpgroup_gradient", "OnlineWeights"), 2, WARPGROUP_GRADIENT, 16 * 128, 5.04),
        (("warpgroup_gradient", "Lb1ELb0E"), 2, WARPGROUP_GRADIENT, 16 * 128, 3.93),
        (("warpgroup_gradient", "Lb0ELb1E"), 2, WARPGROUP_GRADIENT, 16 * 128, 4.18),
        (("warpgroup_gradient", "Lb1ELb1E"), 2, {"HGMMA": 12, "LDGSTS": 8, "MUFU.EX2": 64}, 16 * 64, 8.1),
        (("warpgroup_gradient", "SigmoidWeights"), 2, WARPGROUP_GRADIENT, 16 * 128, 5.94),
        (("warpgroup_gradient", "OnlineWeights"), 4, DEEP, 16 * 64, 7.69),
        (("warpgroup_gradient", "Lb1ELb0E"), 4, DEEP, 16 * 64, 6.44),
        (("warpgroup_gradient", "Lb0ELb1E"), 4, DEEP, 16 * 64, 6.69),
        (("warpgroup_gradient", "Lb1ELb1E"), 4, {**DEEP, "MUFU.EX2": 64}, 16 * 64, 9.79),
        (("warpgroup_gradient", "SigmoidWeights"), 4, DEEP, 16 * 64, 8.29),
    ],
)
def test_turns_by_warpgroups(names, chunks, work, scores, most_lanes, dtype, code):
    """Their lanes; and fences where a simulator would not miss them: copies are shown to the tensor cores before anyone
    passes the barrier behind which they are read, products are awaited before their use and before the next barrier."""
    kernels = [name for name in code if all(part in name for part in (*names, dtype))]
    assert all(counts(code[name], ["LDL", "STL", "HMMA"]) == (0, 0, 0) for name in kernels)
    (kernel,) = (name for name in kernels if re.search(rf"Li{chunks}EE+(NS|Lb|v)", name))
    turn = shortest_turn(code[kernel], work)
    assert 32 * len(turn) / scores <= most_lanes
    assert counts(turn, ["HGMMA", "MUFU.EX2"]) == (work["HGMMA"], work["MUFU.EX2"])
    fences = "".join(FENCES.get(stem(line), "") for line in turn)
    begin = fences.index("W")  # a loop may begin anywhere
    assert re.fullmatch(r"WFB(SP+A)+", fences[begin:] + fences[:begin])
