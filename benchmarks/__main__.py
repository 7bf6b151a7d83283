"""Run families of benchmarks and write the results: python -m benchmarks --help."""

import argparse
import importlib
from pathlib import Path

from . import harness, report

FAMILIES = (
    "in_batch",
    "forward_only",
    "small",
    "clip_and_pairs",
    "importance",
    "bank",
    "gathered",
    "joint",
    "dropins",
    "sixteen_bit",
    "memory",
    "accuracy",
)


def main() -> None:
    arguments = parse()
    effort = harness.EFFORTS[arguments.effort]
    rows, titles = [], {}
    for family in arguments.family:
        module = importlib.import_module(f".{family}", __package__)
        titles[family] = module.__doc__.strip()
        print(f"\n{family}: {titles[family].splitlines()[0]}", flush=True)
        family_rows = module.rows(effort)
        print("\n" + report.table(family_rows), flush=True)
        rows += family_rows
    machine = report.machine()
    parts = [] if len(arguments.family) == len(FAMILIES) else list(arguments.family)
    stem = "-".join([report.slug(machine), machine["date"], *parts, *([] if effort.name == "full" else [effort.name])])
    for path in report.write(arguments.out / stem, machine, effort, titles, rows):
        print(f"wrote {path}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--family", type=families, default=FAMILIES, help="comma-separated, of: " + ", ".join(FAMILIES))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for .md, .json and .png")
    effort = parser.add_mutually_exclusive_group()
    for name, text in (("quick", "a check within a minute"), ("tiny", "seconds: that everything runs, for the tests")):
        effort.add_argument(f"--{name}", dest="effort", action="store_const", const=name, default="full", help=text)
    return parser.parse_args()


def families(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in FAMILIES]
    if unknown:
        known = ", ".join(FAMILIES)
        raise argparse.ArgumentTypeError(f"unknown family {', '.join(unknown)}; expected names of {known}")
    return names


if __name__ == "__main__":
    main()
