"""Rules of the house that no compiler checks."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CPP = sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh"))
PTXSIM = ROOT / "tests/ptxsim"  # a program of its own, with its own style
PYTHON = sorted(
    path
    for folder in ("mi_ext", "tests", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if not path.is_relative_to(PTXSIM)
)
LAYERS = {"core": {"core"}, "cpu": {"core", "cpu"}, "cuda": {"core", "cuda"}, "ops": {"core", "cpu", "cuda", "ops"}}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def layer(path: Path) -> str:
    return path.relative_to(ROOT / "csrc").parts[0]


@pytest.mark.parametrize("path", CPP, ids=name)
def test_includes_point_down(path):
    """core ← cpu, cuda ← ops; torch's headers in csrc/ops alone."""
    local = [path.parent / include for include in includes(path) if (path.parent / include).is_file()]
    quoted = re.findall(r'^\s*#\s*include\s*"([^"]+)"', path.read_text(), re.MULTILINE)
    assert len(local) == len(quoted), f"includes that name no file: {quoted}"
    allowed = LAYERS.get(layer(path), {"core", "cpu", "cuda", "ops"})
    assert {layer(included.resolve()) for included in local} <= allowed
    uses_torch = any(include.startswith(("torch/", "ATen/", "c10/")) for include in includes(path))
    assert not uses_torch or layer(path) == "ops"


@pytest.mark.parametrize("path", [*CPP, *PYTHON, ROOT / "setup.py", ROOT / "CMakeLists.txt"], ids=name)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 300


def test_no_fast_math():
    """−inf and NaN have a meaning here. Comments may say so."""
    for path in (*CPP, ROOT / "CMakeLists.txt", ROOT / "setup.py"):
        code = re.sub(r"(#|//).*", "", path.read_text()) if path.suffix in (".txt", ".py") else path.read_text()
        assert not re.search(r"-ffast-math|-Ofast|-ffinite-math-only|-funsafe-math|\bfast_math\b", code), name(path)


def test_every_source_is_in_cmake_and_nowhere_else():
    cmake = (ROOT / "CMakeLists.txt").read_text()
    for path in CPP:
        if path.suffix in (".cpp", ".cu"):
            assert name(path) in cmake, f"{name(path)} is not in CMakeLists.txt"
    assert not re.search(r"csrc|\.cpp|\.cu\b|-march|-O3", (ROOT / "setup.py").read_text())


@pytest.mark.parametrize("path", [path for path in PYTHON if path.is_relative_to(ROOT / "mi_ext")], ids=name)
def test_raw_operators_are_used_by_ops_alone(path):
    if path.parent.name != "ops":
        assert not re.search(r"torch\.ops\b(?!\.aten)|_raw\.", path.read_text())


def test_every_operator_has_a_schema_a_kernel_and_a_fake():
    defined, implemented = (
        set(re.findall(pattern, "\n".join(path.read_text() for path in (ROOT / "csrc/ops").iterdir())))
        for pattern in (r'library\.def\(\s*"(\w+)\(', r'library\.impl\("(\w+)"')
    )
    fakes = set(re.findall(r'register_fake\("mi_ext::(\w+)"\)', (ROOT / "mi_ext/ops/fakes.py").read_text()))
    assert defined == implemented == fakes
