"""What a call asks of a GPU for each score, and the time that each resource alone would need; for cuda_model.

A call is a list of launches, made at two sizes: of f = a n² + b n, f(2n) − 2 f(n) is 2 a n², and 4 f(n) − f(2n) 2 b n.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("tests", "tests/cuda")]

from machine_code import counts, disassembled, shortest_run, shortest_turn  # noqa: E402
from ptxsim.counters import SPECS  # noqa: E402
from ptxsim.toolchain import find_nvcc  # noqa: E402

SIZE = 32768  # queries and candidates that the bounds are for
GPUS = {"sm_80": ("A100-80GB",), "sm_90": ("H100", "H200")}
RESOURCES = ("tensor", "exp2", "fp32", "shared", "issue", "DRAM")
FP32_LANES = {"A100-80GB": 64, "H100": 128, "H200": 128}  # additions, products or both, of a multiprocessor and clock
WARP = 32
SCHEDULERS = 4  # of a multiprocessor; each issues to a warp every clock
# machine instruction: the PTX that it is
PRODUCTS = {"HMMA": r"mma\.", "HGMMA": r"wgmma\.mma"}
LOADS = {"LDSM": r"ldmatrix\.", "LDGSTS": r"cp\.async\.cg", "LDS.128": r"ld\.shared\.v4"}
EXPONENTIALS = r"ex2\."
FP32 = r"(fma|add|sub|mul)\.(rn\.)?(ftz\.)?f32"


@dataclass(frozen=True)
class Launch:
    """Counts of a launch, and its machine code. `scores`: those of a warp in a turn of the main loop, or, where no loop
    goes over tiles, of a warp in all (`whole`); None: not known, so that the machine code is not counted."""

    stats: object
    code: list[str]
    scores: int | None = None
    whole: bool = False

    def opcodes(self, pattern: str) -> int:
        return sum(count for name, count in self.stats.opcodes.items() if re.match(pattern, name))


@dataclass(frozen=True)
class Growth:
    """The quadratic and the linear part of a count over launches, from those on n² and on (2n)² scores."""

    once: list[Launch]
    twice: list[Launch]
    n: int

    def each(self, count: Callable[[Launch], float]) -> float:
        return (sum(map(count, self.twice)) - 2 * sum(map(count, self.once))) / (2 * self.n**2)

    def at_size(self, count: Callable[[Launch], float], size: int) -> float:
        """For size² scores."""
        linear = (4 * sum(map(count, self.once)) - sum(map(count, self.twice))) / (2 * self.n)
        return self.each(count) * size**2 + linear * size

    @property
    def conflicts(self) -> float:
        """How many times the wavefronts that there would be without."""
        accesses = sum(launch.stats.shared_accesses for launch in self.twice)
        return sum(launch.stats.shared_wavefronts for launch in self.twice) / max(1, accesses)

    def launches(self) -> Iterator["Growth"]:
        for pair in zip(self.once, self.twice, strict=True):
            yield type(self)(*([launch] for launch in pair), self.n)


class Fused(Growth):
    """Of launches that keep no matrix but blocks that fit into a cache: their memory grows with rows, and without
    products or other arithmetic in float32 so does their work. Parts of the sums of CLIP's columns grow faster up to
    n = 2048: those of 2n are counted, which bounds them from below."""

    def each(self, count: Callable[[Launch], float]) -> float:
        computes = any(launch.stats.mma_flops or launch.opcodes(FP32) for launch in self.twice)
        return super().each(count) if computes else 0.0

    def at_size(self, count: Callable[[Launch], float], size: int) -> float:
        return sum(map(count, self.twice)) * size / (2 * self.n)


def counted(growth: Growth, architecture: str, size: int = SIZE) -> dict:
    return summed([work(launch, size) for launch in growth.launches()], growth.conflicts, architecture, size)


def summed(parts: list[dict], conflicts: float, architecture: str, size: int = SIZE) -> dict:
    """Of all launches of a call together, for one score; DRAM, and the bounds, for size² scores. `least`: GPU → µs that
    the launches take one after the other, each bounded by its own resource, and the resource that bounds most of it."""
    row = {name: sum(part[name] for part in parts) for name in parts[0] if name not in ("flops", "lanes of")}
    row |= {"size": size, "lanes of": " + ".join(sorted({part["lanes of"] for part in parts} - {""}, reverse=True))}
    each = {gpu: [bounds(part, gpu, size**2) for part in parts] for gpu in GPUS[architecture]}
    row["bounds"] = {gpu: {name: sum(b[name] for b in found) for name in RESOURCES} for gpu, found in each.items()}
    return row | {"conflicts": conflicts, "least": {gpu: least(found) for gpu, found in each.items()}}


def work(growth: Growth, size: int) -> dict:
    """Of one launch."""
    each = growth.each
    kinds = {kind for launch in growth.twice for kind in launch.stats.mma_flops}
    flops = {kind: each(lambda x, kind=kind: x.stats.mma_flops[kind]) for kind in kinds}
    lanes, source = lanes_of(growth)
    return {
        "flop": sum(flops.values()),
        "flops": flops,
        "exp2": each(lambda x: x.stats.mufu),
        "fp32": each(lambda x: WARP * x.opcodes(FP32)),
        "lanes": lanes,
        "lanes of": source,
        "waves": each(lambda x: x.stats.shared_wavefronts),
        "L2 bytes": each(lambda x: 32 * (x.stats.global_load_sectors + x.stats.global_store_sectors)),
        "DRAM bytes": growth.at_size(lambda x: x.stats.dram_read_bytes + x.stats.dram_write_bytes, size),
    }


def bounds(part: dict, gpu: str, scores: int) -> dict[str, float]:
    """Resource → µs of a launch."""
    spec = SPECS[gpu]
    clocks = spec["sms"] * spec["clock"]
    each = {
        "tensor": sum(count / spec["tensor"][kind] for kind, count in part["flops"].items()),
        "exp2": part["exp2"] / (clocks * spec["mufu"]),
        "fp32": part["fp32"] / (clocks * FP32_LANES[gpu]),
        "shared": part["waves"] * 128 / (clocks * spec["smem"]),
        "issue": part["lanes"] / (clocks * WARP * SCHEDULERS),
    }
    return {name: 1e6 * scores * value for name, value in each.items()} | {
        "DRAM": 1e6 * part["DRAM bytes"] / spec["dram"]
    }


def least(launches: list[dict[str, float]]) -> tuple[float, str]:
    """`launches`: the bounds of each."""
    binding = [max(each, key=each.get) for each in launches]
    times = {
        name: sum(b[name] for b, most in zip(launches, binding, strict=True) if most == name) for name in RESOURCES
    }
    return sum(times.values()), max(times, key=times.get)


def lanes_of(launch: Growth) -> tuple[float, str]:
    """Warp instructions · 32 for a score; of machine code (SASS) in the main loop, or where that is not found of PTX
    without copies of registers."""
    in_ptx = launch.each(lambda x: WARP * (x.stats.warp_instructions - x.stats.instructions["move"]))
    if in_ptx <= 0.01:  # rows, not scores
        return 0.0, ""
    in_code = machine_lanes(launch)
    return (in_ptx, "PTX") if in_code is None else (in_code, "SASS")


def machine_lanes(growth: Growth) -> float | None:
    """Of the shortest way through the machine code that multiplies, exponentiates and loads what the PTX does, loads of
    some warps alone too; None where that way does more, for then it is another."""
    (launch,) = growth.twice
    if launch.scores is None:
        return None

    def of_a_warp(pattern: str) -> float:
        return growth.each(lambda x: x.opcodes(pattern)) * launch.scores

    products = {sass: round(of_a_warp(ptx)) for sass, ptx in PRODUCTS.items()}
    a_score = launch.scores // WARP  # instructions of a warp
    work = products | {"MUFU.EX2": int(of_a_warp(EXPONENTIALS) / a_score + 0.01) * a_score}  # a new reference is rare
    work |= {sass: ceil(of_a_warp(ptx) - 0.01) for sass, ptx in LOADS.items()}
    work = {sass: count for sass, count in work.items() if count}
    try:
        way = (shortest_run if launch.whole else shortest_turn)(launch.code, work)
    except AssertionError:
        return None
    return WARP * len(way) / launch.scores if counts(way, products) == tuple(products.values()) else None


def machine_code(ptx: Path, kernel: str, architecture: str) -> list[str]:
    """What ptxas makes of one kernel of a file, for an architecture that the file may be older than."""
    text = re.sub(r"^\s*(\.loc|\.file)\b.*$", "", ptx.read_text(), flags=re.MULTILINE)
    head = text[: re.search(r"^\.visible \.entry", text, re.MULTILINE).start()]
    entry = re.search(
        rf"^\.visible \.entry {kernel}\(.*?^}}$(?=\s*(?:\.visible|\.section|\Z))", text, re.MULTILINE | re.DOTALL
    )[0]
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(head + entry + "\n")
        ptxas = Path(find_nvcc()).resolve().with_name("ptxas")
        subprocess.run([ptxas, f"-arch={architecture}", "-o", cubin, source], check=True)
        return disassembled([cubin])[kernel]
