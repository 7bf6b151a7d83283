"""Builds mi_ext._C by CMake; every source and flag is in CMakeLists.txt.

MI_EXT_CUDA=1 insists on kernels for GPUs, =0 leaves them out; by default they are built where torch has CUDA and
    nvcc is of the same major version. Whether this machine has a GPU does not matter.
MI_EXT_CUDA_ARCHS=sm_80,sm_90 names the GPUs to compile for; by default sm_80, sm_90a, sm_100, and PTX for newer ones.
MI_EXT_BUILD_TYPE=Debug builds for a debugger.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def find_torch() -> Path | None:
    """The installed torch, without importing it: build isolation hides it from import, not from the file system."""
    spec = importlib.util.find_spec("torch")
    places = [Path(spec.origin).parent] if spec and spec.origin else []
    places += [Path(sysconfig.get_path(kind)) / "torch" for kind in ("purelib", "platlib")]
    return next((place for place in places if (place / "version.py").exists()), None)


def usable_torch() -> Path:
    torch = find_torch()
    if torch is None:
        sys.exit("mi_ext needs PyTorch to build: pip install 'torch>=2.10'")
    version = re.search(r"__version__ = '(\d+)\.(\d+)[^']*'", (torch / "version.py").read_text())
    if version and (int(version[1]), int(version[2])) < (2, 10):
        sys.exit(f"mi_ext needs PyTorch 2.10 or newer, but found {version[1]}.{version[2]}: pip install 'torch>=2.10'")
    return torch


def cuda_of(torch: Path) -> str:
    """The CUDA version that torch was built with, "" without."""
    found = re.search(r"^cuda\b.*= '([^']+)'", (torch / "version.py").read_text(), re.MULTILINE)
    return found[1] if found else ""


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        torch = usable_torch()
        try:
            import pybind11
        except ImportError:
            sys.exit("mi_ext needs pybind11 to build: pip install pybind11, or build without --no-build-isolation")
        compiler = os.environ.get("CXX", "c++")
        for program, package in (("cmake", "cmake"), ("ninja", "ninja"), (compiler, "g++ (version 11 or newer)")):
            if shutil.which(program) is None:
                sys.exit(f"mi_ext needs {program} to build: install {package}, for example by your system's packages")
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        settings = {
            "CMAKE_BUILD_TYPE": os.environ.get("MI_EXT_BUILD_TYPE", "Release"),
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": target.parent,
            "EXTENSION_SUFFIX": sysconfig.get_config_var("EXT_SUFFIX"),
            "MI_EXT_CUDA": os.environ.get("MI_EXT_CUDA", "AUTO"),
            "MI_EXT_CUDA_ARCHS": os.environ.get("MI_EXT_CUDA_ARCHS", ""),
            "MI_EXT_VERSION": self.distribution.get_version(),
            "TORCH_INCLUDE": torch / "include",
            "TORCH_LIB": torch / "lib",
            "TORCH_CUDA": cuda_of(torch),
            "PYTHON_INCLUDE": sysconfig.get_path("include"),
            "PYBIND11_INCLUDE": pybind11.get_include(),
        }
        options = [f"-D{name}={value}" for name, value in settings.items()]
        try:
            subprocess.run(["cmake", "-S", ROOT, "-B", build, "-G", "Ninja", *options], check=True)
            subprocess.run(["cmake", "--build", build], check=True)
        except subprocess.CalledProcessError:
            sys.exit(
                "mi_ext could not be built: the first error above says why; it needs a C++20 compiler with OpenMP "
                "(g++ 11 or newer, or clang 14 or newer with libomp)"
            )


setup(
    ext_modules=[Extension("mi_ext._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    # A front end asks for build requirements by egg_info. One build serves torch 2.10 and newer, so an isolated build
    # fetches torch, gigabytes of it, only where none is installed.
    setup_requires=["torch>=2.10"] if "egg_info" in sys.argv and find_torch() is None else [],
)
