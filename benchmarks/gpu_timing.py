"""Times competitors in a process of their own, so that one that crashes or hangs takes none of the others along.

A task is a competitor on a problem. The process sends what it has measured after each; when it breaks down or takes too
long, another begins with the next task.
"""

import gc
import math
import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator
from statistics import median

import torch

from . import gpu_problems
from .gpu_problems import Problem
from .harness import COMPILED

LIMIT = 60.0  # seconds for a task, compilation included
START = 60.0  # more for the first of a process
MOST_ROUNDS, ENOUGH = 12, 1.5  # timed calls of a competitor, or as many as take so many seconds


def tasks(device: str) -> list[tuple[Problem, str]]:
    """What has to be compiled comes last: it takes longer than all the rest together."""
    problems = (gpu_problems.problems if device == "cuda" else gpu_problems.tiny_problems)(device)
    every = [(problem, competitor) for problem in problems for competitor in problem.losses]
    return sorted(every, key=lambda task: task[1] == COMPILED)


def work(device: str, first: int, pipe) -> None:
    """Sends, for each task, what came of it and whether this process can go on."""
    for problem, competitor in tasks(device)[first:]:
        result = attempted(problem, competitor, device)
        usable = device == "cpu" or context_is_usable()
        pipe.send((result, usable))
        if not usable:
            return


def rows(device: str, deadline: float, work: Callable = work) -> Iterator[dict]:
    """One for each task, as soon as it is known; none is measured after the deadline."""
    worker = None
    try:
        for k, (problem, competitor) in enumerate(tasks(device)):
            row = {"problem": problem.name, "competitor": competitor}
            if time.monotonic() >= deadline:
                yield row | {"note": "not run: out of time"}
                continue
            worker = worker or Worker(work, device, k)
            result, usable = worker.next(deadline)
            if not usable:
                worker.stop()
                worker = None
            if "seconds" in result:
                result["rate"] = problem.flops / result["seconds"]
            yield row | result
    finally:
        if worker:
            worker.stop()


class Worker:
    """The process, from a task on."""

    def __init__(self, work: Callable, device: str, first: int):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(device, first, theirs))
        self._process.start()
        theirs.close()
        self._limit = START + LIMIT

    def next(self, deadline: float) -> tuple[dict, bool]:
        """What came of its next task, and whether the process can go on."""
        seconds = max(0.0, min(self._limit, deadline - time.monotonic()))
        self._limit = LIMIT
        try:
            if self._pipe.poll(seconds):
                return self._pipe.recv()
            return {"note": f"stopped after {seconds:.0f} s"}, False
        except (EOFError, OSError):
            self._process.join()
            return {"note": f"crashed: its process ended with code {self._process.exitcode}"}, False

    def stop(self) -> None:
        self._process.kill()
        self._process.join()


def context_is_usable() -> bool:
    """After an illegal access every further call fails, whoever makes it."""
    try:
        torch.cuda.synchronize()
        gc.collect()
        torch.cuda.empty_cache()
        return True
    except RuntimeError:
        return False


def attempted(problem: Problem, competitor: str, device: str) -> dict:
    """Time, peak memory, loss and gradients, or in `note` the reason why not."""
    torch.set_float32_matmul_precision("high" if problem.tf32 else "highest")
    if competitor == COMPILED:
        torch.compiler.reset()
    try:
        return timed(problem.call(competitor), device)
    except torch.OutOfMemoryError:
        return {"note": "out of memory"}
    except Exception as error:
        failed = traceback.extract_tb(error.__traceback__)[-1].line or ""  # where the error itself says nothing
        lines = [*str(error).strip().splitlines(), failed]
        return {"note": f"did not run: {type(error).__name__}: {lines[0][:200]}"}


def timed(call: Callable[[], tuple], device: str) -> dict:
    """The first call, which may compile, is dropped; memory is what the second needs beyond its inputs."""
    seconds_of(call, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    taken, (loss, *gradients) = seconds_of(call, device)
    row = {"memory": torch.cuda.max_memory_allocated() - before} if device == "cuda" else {}
    row["loss"] = loss.item()
    row["gradients"] = math.hypot(*(torch.linalg.vector_norm(g, dtype=torch.float64).item() for g in gradients))
    del loss, gradients
    samples = [taken]
    while len(samples) < MOST_ROUNDS and sum(samples) < ENOUGH:
        samples.append(seconds_of(call, device)[0])
    return row | {"seconds": median(samples), "rounds": len(samples)}


def seconds_of(call: Callable[[], tuple], device: str) -> tuple[float, tuple]:
    """From an idle device to an idle device."""
    if device == "cpu":
        start = time.perf_counter()
        results = call()
        return time.perf_counter() - start, results
    torch.cuda.synchronize()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    results = call()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / 1e3, results
