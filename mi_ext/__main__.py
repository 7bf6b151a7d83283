"""The command line: mutual information of the columns of a file, or of two files."""

import csv
import sys
import zipfile
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import numpy as np

from .estimate import MutualInformationEstimator

try:
    import typer
except ImportError:
    sys.exit("python -m mi_ext needs typer: pip install 'mi_ext[train]'")

app = typer.Typer(add_completion=False)


class Critic(str, Enum):
    separable = "separable"
    joint = "joint"


def read(path: Path, columns: str | None, default: str) -> np.ndarray:
    """[n] or [n, d] from a file.

    .npy: the array, or the numbered columns of it; .npz: the array called `columns`, by default `default`; .csv, with
    or without a line of names: all columns, or those given by name or by number from 0, separated by commas.
    ValueError for what is not there.
    """
    kind = path.suffix.lower()
    if kind == ".csv":
        return _read_csv(path, columns)
    if kind == ".npz":
        return _load(path, default if columns is None else columns)
    if kind != ".npy":
        raise ValueError(f"{path}: expected a .npy, .npz or .csv file")
    table = _load(path)
    if columns is None:
        return table
    table = table[:, None] if table.ndim == 1 else table
    return table[:, _column_numbers(path, columns, [], table.shape[1])]


def _load(path: Path, name: str = "") -> np.ndarray:
    """The array of a .npy file, or the one called `name` of an .npz."""
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content as arrays:
            if name in arrays:
                return arrays[name]
            names = ", ".join(arrays)
    except (EOFError, ValueError, zipfile.BadZipFile):
        raise ValueError(f"{path}: expected arrays of numbers as numpy.save or numpy.savez write them") from None
    raise ValueError(f"{path}: no array {name!r}; it has {names}")


def _read_csv(path: Path, columns: str | None) -> np.ndarray:
    """[n, d]; the first line names the columns if it is not all numbers."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, skipinitialspace=True)
        rows = [(lines.line_num, [field.strip() for field in row]) for row in lines if row]
    if not rows:
        raise ValueError(f"{path}: expected lines of numbers, got an empty file")
    names = [] if all(map(_is_number, rows[0][1])) else rows[0][1]
    width = len(rows[0][1])
    chosen = range(width) if columns is None else _column_numbers(path, columns, names, width)
    return np.array([_numbers(path, line, row, width, chosen) for line, row in rows[bool(names) :]])


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _numbers(path: Path, line: int, row: list[str], width: int, chosen: Sequence[int]) -> list[float]:
    if len(row) != width:
        raise ValueError(f"{path}, line {line}: expected {width} fields, as in the first line, got {len(row)}")
    for k in chosen:
        if not _is_number(row[k]):
            raise ValueError(f"{path}, line {line}: expected a number in column {k}, got {row[k]!r}")
    return [float(row[k]) for k in chosen]


def _column_numbers(path: Path, columns: str, names: list[str], width: int) -> list[int]:
    """`columns` as a line of the file may write them: names with a comma in quotes."""
    numbers = []
    for column in map(str.strip, next(csv.reader([columns], skipinitialspace=True))):
        if names.count(column) > 1:
            raise ValueError(f"{path}: {names.count(column)} columns are called {column!r}; say which by its number")
        number = names.index(column) if column in names else int(column) if column.isdecimal() else width
        if number >= width:
            known = f"{', '.join(names)} or " if names else ""
            raise ValueError(f"{path}: no column {column!r}; expected {known}a number below {width}")
        numbers.append(number)
    return numbers


@app.command()
def estimate(
    data: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="x: a .npy, .npz or .csv file.")],
    y_data: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, help="y, if it is in another file than x.")
    ] = None,
    x: Annotated[str | None, typer.Option(help="Array in an .npz, or columns by name or number: 0,1 or age.")] = None,
    y: Annotated[str | None, typer.Option(help="The same for y.")] = None,
    bound: Annotated[
        str, typer.Option(help="Bound: infonce, ml_cpc:0.01, nwj, donsker_varadhan, smile:5, …")
    ] = "infonce",
    critic: Annotated[
        Critic, typer.Option(help="Product of two networks, or one on the pair, slower.")
    ] = Critic.separable,
    steps: Annotated[int, typer.Option(min=1, help="Training steps at most.")] = 5000,
    batch: Annotated[int, typer.Option(min=2, help="Pairs in a training step.")] = 256,
    holdout: Annotated[float, typer.Option(help="Fraction of the pairs kept from training.")] = 0.3,
    seed: Annotated[int, typer.Option(help="Seed of split, initialisation and batches.")] = 0,
) -> None:
    """Mutual information of x and y in nats: a lower bound, on pairs held out from training.

    Row i of x and row i of y are one pair. From one .npz file x and y are the arrays of these names unless named
    otherwise; from one .npy or .csv file --x and --y say which columns.
    """
    if y_data is None and data.suffix != ".npz" and (x is None or y is None):
        raise typer.BadParameter("one file needs --x and --y, the columns of each; or pass a second file with y")
    try:
        left, right = read(data, x, "x"), read(y_data or data, y, "y")
        estimator = MutualInformationEstimator(
            bound, critic.value, steps=steps, batch=batch, holdout=holdout, seed=seed, progress=sys.stderr.isatty()
        )
        result = estimator.fit(left, right).estimate()
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(f"I(x; y) = {result}")


if __name__ == "__main__":
    app()
