"""Momentum contrast on digits: its pieces, and a short run through the command line."""

import json
import math

import pytest
import torch
from typer.testing import CliRunner

from mi_ext import bounds
from mi_ext.train import experiment, mnist, moco
from mi_ext.train.__main__ import app


@pytest.fixture
def model():
    torch.manual_seed(0)
    return moco.MomentumContrast(queue=12, temperature=0.1, momentum=0.75, images=torch.rand(30, 784))


def test_distorted_keeps_what_is_in_the_middle():
    torch.manual_seed(0)
    images = torch.zeros(200, 28, 28)
    images[:, 12:16, 12:16] = 1
    views = moco.distorted(images.flatten(1))
    assert views.shape == (200, 1, 28, 28) and views.min() >= 0 and views.max() <= 1
    mass = views.sum((1, 2, 3))  # 16 pixels, scaled by at most exp(±2 · 0.25) and what a shear adds
    assert mass.min() > 8 and mass.max() < 32
    assert not torch.equal(moco.distorted(images.flatten(1)), views)


def test_positive_is_the_key_and_negatives_are_the_queue(model, monkeypatch):
    monkeypatch.setattr(moco, "distorted", lambda images: images.unflatten(1, (1, 28, 28)))
    images = torch.rand(4, 784)
    scores = model.eval()(images)
    query = model.query(images.unflatten(1, (1, 28, 28)))
    torch.testing.assert_close(scores.positive, 10 * (query * query).sum(1))  # the key encoder starts as a copy
    torch.testing.assert_close(scores.negative_lse, (10 * query @ model.queue.queue.T).logsumexp(1))
    assert scores.n_candidates == 13


def test_the_queue_begins_with_keys_of_images(monkeypatch):
    monkeypatch.setattr(moco, "distorted", lambda images: images.unflatten(1, (1, 28, 28)))
    images = torch.rand(5, 784)
    model = moco.MomentumContrast(queue=40, temperature=0.1, momentum=0.75, images=images)
    keys = model.key(images.unflatten(1, (1, 28, 28)))
    distance = torch.cdist(model.queue.queue, keys)
    assert distance.amin(1).max() < 1e-3 and distance.argmin(1).unique().numel() > 1


def test_keys_join_the_queue_when_the_next_batch_comes(model):
    images, before = torch.rand(4, 784), model.queue.queue.clone()
    (-bounds.infonce(model(images))).backward()
    assert torch.equal(model.queue.queue, before) and all(p.grad is None for p in model.key.parameters())
    first, waiting = [p.clone() for p in model.key.parameters()], model._waiting
    with torch.no_grad():
        for p in model.query.parameters():
            p += 1
    model(images)
    assert torch.equal(model.queue.queue[:4], waiting) and torch.equal(model.queue.queue[4:], before[4:])
    for key, old, query in zip(model.key.parameters(), first, model.query.parameters(), strict=True):
        torch.testing.assert_close(key, 0.75 * old + 0.25 * query)
    state = model.queue.queue.clone()
    model.eval()(images)
    assert torch.equal(model.queue.queue, state)


def test_moco_learns_something(tmp_path, monkeypatch, one_thread):
    full_train, full_test = mnist.load(0)
    small = tuple(mnist.Split(s.images[:n], s.labels[:n]) for s, n in ((full_train, 512), (full_test, 160)))
    monkeypatch.setattr(experiment, "load", lambda seed: small)
    options = ["--epochs", 8, "--batch", 32, "--queue", 64, "--bound", "ml_cpc:0.5", "--out", tmp_path]
    result = CliRunner().invoke(app, ["moco", *map(str, options)])
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "summary.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert (tmp_path / "moco.png").read_bytes().startswith(b"\x89PNG")
    assert [line["epoch"] for line in lines] == list(range(1, 9))
    assert summary["cap"] == pytest.approx(math.log(65 / 0.5))
    assert 0.1 < summary["test_estimate"] <= summary["cap"]
    assert all(0.3 < accuracy <= 1 for accuracy in summary["accuracy"].values())
    assert "test accuracy on the digit" in result.output and "cap 4.87" in result.output
