"""Machine code (SASS) of the kernels, and the fewest instructions with which a loop can do a given work.

Triton's wheel and the CUDA toolkit have the disassembler, cuobjdump.
"""

import heapq
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from ptxsim.toolchain import find_nvcc

MOST_STATES = 200_000  # of a search, which gives up there


def find_cuobjdump() -> str | None:
    places = [Path(nvcc).resolve().parent for nvcc in [find_nvcc()] if nvcc]
    triton = importlib.util.find_spec("triton")
    if triton and triton.submodule_search_locations:
        places += [Path(triton.submodule_search_locations[0]) / "backends/nvidia/bin"]
    found = [str(place / "cuobjdump") for place in places if (place / "cuobjdump").exists()]
    return found[0] if found else shutil.which("cuobjdump")


def disassembled(objects) -> dict[str, list[str]]:
    """kernel → its instructions; the k-th lies at address 16 k."""
    kernels, instructions = {}, []
    for path in objects:
        text = subprocess.run([find_cuobjdump(), "-sass", path], capture_output=True, text=True, check=True).stdout
        for line in text.splitlines():
            if name := re.match(r"\s*Function : (\w+)", line):
                instructions = kernels.setdefault(name[1], [])
            elif instruction := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(\S.*?)\s*;", line):
                instructions.append(instruction[1])
    return kernels


def operation(instruction: str) -> str:
    return re.match(r"(?:@!?U?P\w+\s+)?([\w.]+)", instruction)[1]


def counts(instructions: list[str], names) -> tuple[int, ...]:
    """How many operations begin with each name; one that is switched off is none."""
    operations = [operation(instruction) for instruction in instructions if not instruction.startswith("@!PT")]
    return tuple(sum(op.startswith(name) for op in operations) for name in names)


def successors(code: list[str], k: int) -> list[int]:
    op = operation(code[k])
    conditional = code[k].startswith("@") or op.startswith("BRA.DIV") or bool(re.search(r"BRA\S* !?U?P\d", code[k]))
    falls = [k + 1] if k + 1 < len(code) else []
    if op.startswith("BRA") or (op.startswith("CALL") and conditional):  # such a call only leaves a loop
        return [int(re.search(r"(0x[0-9a-f]+)$", code[k])[1], 16) // 16] + (falls if conditional else [])
    return falls if conditional or not op.startswith(("EXIT", "RET")) else []


class Blocks:
    """Runs of instructions without a branch, by their first: (size, successors, counts of `names`)."""

    def __init__(self, code: list[str], names):
        self.code = code
        self.after = [successors(code, k) for k in range(len(code))]
        branches = [k for k, after in enumerate(self.after) if after != [k + 1]]
        first = sorted({0} | {j for k in branches for j in [k + 1, *self.after[k]] if j < len(code)})
        self.end = dict(zip(first, [*first[1:], len(code)], strict=True))
        self.counts = {k: counts(code[k:end], names) for k, end in self.end.items()}

    def loop_heads(self) -> set[int]:
        return {j for k, after in enumerate(self.after) for j in after if j <= k}


def shortest_turn(code: list[str], work: dict[str, int]) -> list[str]:
    """The fewest instructions of a loop, from its head to its head, that do at least the work: operation → count."""
    blocks = Blocks(code, work)
    turns = [turn for head in blocks.loop_heads() if (turn := _turn(blocks, head, tuple(work.values())))]
    assert turns, f"no loop does {work}"
    return min(turns, key=len)


def shortest_run(code: list[str], work: dict[str, int]) -> list[str]:
    """The same of a whole kernel, from its first instruction to its end."""
    blocks = Blocks(code, work)
    blocks.after = [after or [0] for after in blocks.after]  # as if it began again
    run = _turn(blocks, 0, tuple(work.values()))
    assert run, f"the kernel does not do {work}"
    return run


def _turn(blocks: Blocks, head: int, goal: tuple[int, ...]) -> list[str] | None:
    """Dijkstra's algorithm over (block, work done)."""
    start = (head, tuple(0 for _ in goal))
    queue, before = [(0, start, None)], {}
    while queue and len(before) < MOST_STATES:
        length, state, previous = heapq.heappop(queue)
        if state in before:
            continue
        before[state] = previous
        block, done = state
        if block == head and previous is not None:
            path = []
            while (state := before[state]) is not None:
                path.append(state[0])
            return [line for k in reversed(path) for line in blocks.code[k : blocks.end[k]]]
        done = tuple(min(a + b, most) for a, b, most in zip(done, blocks.counts[block], goal, strict=True))
        for after in blocks.after[blocks.end[block] - 1]:
            if after != head or done == goal:
                heapq.heappush(queue, (length + blocks.end[block] - block, (after, done), (block, state[1])))
    return None
