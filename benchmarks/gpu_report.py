"""Everything that needs a GPU, in one command of less than 10 minutes: tests, times against others, peak memory.

    python -m benchmarks.gpu_report                  on the GPU; writes benchmarks/results/<gpu>-<date>.md and .json
    python -m benchmarks.gpu_report --device cpu     a trial on the CPU with tiny problems, into build/gpu_trial

It needs no network and nothing beyond torch 2.11, pytest and this repository; inf-cl, cut-cross-entropy, Liger and
KeOps take part where they are installed. Tests get half of the time at most, and what is being measured when the time
is over is stopped. Both files are written anew after every measurement: whatever ends the run, the rest is there.
"""

import argparse
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from mi_ext import _C

from . import gpu_problems, gpu_timing
from .harness import OURS

ROOT = Path(__file__).parents[1]
MIB = 1 << 20
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
    "‖gradients‖": ("gradients", lambda v: f"{v:.4g}"),
    "note": ("note", str),
}


def main() -> None:
    arguments = parse()
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu_report: torch finds no GPU here; --device cpu runs everything on the CPU with tiny problems")
    seconds = 60 * arguments.minutes
    deadline = time.monotonic() + seconds
    left_out = {"code": 0, "summary": "left out", "failures": []}
    tests = left_out if arguments.no_tests else run_tests(device, seconds / 2)
    document = {"machine": describe_machine(device), "tests": tests, "absent": gpu_problems.absent_peers(), "rows": []}
    stem = write(arguments.out, document)
    for row in gpu_timing.rows(device, deadline):
        document["rows"].append(row)
        print(f"{row['problem']}: {row['competitor']}: {cell('note', row) or cell('time', row)}", flush=True)
        write(arguments.out, document)
    print(f"wrote {stem}.md and .json")
    sys.exit(tests["code"])


def write(folder: Path, document: dict) -> Path:
    """The path of both files, without suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = document["machine"]
    stem = folder / f"{machine['device'].lower().replace(' ', '-')}-{machine['date']}"
    document = document | {"rows": with_ratios(document["rows"])}
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(page(**document), encoding="utf-8")
    return stem


def with_ratios(rows: list[dict]) -> list[dict]:
    ours = {row["problem"]: row["seconds"] for row in rows if row["competitor"] == OURS and "seconds" in row}
    comparable = {id(row) for row in rows if "seconds" in row and row["problem"] in ours}
    return [row | {"ratio": row["seconds"] / ours[row["problem"]]} if id(row) in comparable else row for row in rows]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_report", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=9, help="when they are over, what runs is stopped")
    parser.add_argument("--no-tests", action="store_true", help="measure only")
    parser.add_argument("--out", type=Path, help="folder for .md and .json")
    arguments = parser.parse_args()
    arguments.out = arguments.out or ROOT / ("benchmarks/results" if arguments.device == "cuda" else "build/gpu_trial")
    return arguments


def run_tests(device: str, seconds: float) -> dict:
    """Those of the operators that are marked with the device's name; on the CPU one of them for each operator."""
    chosen = "cuda or gpu" if device == "cuda" else "side_inputs"
    command = [sys.executable, "-m", "pytest", "-q", "--maxfail=50", "-k", chosen, *TESTS]
    print(" ".join(command), flush=True)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **streams)
    try:
        output, _ = process.communicate(timeout=seconds)
        code, ending = process.returncode, []
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with its children, or they would keep the pipe open
        output, _ = process.communicate()
        code, ending = 1, [f"stopped after {seconds:.0f} s; failures are counted and named at the end only"]
    lines = [*output.strip().splitlines(), *ending] or [f"no output, code {code}"]
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    print("\n".join([*failures, lines[-1]]), flush=True)
    return {"code": code, "summary": lines[-1], "failures": failures}


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
    if machine["device"] == "CPU":
        lines += ["**A trial with tiny problems: that everything runs. Its times say nothing about a GPU.**", ""]
    lines += [", ".join(f"{key} {value}" for key, value in machine.items() if key != "device"), ""]
    lines += ["Medians; forward and backward; memory of torch's allocator beyond the inputs, results included."]
    lines += [
        "Competitors whose loss and norm of all gradients differ do not compute the same: cut-cross-entropy leaves"
    ]
    lines += ['small gradients out unless told not to (`filter_eps=None`, here "exact"), inf-cl multiplies in TF32.']
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
