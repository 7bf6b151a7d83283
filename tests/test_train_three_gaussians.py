"""DEMI's three Gaussians: the problem has the information it claims, the models their bounds, the command its files."""

import json
import math

import pytest
import torch
from typer.testing import CliRunner

from mi_ext.train import three_gaussians as experiment
from mi_ext.train.__main__ import app


def run(*arguments):
    return CliRunner().invoke(app, ["three_gaussians", *map(str, arguments)])


@pytest.mark.parametrize("nats, share", [(3.0, 0.5), (10.0, 0.2)])
def test_information_of_the_sample(nats, share):
    """½ log det of the correlations of one coordinate, from a large sample, times d."""
    torch.manual_seed(0)
    x1, x2, y = (t.flatten().double() for t in experiment.sample(100_000, nats, share))

    def information(*views):
        joint, marginal = torch.corrcoef(torch.stack([*views, y])), torch.corrcoef(torch.stack(views))
        return 0.5 * experiment.DIMENSION * (math.log(torch.det(torch.atleast_2d(marginal))) - torch.logdet(joint))

    for t in (x1, x2, y):
        assert t.std().item() == pytest.approx(1, abs=0.01)
    assert information(x1, x2).item() == pytest.approx(nats, rel=0.02)
    assert information(x2).item() == pytest.approx(share * nats, rel=0.02)


@pytest.mark.parametrize("bound", experiment.MODELS)
def test_every_parameter_learns(bound):
    torch.manual_seed(0)
    model = experiment.MODELS[bound]()
    model(*experiment.sample(16, 5.0, 0.5)).backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


def test_untrained_models_tell_nothing():
    """Constant encoders: InfoNCE is 0, and so is each part of the decomposed bound."""
    for make in experiment.MODELS.values():
        model = make()
        with torch.no_grad():
            for p in model.parameters():
                p.zero_()
        assert model(*experiment.sample(16, 5.0, 0.5)).item() == pytest.approx(0, abs=1e-6)


def test_short_run(tmp_path):
    result = run("--steps", 60, "--nats", "4,12", "--batch", 16, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "decomposed_infonce" in result.output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["truth"] == [4, 12] and summary["log_k"] == pytest.approx(math.log(16))
    for bound, factor in (("infonce", 1), ("decomposed_infonce", 2)):
        low, high = summary["estimates"][bound]
        assert 0 < low < high <= factor * math.log(16)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {line["bound"] for line in lines} == set(experiment.BOUNDS) and len(lines) == 4 * experiment.LINES
    assert (tmp_path / "three_gaussians.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("nats", ["", "one", "-1,2", "nan"])
def test_levels_that_are_none(nats, tmp_path):
    result = run("--nats", nats, "--out", tmp_path)
    assert result.exit_code == 2 and "--nats" in result.output
