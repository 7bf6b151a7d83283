"""Compiles csrc/cuda as CMakeLists.txt does, once for all tests: PTX to run, what ptxas says, and the launchers."""

import fcntl
import hashlib
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ptxsim.toolchain import find_nvcc

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).parent / "driver.cpp"
ARCHITECTURES = {"CUDA_SOURCES": "80", "SM_90A_SOURCES": "90a"}


def cmake_list(name: str) -> list[str]:
    text = (ROOT / "CMakeLists.txt").read_text()
    return re.search(rf"set\({name}\s+([^)]*)\)", text)[1].split()


@dataclass(frozen=True)
class Build:
    library: Path
    objects: list[Path]

    @property
    def ptx(self) -> list[Path]:
        return [o.with_suffix(".ptx") for o in self.objects if o.with_suffix(".ptx").exists()]

    @property
    def ptxas(self) -> str:
        """What `ptxas -v` says of every kernel."""
        return "\n".join(o.with_suffix(".log").read_text() for o in self.objects)


def built() -> Build:
    """The build of the sources as they are now; objects are kept in build/ for the next time."""
    folder = ROOT / "build/cuda_tests"
    folder.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes of pytest may begin at once
        return _build(folder)


def _build(folder: Path) -> Build:
    sources = {ROOT / source: arch for name, arch in ARCHITECTURES.items() for source in cmake_list(name)}
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda one: _compiled(*one, folder), [*sources.items(), (DRIVER, "80")]))
    library = folder / f"{_digest(map(str, objects))}.so"
    for path in folder.iterdir():
        if path.is_file() and path != library and path.with_suffix(".o") not in objects:
            path.unlink()
    if not library.exists():
        _run(["-shared", "-cudart=none", "-o", library, *objects])
    return Build(library, objects)


def _digest(texts) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _with_includes(source: Path, seen: dict[Path, str]) -> dict[Path, str]:
    """The texts of a file and of everything of ours that it includes."""
    if source not in seen:
        seen[source] = source.read_text()
        for name in re.findall(r'^#include "([^"]+)"', seen[source], re.MULTILINE):
            _with_includes((source.parent / name).resolve(), seen)
    return seen


def _compiled(source: Path, arch: str, folder: Path) -> Path:
    """The object file; beside it what ptxas said and, of a .cu file, the PTX."""
    texts = [arch, Path(__file__).read_text(), *cmake_list("CUDA_FLAGS"), *_with_includes(source, {}).values()]
    target = folder / f"{source.stem}-{_digest(texts)}.o"
    if target.exists():
        return target
    temporary = target.with_suffix(".keep")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    flags = cmake_list("CUDA_FLAGS") if source.suffix == ".cu" else ["-std=c++20", "-O1"]
    keep = ["--keep", "--keep-dir", temporary, "-Xptxas", "-v", "-lineinfo"] if source.suffix == ".cu" else []
    made = temporary / "made.o"
    target_arch = f"-gencode=arch=compute_{arch},code=sm_{arch}"
    log = _run([target_arch, "-DMI_EXT_SM_90A", *flags, *keep, "-Xcompiler", "-fPIC", "-c", "-o", made, source])
    target.with_suffix(".log").write_text(log)
    for ptx in temporary.glob("*.ptx"):
        ptx.rename(target.with_suffix(".ptx"))
    made.rename(target)
    shutil.rmtree(temporary)
    return target


def _run(arguments) -> str:
    result = subprocess.run([find_nvcc(), *map(str, arguments)], capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"nvcc failed:\n{result.stdout[-4000:]}{result.stderr[-4000:]}")
    return result.stdout + result.stderr
