"""The benchmarks run: every family on tiny problems, in one call of the command line, and what it writes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("matplotlib", reason="needs the extra 'benchmark'")
pytest.importorskip("tabulate", reason="needs the extra 'benchmark'")

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # also of the processes that tests begin

from benchmarks import cuda_model_page, gpu_timing  # noqa: E402
from benchmarks.cuda_model_counts import Fused, Growth, Launch  # noqa: E402

FAMILIES = {
    "in_batch",
    "forward_only",
    "small",
    "clip_and_pairs",
    "importance",
    "bank",
    "gathered",
    "joint",
    "dropins",
    "sixteen_bit",
    "memory",
    "accuracy",
}


def benchmarks(*arguments, module="benchmarks"):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Suffix → path of what one run of all families has written."""
    folder = tmp_path_factory.mktemp("results")
    run = benchmarks("--tiny", "--out", folder)
    assert run.returncode == 0, run.stderr
    return {path.suffix: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def rows(results):
    return json.loads(results[".json"].read_text(encoding="utf-8"))["rows"]


def test_every_family_has_rows(rows):
    assert {row["family"] for row in rows} == FAMILIES
    assert not [row for row in rows if "note" in row], "a competitor did not run"


def test_times_and_ratios(rows):
    timed = [row for row in rows if "seconds" in row]
    assert {row["family"] for row in timed} == FAMILIES - {"memory", "accuracy"}
    ours = {(row["family"], row["problem"]): row["seconds"] for row in timed if row["competitor"] == "mi_ext"}
    for row in timed:
        if row["competitor"] == "mi_ext InfoNCE":  # a yardstick, of other flops than the case's
            assert "rate" not in row and "peak_share" not in row
        elif row["family"] != "dropins":  # whose peers do different work for the same loss
            assert row["rate"] > 0 and row["peak_share"] > 0
        assert row["seconds"] > 0
        assert row["ratio"] == pytest.approx(row["seconds"] / ours[row["family"], row["problem"]])


def test_memory(rows):
    saved = {(row["problem"], row["competitor"]): row["saved"] for row in rows if "saved" in row}
    assert saved and all(bytes_ > 0 for bytes_ in saved.values())
    if Path("/proc/self/clear_refs").exists():
        peak = {row["competitor"]: row["memory"] for row in rows if "memory" in row}
        assert peak["eager"] > peak["mi_ext"] >= 0


def test_accuracy_meets_its_target_for_small_losses(rows):
    small = [row for row in rows if row["family"] == "accuracy" and "loss=1e" in row["problem"] and "target" in row]
    assert len(small) == 4 and all(row["met"] for row in small)


def test_targets_are_judged_by_their_column(rows):
    judged = [row for row in rows if "target" in row]
    assert judged
    for row in judged:
        value, target = row[row["target"]["column"]], row["target"]
        assert row["met"] == (value >= target["limit"] if target["at_least"] else value <= target["limit"])


def test_markdown_says_where_it_was_measured(results):
    text = results[".md"].read_text(encoding="utf-8")
    for word in ("cores", "threads", "torch ", "instruction set", "Targets met:", results[".png"].name):
        assert word in text
    assert text.count("\n## ") == len(FAMILIES)


def test_chart_is_a_picture(results):
    assert results[".png"].read_bytes().startswith(b"\x89PNG")


def test_unknown_family_is_named(tmp_path):
    run = benchmarks("--family", "in_batch,typo", "--out", tmp_path)
    assert run.returncode == 2 and "unknown family typo" in run.stderr


def test_report_of_a_gpu_runs_on_the_cpu(tmp_path):
    run = benchmarks("--device", "cpu", "--no-tests", "--out", tmp_path, module="benchmarks.gpu_report")
    assert run.returncode == 0, run.stderr
    (page,), (data,) = tmp_path.glob("*.md"), tmp_path.glob("*.json")
    rows = json.loads(data.read_text(encoding="utf-8"))["rows"]
    for problem in {row["problem"] for row in rows}:
        assert f"## {problem}" in page.read_text(encoding="utf-8")
        losses = [row["loss"] for row in rows if row["problem"] == problem and "loss" in row]
        norms = [row["gradients"] for row in rows if row["problem"] == problem and "loss" in row]
        for values in (losses, norms):
            assert values and max(values) == pytest.approx(min(values), rel=1e-5 if "float32" in problem else 1e-2)


def ends_at_first(device, first, pipe):
    """As a process that measures, but one that breaks down on the first task, and on the second says that it did."""
    if first == 0:
        os._exit(3)
    pipe.send(({"seconds": 1.0}, first > 1))
    for _ in gpu_timing.tasks(device)[first + 1 :]:
        pipe.send(({"seconds": 1.0}, True))


def test_a_crash_takes_no_other_competitor_along():
    first, *others = gpu_timing.rows("cpu", time.monotonic() + 200, ends_at_first)
    assert first["note"] == "crashed: its process ended with code 3"
    assert len(others) == len(gpu_timing.tasks("cpu")) - 1 and all(row["seconds"] == 1 for row in others)


def hangs(device, first, pipe):
    time.sleep(600)


def test_what_hangs_is_stopped_at_the_deadline():
    start = time.monotonic()
    first, *others = gpu_timing.rows("cpu", start + 1, hangs)
    assert first["note"].startswith("stopped after 1 s") and time.monotonic() < start + 60
    assert others and all(row["note"] == "not run: out of time" for row in others)


def launch(**counts):
    return Launch(SimpleNamespace(mma_flops={}, opcodes={}, **counts), [])


def test_the_model_tells_scores_from_rows():
    once, twice = ([launch(lanes=5 * n**2 + 7 * n)] for n in (10, 20))
    growth = Growth(once, twice, 10)
    assert growth.each(lambda x: x.stats.lanes) == 5
    assert growth.at_size(lambda x: x.stats.lanes, 1000) == 5 * 1000**2 + 7 * 1000
    assert Fused(once, twice, 10).each(lambda x: x.stats.lanes) == 0  # without arithmetic: it joins parts of rows


def test_the_model_is_labelled_and_its_page_is_that_of_its_counts():
    text, document = ((ROOT / f"benchmarks/results/cuda_model.{kind}").read_text() for kind in ("md", "json"))
    document = json.loads(document)
    assert text == cuda_model_page.page(document["rows"], document["gathered"], document["joint units"])
    assert "A MODEL, no measurement" in text and "A MODEL, no measurement" in document["note"]


GRADIENTS = "forward and gradients"
PRODUCTS = {"InfoNCE, forward": 1, f"InfoNCE, {GRADIENTS}": 4, "CLIP, forward": 1, f"CLIP, {GRADIENTS}": 5}


@pytest.mark.parametrize("call", PRODUCTS)
def test_the_model_counts_whole_products(call):
    """2 n m d flops each, up to d = 128; beyond, blocks of gradients compute scores more than once."""
    rows = json.loads((ROOT / "benchmarks/results/cuda_model.json").read_text())["rows"]
    counted = [row for row in rows if row["kernel"] == f"mi_ext {call}" and row["dtype"] != "float32"]
    assert {row["code"] for row in counted} == {"sm_80", "sm_90"}
    for row in (row for row in counted if row["width"] != "d = 256"):
        assert row["flop"] == pytest.approx(PRODUCTS[call] * 2 * int(row["width"].removeprefix("d = ")))
