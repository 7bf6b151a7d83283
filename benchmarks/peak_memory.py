"""Peak extra memory of one call, in a process of its own.

    python -m benchmarks.peak_memory family case competitor effort

The process warms up on a small problem, sets its high-water mark (VmHWM) back to what it has now, and makes one call.
What is counted is everything beyond the inputs: gradients, intermediate results, scratch memory. Where compilation
depends on the shape, the warm-up is on the problem itself. Linux only; elsewhere memory is not measured.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path

SMALL = 64  # queries and candidates of the warm-up
MIB = 1 << 20
_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def measured(family: str, case: str, competitor: str, effort) -> float | None:
    """Bytes, or None where they cannot be measured."""
    if not _RESET.exists():
        return None
    command = [sys.executable, "-m", __name__, family, case, competitor, effort.name]
    # Freed blocks of 64 KiB and more go back to the system at once: what an earlier call left is not reused unseen.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    root = Path(__file__).parents[1]
    child = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if child.returncode != 0:
        print(f"  memory of {competitor}, {case}: not measured\n{child.stderr[-500:]}", flush=True)
        return None
    return float(child.stdout.split()[-1])


def main(family: str, case_name: str, competitor: str, effort_name: str) -> None:
    from . import harness

    effort = harness.EFFORTS[effort_name]
    cases = importlib.import_module(f".{family}", __package__).cases(effort)
    case = next(case for case in cases if case.name == case_name)
    n, m, d = case.shape
    call = case.build(n, m, d)[competitor]
    (call if competitor == harness.COMPILED else case.build(min(n, SMALL), min(m, SMALL), d)[competitor])()
    _RESET.write_text("5")
    before = _kibibytes("VmHWM")
    kept = call()
    print((_kibibytes("VmHWM") - before) * 1024)
    del kept


def _kibibytes(key: str) -> int:
    return next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(key + ":"))


if __name__ == "__main__":
    main(*sys.argv[1:])
