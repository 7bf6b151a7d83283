"""Fixtures of the engine's tests: which instruction set, how many threads."""

import pytest
import torch
from problems import DEVICES, ISAS, PARTS, on

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


@pytest.fixture(
    params=[False, True] if any(PARTS in isa for isa in ISAS) else [False],
    ids=lambda by_parts: "by parts" if by_parts else "",
)
def parts(request):
    """Float32 products made of bfloat16 parts, where AMX is there, however small the problem."""
    _C.split_always(request.param)
    yield
    _C.split_always(False)


@pytest.fixture(params=ISAS)
def isa(request):
    """An instruction set of the CPU, by parts or not; where a test asks for it, "cuda": the device."""
    if request.param == "cuda":
        with on("cuda"):
            yield "cuda"
        return
    before = _C.isa()
    name = request.param.removesuffix(PARTS)
    _C.set_isa(name)
    _C.split_always(request.param != name)
    assert _C.isa() == name
    yield request.param
    _C.split_always(False)
    _C.set_isa(before)
