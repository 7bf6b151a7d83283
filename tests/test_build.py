"""CMake's choice between a build with CUDA and one without, and what it says of it. Nothing is compiled."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def configure(tmp_path):
    cmake = shutil.which("cmake") or Path(pytest.importorskip("cmake").CMAKE_BIN_DIR) / "cmake"

    def run(**settings):
        options = [f"-D{name}={value}" for name, value in settings.items()]
        command = [cmake, "-S", ROOT, "-B", tmp_path / "build", *options]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    return run


@pytest.fixture
def nvcc(tmp_path):
    """A path of an nvcc that tells its version and does nothing else."""

    def make(release: str) -> Path:
        program = tmp_path / "nvcc"
        program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Cuda compilation tools, release {release}, V1"\n')
        program.chmod(0o755)
        return program

    return make


def test_a_torch_without_cuda(configure):
    code, output = configure()
    assert code == 0 and "no kernels for GPUs, built against a torch without CUDA" in output


def test_left_out(configure, nvcc):
    code, output = configure(MI_EXT_CUDA=0, TORCH_CUDA="13.0", NVCC=nvcc("13.0"))
    assert code == 0 and "no kernels for GPUs, built with MI_EXT_CUDA=0" in output


def test_another_cuda_than_torch(configure, nvcc):
    """A complete build for the CPU, unless kernels for GPUs were asked for."""
    why = "built where nvcc is of CUDA 12.6 but torch of CUDA 13.0"
    given = {"TORCH_CUDA": "13.0", "NVCC": nvcc("12.6")}
    code, output = configure(**given)
    assert code == 0 and why in output
    code, output = configure(**given, MI_EXT_CUDA=1)
    assert code != 0 and f"MI_EXT_CUDA=1 asks for kernels for GPUs, but mi_ext is {why}" in output


def test_an_nvcc_that_does_not_work(configure, nvcc):
    code, output = configure(TORCH_CUDA="13.0", NVCC=nvcc("13.0"))
    assert code == 0 and "nvcc does not work with the C++ compiler it finds" in output


@pytest.mark.parametrize("archs", ["sm_75", "90", "sm_80;turing"])
def test_names_of_gpus(configure, archs):
    code, output = configure(MI_EXT_CUDA_ARCHS=archs)
    assert code != 0 and f"MI_EXT_CUDA_ARCHS: expected sm_80 or newer, such as sm_80,sm_90, got {archs}" in output
