"""Fixtures of the engine's tests: which instruction set, how many threads."""

import pytest
import torch
from problems import DEVICES, on

from mi_ext import _C


@pytest.fixture
def one_thread():
    """Small problems on one thread: waking another one costs more than they do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=DEVICES)
def device(request):
    """Where `problems.evaluate` runs the operators."""
    with on(request.param):
        yield request.param


@pytest.fixture(params=_C.available_isas())
def isa(request):
    """An instruction set of the CPU; where a test asks for it, "cuda": the device."""
    if request.param == "cuda":
        with on("cuda"):
            yield "cuda"
        return
    before = _C.isa()
    _C.set_isa(request.param)
    assert _C.isa() == request.param
    yield request.param
    _C.set_isa(before)
