"""The reference experiments: their pieces, and short runs through the command line."""

import json
import math

import pytest
import torch
from typer.testing import CliRunner

from mi_ext import DenseScores, bounds
from mi_ext.objective import Objective
from mi_ext.train import dim, experiment, gaussians, mnist, mnist_halves
from mi_ext.train.__main__ import app
from mi_ext.train.record import Record

PNG = b"\x89PNG"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def read_lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def read_summary(folder):
    return json.loads((folder / "summary.json").read_text())


# Bounds by name


@pytest.fixture
def scores():
    generator = torch.Generator().manual_seed(0)
    return DenseScores(torch.randn(6, 6, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize(
    "name, function, cap",
    [
        ("infonce", bounds.infonce, math.log(6)),
        ("alpha_cpc:0.5", lambda s: bounds.alpha_cpc(s, 0.5), math.log(12)),
        ("ml_cpc:0.5", lambda s: bounds.ml_cpc(s, 0.5), math.log(12)),
        ("nwj", bounds.nwj, None),
        ("f_mine", bounds.f_mine, None),
        ("donsker_varadhan", bounds.donsker_varadhan, None),
        ("donsker_varadhan_ema:0.9", bounds.donsker_varadhan, None),
        ("eta_dv:-0.5", lambda s: bounds.eta_dv(s, -0.5), None),
        ("jensen_shannon", lambda s: bounds.jensen_shannon(s, offset=True), 2 * math.log(2)),
        (" smile:5", lambda s: bounds.smile(s, 5.0), None),
    ],
)
def test_objective_is_the_bound_of_its_name(scores, name, function, cap):
    objective = Objective(name)
    torch.testing.assert_close(objective(scores), function(scores))
    assert objective.cap(6) == (cap if cap is None else pytest.approx(cap))


@pytest.mark.parametrize("name", ["", "cpc", "tuba", "ml_cpc", "ml_cpc:", "ml_cpc:one", "infonce:1", "smile"])
def test_objective_names_what_it_expected(name):
    with pytest.raises(ValueError, match="bound: expected"):
        Objective(name)


def test_moving_average_rests_in_eval_mode(scores):
    objective = Objective("donsker_varadhan_ema:0.9").eval()
    objective(scores)
    assert objective.bound.log_ema.isnan()


# Gaussians


@pytest.mark.parametrize(
    "nats, rho",
    [(2, 0.4257572629), (4, 0.5741776328), (6, 0.6717055634), (8, 0.7420721231), (10, 0.7950600976)],
)
def test_correlation_gives_the_mutual_information(nats, rho):
    assert gaussians.correlation(nats) == pytest.approx(rho, abs=1e-10)
    assert -10 * math.log(1 - rho**2) == pytest.approx(nats, abs=1e-7)


def test_sample_has_unit_variance_and_the_correlation():
    torch.manual_seed(0)
    x, y = gaussians.sample(20000, 0.7)
    assert x.shape == y.shape == (20000, 20)
    assert torch.allclose(y.var(0), torch.ones(20), atol=0.06)
    assert torch.allclose((x * y).mean(0), torch.full((20,), 0.7), atol=0.05)


@pytest.mark.parametrize("kind", gaussians.Critic)
def test_gaussian_critics_score_every_pair(kind):
    critic = gaussians.build_critic(kind)
    assert critic(*gaussians.sample(8, 0.5)).column_block(0, 8).shape == (8, 8)
    hidden = [m.out_features for m in critic.modules() if isinstance(m, torch.nn.Linear)]
    assert hidden == ([256, 256, 1] if kind is gaussians.Critic.joint else [256, 256, 32] * 2)


def test_smooth_keeps_a_constant_and_starts_at_the_first_value():
    assert gaussians.smooth([3.0] * 5, 10) == [3.0] * 5
    assert gaussians.smooth([0.0, 1.0], 3) == [0.0, 0.5]


def test_levels_summarise_the_second_half():
    lines = [{"truth": 2.0, "estimate": e} for e in (0.0, 0.0, 1.0, 2.0)] + [{"truth": 4.0, "estimate": 3.0}]
    first, second = gaussians.levels(lines)
    assert first == {"truth": 2.0, "estimate": 1.5, "standard_deviation": 0.5}
    assert second == {"truth": 4.0, "estimate": 3.0, "standard_deviation": 0.0}


def test_gaussians_climb_below_their_cap(tmp_path):
    names = ["infonce", "alpha_cpc:0.1", "smile:5"]
    result = run("gaussians", "--bounds", ",".join(names), "--steps-per-level", 40, "--batch", 32, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    summary, lines = read_summary(tmp_path), read_lines(tmp_path)
    assert (tmp_path / "gaussians.png").read_bytes().startswith(PNG)
    assert [bound["bound"] for bound in summary["bounds"]] == names
    assert [line["step"] for line in lines] == list(range(10, 201, 10)) * len(names)
    for bound in summary["bounds"]:
        estimates = [line["estimate"] for line in lines if line["bound"] == bound["bound"]]
        assert all(math.isfinite(estimate) for estimate in estimates)
        assert bound["cap"] is None or max(estimates) <= bound["cap"] + 1e-5
    infonce = [level["estimate"] for level in summary["bounds"][0]["levels"]]
    assert infonce == sorted(infonce) and infonce[0] > 0.1


def test_gaussians_repeat_with_their_seed(tmp_path):
    for folder in "ab":
        options = ["--bounds", "infonce", "--critic", "joint", "--steps-per-level", 2, "--batch", 8, "--seed", 3]
        assert run("gaussians", *options, "--out", tmp_path / folder).exit_code == 0
    assert read_lines(tmp_path / "a") == read_lines(tmp_path / "b")


# MNIST halves


def test_split_is_stratified_fixed_by_the_seed_and_disjoint():
    train, test = mnist.load(0)
    assert train.images.shape == (4000, 784) and test.images.shape == (1000, 784)
    assert train.labels.bincount().tolist() == [400] * 10 and test.labels.bincount().tolist() == [100] * 10
    assert train.images.min() == 0 and train.images.max() == 1
    assert torch.equal(mnist.load(0)[1].images, test.images)
    assert not torch.equal(mnist.load(1)[1].images, test.images)
    assert torch.cat([train.images, test.images]).unique(dim=0).shape[0] == 5000


@pytest.mark.parametrize("kind", mnist_halves.Critic)
def test_halves_model_scores_tops_against_bottoms(kind):
    torch.manual_seed(0)
    model = mnist_halves.HalvesModel(kind).eval()
    images = torch.rand(5, 784)
    swapped = torch.cat([images[:, :392], images[[1, 0, 2, 3, 4], 392:]], 1)
    block = model(images).column_block(0, 5)
    torch.testing.assert_close(model(swapped).column_block(0, 5), block[:, [1, 0, 2, 3, 4]])
    assert model.representation(images).shape == (5, 100)


def test_best_other_bottom_leaves_its_own_out():
    torch.manual_seed(0)
    model, images = mnist_halves.HalvesModel(mnist_halves.Critic.bilinear), torch.rand(6, 784)
    assert all(mnist_halves.best_other_bottom(model, images, query) != query for query in range(6))


def test_linear_accuracy_separates_what_is_separable():
    torch.manual_seed(0)
    labels = torch.arange(90) % 3
    features = torch.nn.functional.one_hot(labels).float() + 0.1 * torch.randn(90, 3)
    assert mnist.linear_accuracy(features[:60], labels[:60], features[60:], labels[60:]) == 1.0


def test_mnist_halves_learn_something(tmp_path, monkeypatch):
    full_train, full_test = mnist.load(0)
    small = tuple(mnist.Split(s.images[:n], s.labels[:n]) for s, n in ((full_train, 512), (full_test, 160)))
    monkeypatch.setattr(experiment, "load", lambda seed: small)
    result = run("mnist_halves", "--epochs", 12, "--batch", 64, "--critic", "separable", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    summary, lines = read_summary(tmp_path), read_lines(tmp_path)
    assert (tmp_path / "mnist_halves.png").read_bytes().startswith(PNG)
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    assert summary["cap"] == pytest.approx(math.log(64))
    assert 0.3 < summary["test_estimate"] <= summary["cap"]
    assert all(0.3 < accuracy <= 1 for accuracy in summary["accuracy"].values())
    assert "test accuracy on the top half" in result.output and "cap 4.16" in result.output


# Deep InfoMax


def test_deep_info_max_scores_codes_with_places():
    """The positives of image i are its own places; a representation does not depend on the other images."""
    torch.manual_seed(0)
    model, images = dim.DeepInfoMax().eval(), torch.rand(3, 784)
    scores = model(images)
    assert scores.n_queries == 3 * 49 and scores.n_negatives == 2 * 49
    local = model.local(images)
    code, places = model.embed_code(model.code(model.hidden(local))), model.embed_local(local).flatten(2)
    torch.testing.assert_close(scores.positive, torch.einsum("bd,bdl->bl", code, places).flatten())
    torch.testing.assert_close(model.representation(images)[1:2], model.representation(images[1:2]))
    assert model.representation(images).shape == (3, 256)


def test_deep_info_max_learns_something(tmp_path, monkeypatch, one_thread):
    full_train, full_test = mnist.load(0)
    small = tuple(mnist.Split(s.images[:n], s.labels[:n]) for s, n in ((full_train, 384), (full_test, 96)))
    monkeypatch.setattr(experiment, "load", lambda seed: small)
    result = run("dim", "--epochs", 3, "--batch", 16, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    summary, lines = read_summary(tmp_path), read_lines(tmp_path)
    assert (tmp_path / "dim.png").read_bytes().startswith(PNG)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert summary["cap"] == pytest.approx(math.log(15 * 49 + 1))
    assert 0.1 < summary["test_estimate"] <= summary["cap"]
    assert all(0.3 < accuracy <= 1 for accuracy in summary["accuracy"].values())
    assert "test accuracy on the digit" in result.output and "cap 6.60" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("gaussians", "--bounds", "infonce,cpc"),
        ("mnist_halves", "--bound", "ml_cpc"),
        ("dim", "--bound", "x"),
        ("nothing",),
    ],
)
def test_the_command_line_rejects_what_it_does_not_know(arguments, tmp_path):
    options = () if arguments == ("nothing",) else ("--out", tmp_path / "out")
    assert run(*arguments, *options).exit_code == 2
    assert not (tmp_path / "out").exists()


def test_metrics_are_strict_json_and_on_disk_at_once(tmp_path):
    with Record(tmp_path) as record:
        record.write(step=1, estimate=math.inf)
        assert read_lines(tmp_path) == [{"step": 1, "estimate": None}]
    record.summary(values=[1.0, math.nan])
    assert read_summary(tmp_path) == {"values": [1.0, None]}
