"""MNIST halves of [MIM], On Mutual Information Maximization for Representation Learning.

Two encoders, g1 of the top half of a digit and g2 of the bottom half, and a critic f are trained without labels to
maximise a bound on I(g1(top); g2(bottom)), with scores f(g1(top_i), g2(bottom_j)) over a batch. As in the paper
g1(top) alone is then judged by a linear classifier, against the pixels of the top half. A third bar, g1 before
training, tells what training adds.

The paper has 60 000 images; here, with 4000 (`mi_ext.train.mnist`), the encoders are regularised by dropout, 0.5 on the
pixels and 0.3 after each hidden layer, because without it the representation is worse than pixels. There is no other
augmentation. Adam at 1e-3 for 100 epochs; the paper has 1e-4 for longer. Bounds that exponentiate single scores, nwj
above all, learn less in this time.
"""

from enum import Enum
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from .. import critics
from ..scores import Scores
from .experiment import Experiment, Options
from .mnist import SIDE, TEST_IMAGES, Split

HALF = SIDE * SIDE // 2
HIDDEN, REPRESENTATION = 512, 100
PIXEL_DROPOUT, HIDDEN_DROPOUT = 0.5, 0.3


class Critic(str, Enum):
    bilinear = "bilinear"
    separable = "separable"
    joint = "joint"


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


@torch.no_grad()
def best_other_bottom(model: HalvesModel, images: Tensor, query: int) -> int:
    """Index of the bottom half that scores highest with the top half of image `query`, its own left out."""
    scores = model.eval()(images).column_block(0, len(images))[query]
    scores[query] = -torch.inf
    return int(scores.argmax())


def completed_digits(model: HalvesModel, test: Split) -> dict[str, Tensor]:
    """Rows [10, 28, 28]: the first test image of each digit, and its top half over `best_other_bottom`."""
    first = [int((test.labels == digit).nonzero()[0]) for digit in range(10)]
    other = [best_other_bottom(model, test.images, query) for query in first]
    completed = torch.cat([test.images[first, :HALF], test.images[other, HALF:]], 1)
    rows = {"digit": test.images[first], "completed": completed}
    return {name: row.unflatten(-1, (SIDE, SIDE)) for name, row in rows.items()}


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
    Experiment(
        "mnist_halves",
        build=lambda images: HalvesModel(critic),
        candidates=batch,
        rows=lambda model, train, test: completed_digits(model, test),
        estimated="between the halves",
        judged="the top half",
        shown="Top half with the best-scoring bottom half of another test image",
        pixels=HALF,
        halved=True,
        settings={"critic": critic.value},
    ).run(Options(bound, epochs, batch, lr, seed), out)
