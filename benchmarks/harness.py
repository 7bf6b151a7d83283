"""How competitors are timed: interleaved, in one process, beside the peak of the machine at that moment.

A case is one problem; `build(n, m, d)` makes its inputs and returns its competitors, name → a call without arguments.
Every round calls each competitor once, so that a slow minute of the machine is a slow minute for all. The first round
is dropped; a competitor slower than SLOW seconds is measured in one further round only. Medians over rounds.

A row of results is a plain dict with those of `report.COLUMNS` that apply.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import torch

from mi_ext import _C

from . import peak_memory

OURS = "mi_ext"
COMPILED = "torch.compile"
SLOW = 2.0
FEWEST_ROUNDS, MOST_ROUNDS = 3, 40
PEAK_STEPS = 1_000_000  # about 10 ms


@dataclass(frozen=True)
class Effort:
    """`seconds` of rounds for a case, at least; whether torch.compile, memory and targets take part."""

    name: str
    seconds: float
    compiled: bool
    memory: bool
    targets: bool


EFFORTS = {
    "full": Effort("full", 4, compiled=True, memory=True, targets=True),
    "quick": Effort("quick", 0.5, compiled=False, memory=False, targets=True),
    "tiny": Effort("tiny", 0, compiled=False, memory=False, targets=False),
}


@dataclass(frozen=True)
class Target:
    """What a column of a row shall be at least, or at most."""

    column: str
    limit: float
    at_least: bool = True

    def judge(self, row: dict) -> dict:
        value = row.get(self.column)
        met = None if value is None else value >= self.limit if self.at_least else value <= self.limit
        return {"target": {"column": self.column, "limit": self.limit, "at_least": self.at_least}, "met": met}


@dataclass(frozen=True)
class Case:
    """`flops`: the useful ones of a call. `yardstick`: the competitor that the time of mi_ext is also a multiple of."""

    name: str
    shape: tuple[int, int, int]
    build: Callable[[int, int, int], dict[str, Callable]]
    flops: float | None = None
    targets: dict[str, Target] = field(default_factory=dict)
    yardstick: str | None = None
    memory: bool = False

    def competitors(self, effort: Effort) -> dict[str, Callable]:
        return {k: call for k, call in self.build(*self.shape).items() if effort.compiled or k != COMPILED}


def rows(family: str, cases: list[Case], effort: Effort) -> list[dict]:
    """Time, and memory where the case asks for it, of every competitor of every case."""
    found = []
    for case in cases:
        print(f"  {case.name}", flush=True)
        for row in timed_rows(case, effort):
            if case.memory and effort.memory and "note" not in row:
                row["memory"] = peak_memory.measured(family, case.name, row["competitor"], effort)
            found.append(judged(family, case, row, effort))
    return found


def judged(family: str, case: Case, row: dict, effort: Effort) -> dict:
    target = case.targets.get(row["competitor"]) if effort.targets else None
    return {"family": family, "problem": case.name, **row, **(target.judge(row) if target else {})}


def timed_rows(case: Case, effort: Effort) -> list[dict]:
    if effort.compiled:
        torch.compiler.reset()  # or the shapes of earlier cases count as recompilations, and end in eager mode
    competitors = case.competitors(effort)
    notes = warm_up(competitors)
    samples = interleaved({name: call for name, call in competitors.items() if name not in notes}, effort.seconds)
    medians = {name: median(seconds for seconds, _ in taken) for name, taken in samples.items()}
    found = [{"competitor": name, "note": note} for name, note in notes.items()]
    for name, taken in samples.items():
        row = {"competitor": name, "seconds": medians[name], "rounds": len(taken)}
        row["ratio"] = medians[name] / medians[OURS]
        if case.flops is not None and name != case.yardstick:  # whose flops are others
            row["rate"] = case.flops / medians[name]
            row["peak_share"] = median(case.flops / (seconds * peak) for seconds, peak in taken)
        if name == OURS and case.yardstick is not None:
            row["yardstick_ratio"] = medians[OURS] / medians[case.yardstick]
        found.append(row)
    return found


def warm_up(competitors: dict[str, Callable]) -> dict[str, str]:
    """The round that is dropped. Name → reason of those that cannot run here: no compiler, not enough memory."""
    notes = {}
    for name, call in competitors.items():
        try:
            call()
        except Exception as error:
            if name == OURS:
                raise
            notes[name] = f"did not run: {type(error).__name__}"
    return notes


def interleaved(competitors: dict[str, Callable], budget: float) -> dict[str, list[tuple[float, float]]]:
    """Name → (seconds, flop/s of the machine around the call), until `budget` seconds and FEWEST_ROUNDS are over."""
    samples = {name: [] for name in competitors}
    start = time.perf_counter()
    peak_before = peak_flops()
    for done in range(MOST_ROUNDS):
        if done >= FEWEST_ROUNDS and time.perf_counter() - start > budget:
            break
        for name, call in competitors.items():
            if samples[name] and samples[name][-1][0] > SLOW:
                continue
            call_start = time.perf_counter()
            call()
            seconds = time.perf_counter() - call_start
            peak_after = peak_flops()
            samples[name].append((seconds, (peak_before + peak_after) / 2))
            peak_before = peak_after
    return samples


def peak_flops() -> float:
    return _C.peak_flops(torch.get_num_threads(), PEAK_STEPS)
