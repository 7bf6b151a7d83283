"""What kernels ask of a GPU, counted without one. A MODEL: lower bounds from datasheets, no measurement, no prediction.

    python -m benchmarks.cuda_model --out benchmarks/results/cuda_model.json

It needs nvcc; inf-cl, cut-cross-entropy and Liger take part where they and Triton are installed. Each kernel is
compiled and run, instruction by instruction, in tests/ptxsim, on SMALL² and (2 SMALL)² scores, so that what it does for
each score is known without what it does for each row; lanes are counted in the machine code that ptxas makes. The time
that a resource alone would take at its datasheet peak bounds a launch from below; the largest binds. Latency,
dependencies and caches between launches are left out, and all that overlaps badly. To add one of our calls: a line in
`cuda_model_ours.DOT`. What misses its target is named (`cuda_model_targets`).
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from . import cuda_model_gathered, cuda_model_page, cuda_model_peers
from .cuda_model_counts import GPUS, Fused, Growth, counted
from .cuda_model_liger import liger
from .cuda_model_ours import DOT, Simulated, dot_counts, joint_counts, joint_units

SMALL = 256  # queries, and as many candidates: whole tiles of our kernels, so many that no walk is split
JOINT = {1: 128, 2: 64}  # hidden layers: the same of a joint critic
HIDDEN, JOINT_SIZE = 128, 4096


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda_model", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="a .json file for the counts; beside it a .md table and a .png chart")
    widths = {"default": [128, 64, 256], "metavar": "d", "help": "the first in all types and in the chart"}
    parser.add_argument("--widths", type=int, nargs="+", **widths)
    arguments = parser.parse_args()
    device, rows = Simulated(), []
    of_joint, others = list(shown(joint(device))), (cuda_model_gathered.rows(device.dot), joint_units(device))
    for d in arguments.widths:
        rows += [*shown(ours(device, d, None if d == arguments.widths[0] else 1)), *shown(peers(d))]
        if arguments.out:
            write(arguments.out, rows + of_joint, *others)
    print(cuda_model_page.page(rows + of_joint, *others))


def write(path: Path, rows: list[dict], gathered: list[dict], units: dict[str, float]) -> None:
    document = {"note": cuda_model_page.MODEL, "rows": rows, "gathered": gathered, "joint units": units}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(cuda_model_page.page(rows, gathered, units), encoding="utf-8")
    cuda_model_page.draw(rows, path.with_suffix(".png"))


def shown(rows: Iterator[dict]) -> Iterator[dict]:
    for row in rows:
        print(f"{row['kernel']}, {row['dtype']}, {row['width']}, {row['code']}: {row['lanes']:.1f} lanes", flush=True)
        yield row


def row(kernel: str, dtype: str, width: str, architecture: str, counts: dict) -> dict:
    return {"kernel": kernel, "dtype": dtype, "width": width, "code": architecture, **counts}


def ours(device: Simulated, d: int, kinds: int | None) -> Iterator[dict]:
    """Each call in so many of its types."""
    for kernel, (_, types) in DOT.items():
        for kind in list(types)[:kinds]:
            for architecture in GPUS:
                once, twice = (
                    device.launches(dot_counts(device, kernel, kind, n, d, architecture), d, architecture)
                    for n in (SMALL, 2 * SMALL)
                )
                yield row(kernel, kind, f"d = {d}", architecture, counted(Fused(once, twice, SMALL), architecture))


def peers(d: int) -> Iterator[dict]:
    """None where Triton or a package is not installed, and that is said."""
    for architecture in GPUS:
        for name, (calls, dtype, small) in cuda_model_peers.PEERS.items():
            try:
                once, twice = (calls(n, d, architecture) for n in (small, 2 * small))
            except ImportError as error:
                print(f"{name} is left out: {error}")
                continue
            for kernel, launches in once.items():
                growth = Growth(launches, twice[kernel], small)
                yield row(kernel, dtype, f"d = {d}", architecture, counted(growth, architecture))
        try:
            yield row("Liger, forward and gradients", "bfloat16", f"d = {d}", architecture, liger(d, architecture))
        except ImportError as error:
            print(f"Liger is left out: {error}")


def joint(device: Simulated) -> Iterator[dict]:
    for layers, small in JOINT.items():
        once, twice = (joint_counts(device, layers, n, HIDDEN) for n in (small, 2 * small))
        kernel = f"mi_ext joint critic, {layers} hidden layer{'s' * (layers > 1)}, forward and gradients"
        for architecture in GPUS:
            growth = Fused(*(device.launches(counts, HIDDEN, architecture) for counts in (once, twice)), small)
            yield row(kernel, "float32", f"h = {HIDDEN}", architecture, counted(growth, architecture, JOINT_SIZE))


if __name__ == "__main__":
    main()
