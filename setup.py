"""Builds mi_ext._C by CMake; every source and flag is in CMakeLists.txt.

MI_EXT_BUILD_TYPE=Debug builds for a debugger.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def find_torch() -> Path:
    try:
        import torch
    except ImportError:
        sys.exit("mi_ext needs PyTorch to build: pip install 'torch>=2.10', then pip install --no-build-isolation .")
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 10):
        sys.exit(f"mi_ext needs PyTorch 2.10 or newer, but found {torch.__version__}: pip install 'torch>=2.10'")
    return Path(torch.__file__).parent


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        import pybind11

        torch = find_torch()
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
            "MI_EXT_VERSION": self.distribution.get_version(),
            "TORCH_INCLUDE": torch / "include",
            "TORCH_LIB": torch / "lib",
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


setup(ext_modules=[Extension("mi_ext._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
