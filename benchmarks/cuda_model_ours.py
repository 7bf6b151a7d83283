"""The calls of mi_ext's CUDA kernels that cuda_model counts. To add one: a function and a line in DOT."""

import re
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from .cuda_model_counts import WARP, Launch, machine_code

from compiled import Build, built  # isort: skip  (found by the line above)
from importance_walks import ImportanceWalks
from joint_walks import JointWalks
from ranking_walks import RankingWalks
from walks import Walks

NOTHING = torch.empty(0, dtype=torch.float64)
SHIPPED = {"sm_80": "sm_80", "sm_90": "sm_90a"}  # what the library is compiled for
CAPABILITY = {"sm_80": 80, "sm_90": 90}
# name: (dtype, whether one product of TF32 serves float32)
TYPES = {"bfloat16": (torch.bfloat16, False), "tf32": (torch.float32, True), "float32": (torch.float32, False)}


class Simulated:
    """The launchers on a simulated device."""

    def __init__(self):
        self.build: Build = built()
        self.dot = Walks(self.build)
        self.importance, self.ranking = ImportanceWalks(self.dot), RankingWalks(self.dot)
        self.joint = JointWalks(self.dot)

    def launches(self, counts: list, d: int, architecture: str) -> list[Launch]:
        """With the machine code for an architecture."""
        scores = [scores_of_a_warp(stats.kernel, d) for stats in counts]
        code = [self.code(stats.kernel, architecture) if s else [] for stats, s in zip(counts, scores, strict=True)]
        return list(map(Launch, counts, code, scores))

    @cache  # noqa: B019  (one for the whole run)
    def code(self, kernel: str, architecture: str) -> list[str]:
        ptx = next(path for path in self.build.ptx if f".entry {kernel}(" in path.read_text())
        return machine_code(ptx, kernel, SHIPPED[architecture])


def scores_of_a_warp(kernel: str, d: int) -> int | None:
    """The pairs of its tile, which the name of a 16-bit kernel tells: csrc/cuda/traits.cuh. Two query sets have two
    scores for each; blocks that accumulate some of the features compute every score again for the others. Float32
    kernels choose between one product and three as they run: the shortest way is another."""
    if "warpgroup_forward" in kernel or "warpgroup_two_sided" in kernel:
        return 32 * 64
    if "DeepWarpgroupGradient" in kernel:
        return 16 * 64
    if "warpgroup_gradient" in kernel:
        return 16 * 8 * int(re.search(r"TilingI\w+?(?:bfloat16|half)Li(\d+)E", kernel)[1])
    tiling = re.search(r"Tiling\w+?(?:bfloat16|half)Li(\d+)ELi(\d+)ELi\d+ELi\d+ELi(\d+)E", kernel)
    if tiling is None or not re.search("pairwise|ranking_walk|importance_", kernel):
        return None
    row_blocks, column_blocks, value_chunks = map(int, tiling.groups())
    again = -(-d // (64 * value_chunks)) if value_chunks else 1
    return 16 * row_blocks * 8 * column_blocks // again // (2 if "importance_" in kernel else 1)


class Sides:
    """Unit rows, their positives on the diagonal, and the arguments that most launchers begin with."""

    def __init__(self, n: int, d: int, dtype: torch.dtype):
        generator = torch.Generator().manual_seed(0)
        self.n = n
        self.x, self.y = (F.normalize(torch.randn(n, d, generator=generator), dim=1).to(dtype) for _ in range(2))
        self.scale, self.target = torch.tensor(14.0, dtype=torch.float64), torch.arange(n)

    @property
    def arguments(self) -> tuple:
        return self.x, self.y, self.scale, self.target, None, None, None

    def full(self, value: float) -> Tensor:
        return torch.full((self.n,), value, dtype=torch.float64)


# Each makes the launches of a call.


def forward(on: Simulated, p: Sides):
    on.dot.dot_statistics(*p.arguments, False)


def info_nce(on: Simulated, p: Sides):
    on.dot.dot_fused(*p.arguments, None, 0.0, 0.0, False, True)


def clip_forward(on: Simulated, p: Sides):
    on.dot.dot_statistics(*p.arguments, True)


def clip_gradient(on: Simulated, p: Sides):
    upstream = p.full(8.0), p.full(8.0), NOTHING, p.full(1.0), p.full(1.0)
    on.dot.dot_gradient(*p.arguments, NOTHING, *upstream, True)


def ranks(on: Simulated, p: Sides):
    on.ranking.dot_ranking(*p.arguments, None)


def two_query_sets(on: Simulated, p: Sides):
    sides = p.x, p.x.flip(0), p.y, p.scale, p.scale, p.target, None, None, None
    on.importance.importance_fused(*sides, None, None, p.full(5.0), 0.5, 0.5, 0.5, True, True)


# kernel: calls, whose launches are counted together, and types
DOT = {
    "mi_ext InfoNCE, forward": ([forward], TYPES),
    "mi_ext InfoNCE, forward and gradients": ([info_nce], TYPES),
    "mi_ext CLIP, forward": ([clip_forward], ["bfloat16"]),
    "mi_ext CLIP, forward and gradients": ([clip_forward, clip_gradient], ["bfloat16"]),
    "mi_ext ranks and entropies": ([ranks], ["bfloat16"]),
    "mi_ext two query sets, forward and gradients": ([two_query_sets], ["bfloat16"]),
}


def dot_counts(on: Simulated, kernel: str, kind: str, n: int, d: int, architecture: str) -> list:
    """Of each launch of a call, on n × n scores, by the kernels that are chosen for a GPU."""
    dtype, on.dot.tf32 = TYPES[kind]
    on.dot.capability = CAPABILITY[architecture]
    sides, found = Sides(n, d, dtype), []
    for call in DOT[kernel][0]:
        call(on, sides)
        found += on.dot.launches
    return found


def joint_counts(on: Simulated, layers: int, n: int, h: int) -> list:
    """InfoNCE of a network on every pair, with the gradients of all its parameters; float32."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / h**0.5

    inner = (random(h, h), random(h)) if layers == 2 else (None, None)
    exclusions = torch.arange(n), None, None, None
    on.joint.joint_fused(random(n, h), random(n, h), *inner, random(h), *exclusions, 0.0, 0.0, False)
    return on.dot.launches


def joint_units(on: Simulated) -> dict[str, float]:
    """Walk → instructions of PTX for a hidden unit and pair, one hidden layer: those of further units, or pairs."""
    grown = {
        "scores": ("one_layer_scores", (128, 64, 32), (128, 64, 96)),
        "gradient of U": ("one_layer_sumsIfLb1", (64, 64, 64), (64, 192, 64)),
        "gradient of V": ("one_layer_sumsIfLb0", (64, 64, 64), (192, 64, 64)),
    }
    return {
        walk: WARP * (joint_instructions(on, kernel, large) - joint_instructions(on, kernel, small)) / (128 * 64 * 64)
        for walk, (kernel, small, large) in grown.items()
    }


def joint_instructions(on: Simulated, kernel: str, shape: tuple[int, int, int]) -> int:
    n, m, h = shape
    a, b, last = torch.ones(n, h), torch.ones(m, h), torch.ones(h)
    if "scores" in kernel:
        on.joint.joint_matrix(a, b, None, None, last)
    else:
        on.joint.joint_matrix_gradient(a, b, None, None, last, torch.ones(n, m))
    return sum(stats.warp_instructions for stats in on.dot.launches if kernel in stats.kernel)
