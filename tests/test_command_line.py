"""Files and options of `python -m mi_ext`."""

import subprocess
import sys

import numpy as np
import pytest
from test_estimate import gaussians
from typer.testing import CliRunner

from mi_ext.__main__ import app, read
from mi_ext.estimate import MutualInformationEstimator

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    x, y, _ = gaussians(600, 2, 0.9)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    np.save(folder / "xy.npy", np.hstack([x, y]))
    np.savez(folder / "named.npz", x=x, y=y, other=x)
    np.savetxt(folder / "plain.csv", np.hstack([x, y]), delimiter=",")
    np.savetxt(folder / "table.csv", np.hstack([x, y]), delimiter=",", header='age,"size",c,d', comments="")
    (folder / "words.txt").write_text("a b")
    (folder / "empty.npy").write_bytes(b"")
    (folder / "broken.npz").write_bytes(b"PK no archive")
    (folder / "empty.csv").write_text("")
    return folder


def run(files, *arguments):
    paths = [str(files / a) if "." in a else a for a in arguments]
    return CliRunner().invoke(app, [*paths, "--steps", "20"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("x.npy", "y.npy"),
        ("named.npz",),
        ("named.npz", "--x", "other"),
        ("xy.npy", "--x", "0,1", "--y", "2,3"),
        ("plain.csv", "--x", "0,1", "--y", "2, 3"),
        ("table.csv", "--x", "age,size", "--y", "c,3"),
        ("x.npy", "named.npz"),
    ],
)
def test_every_way_to_pass_the_same_data_gives_the_same_estimate(files, arguments):
    x, y, _ = gaussians(600, 2, 0.9)
    expected = MutualInformationEstimator(steps=20).fit(x, y).estimate()
    result = run(files, *arguments)
    assert result.exit_code == 0, result.output
    assert f"I(x; y) = {expected}" in result.output


def test_a_whole_csv_is_read_without_its_names(files):
    table = read(files / "table.csv", None, "x")
    np.testing.assert_allclose(table, np.load(files / "xy.npy"))
    assert read(files / "table.csv", "size", "x").shape == (600, 1)


def csv_of(folder, text, encoding="utf-8"):
    path = folder / "text.csv"
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize(
    "text, columns, expected",
    [
        ('"height, cm",w,z\n1,2,3\n4,5,6\n', "w", [[2], [5]]),
        ('"height, cm",w,z\n1,2,3\n4,5,6\n', '"height, cm",z', [[1, 3], [4, 6]]),
        ("1,2\n\n3,4\n", None, [[1, 2], [3, 4]]),
        ("id,a,note\nx1,1,good\nx2, 2.5 ,#bad\n", "a", [[1], [2.5]]),
        ("a;b\n1\n2\n", "0", [[1], [2]]),
        ("nan,1\ninf,2\n", "1", [[1], [2]]),
        ("a,a,b\n1,2,3\n", "1,b", [[2, 3]]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_as_spreadsheets_write_it(tmp_path, text, columns, expected, encoding):
    np.testing.assert_equal(read(csv_of(tmp_path, text, encoding), columns, "x"), expected)


@pytest.mark.parametrize(
    "text, columns, message",
    [
        ("a,b\n1,2\n3\n", None, r"text.csv, line 3: expected 2 fields, .*got 1$"),
        ("a,b\n1,2\n3,x\n", None, r"text.csv, line 3: expected a number in column 1, got 'x'"),
        ("1,2\n#3,4\n", None, r"text.csv, line 2: expected a number in column 0, got '#3'"),
        ("a,a,b\n1,2,3\n", "a", r"2 columns are called 'a'"),
    ],
)
def test_a_csv_is_read_whole_or_not_at_all(tmp_path, text, columns, message):
    with pytest.raises(ValueError, match=message):
        read(csv_of(tmp_path, text), columns, "x")


def test_suffixes_and_vectors(tmp_path):
    np.save(tmp_path / "v.npy", np.arange(3.0))
    (tmp_path / "v.npy").rename(tmp_path / "V.NPY")
    np.testing.assert_equal(read(tmp_path / "V.NPY", "0", "x"), [[0], [1], [2]])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("plain.csv",), "--x and --y"),
        (("named.npz", "--y", "z"), "no array 'z'"),
        (("plain.csv", "--x", "0", "--y", "4"), "no column '4'"),
        (("table.csv", "--x", "age", "--y", "weight"), "no column 'weight'"),
        (("x.npy", "words.txt"), ".npy, .npz or .csv"),
        (("x.npy", "y.npy", "--bound", "mine"), "bound: expected"),
        (("x.npy", "y.npy", "--holdout", "2"), "holdout: expected"),
        (("absent.npy",), "does not exist"),
        (("empty.npy", "y.npy"), "empty.npy: expected arrays of numbers"),
        (("broken.npz", "y.npy"), "broken.npz: expected arrays of numbers"),
        (("empty.csv", "y.npy"), "empty.csv: expected lines of numbers, got an empty file"),
    ],
)
def test_the_command_line_says_what_is_wrong(files, arguments, message):
    result = run(files, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_it_runs_as_a_module(files):
    call = [sys.executable, "-m", "mi_ext", "x.npy", "y.npy", "--steps", "5", "--bound", "nwj"]
    result = subprocess.run(call, capture_output=True, text=True, cwd=files, timeout=120)
    assert result.returncode == 0 and result.stdout.startswith("I(x; y) = "), result.stderr
