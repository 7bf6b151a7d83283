"""The command line: mutual information of the columns of a file, or of two files."""

import sys
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
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            name = default if columns is None else columns
            if name not in arrays:
                raise ValueError(f"{path}: no array {name!r}; it has {', '.join(arrays)}")
            return arrays[name]
    if path.suffix == ".npy":
        names, table = list[str](), np.load(path, allow_pickle=False)
    elif path.suffix == ".csv":
        names, table = _read_csv(path)
    else:
        raise ValueError(f"{path}: expected a .npy, .npz or .csv file")
    return table if columns is None else table[:, _column_numbers(path, columns, names, table)]


def _read_csv(path: Path) -> tuple[list[str], np.ndarray]:
    """(names of the columns, if the first line is not all numbers; [n, d])."""
    with open(path, encoding="utf-8") as file:
        first = [field.strip() for field in file.readline().split(",")]
    try:
        [float(field) for field in first]
        names = []
    except ValueError:
        names = [field.strip('"') for field in first]
    return names, np.loadtxt(path, delimiter=",", ndmin=2, skiprows=1 if names else 0, encoding="utf-8")


def _column_numbers(path: Path, columns: str, names: list[str], table: np.ndarray) -> list[int]:
    width = table.shape[1] if table.ndim == 2 else 0
    numbers = []
    for column in map(str.strip, columns.split(",")):
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
