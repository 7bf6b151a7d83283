"""The order of an experiment on MNIST: a representation is learned without labels, and a linear classifier judges it.

The data; the model, untrained; training by a bound; the accuracy of a classifier on pixels and on the representation
before and after; then metrics.jsonl, summary.json, a picture and three lines to read.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import typer
from torch import Tensor

from .mnist import SIDE, Split, linear_accuracies, load, named_bound, train_epochs
from .picture import plot
from .record import Record


class Options(NamedTuple):
    """What every such experiment has on its command line."""

    bound: str
    epochs: int
    batch: int
    lr: float
    seed: int


@dataclass(frozen=True)
class Experiment:
    """What is an experiment's own.

    `build` makes the model from the training images: model(images) are the scores of a batch, model.representation(
    images) is what is judged. `rows(model, train, test)` are the images of the picture, [k, 28, 28] by name.
    """

    name: str  # of the picture
    build: Callable[[Tensor], Any]
    candidates: int  # K, which caps the bound
    rows: Callable[[Any, Split, Split], dict[str, Tensor]]
    estimated: str  # "of two views"
    judged: str  # "the digit"
    shown: str  # title of `rows`
    pixels: int = SIDE * SIDE  # how many of an image's first pixels are `judged`
    halved: bool = False  # draw a line through the middle of `rows`
    settings: dict = field(default_factory=dict)  # options beside `Options`

    def run(self, options: Options, out: Path) -> None:
        objective = named_bound(options.bound)
        start = time.perf_counter()
        train, test = load(options.seed)
        torch.manual_seed(options.seed)
        model = self.build(train.images)
        features = {"pixels": (train.images[:, : self.pixels], test.images[:, : self.pixels])}
        features["untrained"] = model.representation(train.images), model.representation(test.images)
        with Record(out) as record:
            estimate = train_epochs(
                model, objective, train.images, test.images, record, options.epochs, options.batch, options.lr
            )
        features["trained"] = model.representation(train.images), model.representation(test.images)
        accuracies = linear_accuracies(features, train, test)
        cap = objective.cap(self.candidates)
        settings = options._asdict() | self.settings
        seconds = round(time.perf_counter() - start, 1)
        record.summary(**settings, accuracy=accuracies, test_estimate=estimate, cap=cap, seconds=seconds)
        titles = f"{objective.title} {self.estimated}", f"Linear classifier on {self.judged}, test accuracy", self.shown
        picture = out / f"{self.name}.png"
        plot(picture, record.lines, titles, cap, accuracies, self.rows(model, train, test), self.halved)
        _tell(self.judged, accuracies, estimate, cap, picture)


def _tell(judged: str, accuracies: dict[str, float], estimate: float, cap: float | None, picture: Path) -> None:
    pixels, untrained, trained = (f"{100 * accuracies[name]:.1f} %" for name in ("pixels", "untrained", "trained"))
    typer.echo(f"test accuracy on {judged}: pixels {pixels}, untrained encoder {untrained}, trained {trained}")
    typer.echo(f"estimate on test images {estimate:.2f} nats, cap {'none' if cap is None else f'{cap:.2f}'}")
    typer.echo(f"picture: {picture}")
