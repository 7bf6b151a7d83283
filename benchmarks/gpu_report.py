"""Everything that needs a GPU, in one command of less than 10 minutes: tests, times against others, peak memory.

    python -m benchmarks.gpu_report                  on the GPU; writes benchmarks/results/<gpu>-<date>.md and .json
    python -m benchmarks.gpu_report --device cpu     the same on the CPU with tiny problems: that everything runs

It needs no network and nothing beyond torch 2.11, pytest and this repository; inf-cl, cut-cross-entropy and KeOps take
part where they are installed.
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

from mi_ext import _C

from . import gpu_problems
from .gpu_problems import Problem
from .harness import COMPILED

ROOT = Path(__file__).parents[1]
MIB = 1 << 20
ROUNDS, SLOW = 7, 2.0  # a call slower than SLOW seconds is made once
TESTS = [
    *(f"tests/test_gpu{part}.py" for part in ("", "_gathered", "_ranking")),
    "tests/test_ops_oracle.py",
    "tests/test_ops_edges.py",
]
# heading: (key of a row, text of its value)
COLUMNS = {
    "competitor": ("competitor", str),
    "time": ("seconds", lambda v: f"{1e3 * v:.3g} ms"),
    "time / mi_ext": ("ratio", lambda v: f"{v:.2f}×"),
    "useful TFLOP/s": ("rate", lambda v: f"{v / 1e12:.3g}"),
    "peak memory": ("memory", lambda v: f"{v / MIB:.0f} MiB"),
    "loss": ("loss", lambda v: f"{v:.6g}"),
    "note": ("note", str),
}


def main() -> None:
    arguments = parse()
    on_gpu = arguments.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        sys.exit("gpu_report: torch finds no GPU here; --device cpu runs everything on the CPU with tiny problems")
    deadline = time.monotonic() + 60 * arguments.minutes
    left_out = {"code": 0, "summary": "left out", "failures": []}
    tests = left_out if arguments.no_tests else run_tests(arguments.device, 60 * arguments.minutes / 2)
    rows = []
    for problem in (gpu_problems.problems if on_gpu else gpu_problems.tiny_problems)(arguments.device):
        rows += measured(problem, arguments.device, deadline)
    machine = describe_machine(arguments.device)
    arguments.out.mkdir(parents=True, exist_ok=True)
    stem = arguments.out / f"{machine['device'].lower().replace(' ', '-')}-{machine['date']}"
    document = {"machine": machine, "tests": tests, "absent": gpu_problems.absent_peers(), "rows": rows}
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(page(**document), encoding="utf-8")
    print(f"wrote {stem}.md and .json")
    sys.exit(tests["code"])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_report", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=9, help="no measurement begins after these")
    parser.add_argument("--no-tests", action="store_true", help="measure only")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results", help="folder for .md and .json")
    return parser.parse_args()


def run_tests(device: str, seconds: float) -> dict:
    """Those of the operators that are marked with the device's name; on the CPU one of them for each operator."""
    chosen = "cuda or gpu" if device == "cuda" else "side_inputs"
    command = [sys.executable, "-m", "pytest", "-q", "-x" if device == "cpu" else "--maxfail=50", "-k", chosen, *TESTS]
    print(" ".join(command), flush=True)
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"code": 1, "summary": f"not done after {seconds:.0f} s", "failures": []}
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines()
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    print("\n".join([*failures, lines[-1]]), flush=True)
    return {"code": done.returncode, "summary": lines[-1], "failures": failures}


def measured(problem: Problem, device: str, deadline: float) -> list[dict]:
    print(problem.name, flush=True)
    if COMPILED in problem.losses:
        torch.compiler.reset()
    rows = []
    for competitor in problem.losses:
        row = {"problem": problem.name, "competitor": competitor}
        if time.monotonic() > deadline:
            row["note"] = "not run: out of time"
        else:
            row |= attempted(problem, competitor, device)
        rows.append(row)
        print(f"  {competitor}: {cell('note', row) or cell('time', row)}", flush=True)
    ours = rows[0].get("seconds")
    for row in rows:
        if "seconds" in row:
            row["rate"] = problem.flops / row["seconds"]
            row |= {"ratio": row["seconds"] / ours} if ours else {}
    return rows


def attempted(problem: Problem, competitor: str, device: str) -> dict:
    """Time, peak memory and loss, or in `note` the reason why not; the failure of one stops no other."""
    try:
        return timed(problem.call(competitor), device)
    except torch.OutOfMemoryError:
        return {"note": "out of memory"}
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return {"note": f"did not run: {type(error).__name__}: {lines[0][:200]}"}
    finally:
        if device == "cuda":
            torch.cuda.empty_cache()


def timed(call, device: str) -> dict:
    """The first call, which may compile, is dropped; memory is what the second needs beyond its inputs."""
    seconds_of(call, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    taken, results = seconds_of(call, device)
    row = {"loss": results[0].item()}
    if device == "cuda":
        row["memory"] = torch.cuda.max_memory_allocated() - before
    del results
    samples = [taken] + [seconds_of(call, device)[0] for _ in range(ROUNDS if taken < SLOW else 0)]
    return row | {"seconds": median(samples), "rounds": len(samples)}


def seconds_of(call, device: str) -> tuple[float, tuple]:
    if device == "cpu":
        start = time.perf_counter()
        results = call()
        return time.perf_counter() - start, results
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    results = call()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / 1e3, results


def describe_machine(device: str) -> dict:
    build = _C.build_info()
    machine = {"device": "CPU", "date": datetime.date.today().isoformat(), "torch": torch.__version__}
    machine |= {"python": platform.python_version(), "mi_ext": build["version"], "cuda": build["cuda"]}
    if device == "cpu":
        return machine | {"isa": _C.isa()}
    properties = torch.cuda.get_device_properties(0)
    machine |= {"device": properties.name, "multiprocessors": properties.multi_processor_count}
    machine |= {"capability": f"{properties.major}.{properties.minor}", "memory": properties.total_memory}
    return machine | {"archs": build["cuda_archs"], "tf32": torch.backends.cuda.matmul.fp32_precision == "tf32"}


def page(machine: dict, tests: dict, absent: list[str], rows: list[dict]) -> str:
    lines = [f"# mi_ext on {machine['device']}", ""]
    lines += [", ".join(f"{key} {value}" for key, value in machine.items() if key != "device"), ""]
    lines += ["Medians; forward and backward; memory beyond the inputs, results included."]
    lines += [f"Not installed, so not compared: {', '.join(absent)}."] if absent else []
    lines += ["", "## Tests", "", tests["summary"], "", *(f"- {line}" for line in tests["failures"])]
    for name in dict.fromkeys(row["problem"] for row in rows):
        lines += ["", f"## {name}", "", *table([row for row in rows if row["problem"] == name])]
    return "\n".join(lines) + "\n"


def table(rows: list[dict]) -> list[str]:
    cells = [[cell(name, row) for name in COLUMNS] for row in rows]
    return [line(COLUMNS), line("---" for _ in COLUMNS), *map(line, cells)]


def line(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def cell(heading: str, row: dict) -> str:
    key, text = COLUMNS[heading]
    return text(row[key]).replace("|", "/") if key in row else ""


if __name__ == "__main__":
    main()
