"""A build with CUDA is complete: linked, registered, with code for every GPU asked for.

It needs such a build, which `make test-cuda` makes, but no GPU.
"""

import ctypes
import os
import re
import struct
from pathlib import Path

import pytest
import torch

from mi_ext import _C, DotScores

BUILD = _C.build_info()
if BUILD["cuda"].startswith("no"):
    pytest.skip(f"mi_ext was {BUILD['cuda'].removeprefix('no, ')}; run make test-cuda", allow_module_level=True)

FAT_BINARY = struct.pack("<I", 0xBA55ED50)
PTX, CUBIN = 1, 2


def device_code(library: bytes) -> set[tuple[int, int]]:
    """(kind, architecture) of all code for GPUs that nvcc has put into a library.

    A fat binary is: magic (4 bytes), version (2), length of this header (2), length of what follows (8); then entries,
    each with kind (2), version (2), length of its header (4), length of its code (8) and, at byte 28, architecture (4).
    """
    found = set()
    for match in re.finditer(re.escape(FAT_BINARY), library):
        header, length = struct.unpack_from("<HQ", library, match.start() + 6)
        entry = match.start() + header
        while entry < match.start() + header + length:
            kind, entry_header, code = struct.unpack_from("<H2xIQ", library, entry)
            found.add((kind, struct.unpack_from("<I", library, entry + 28)[0]))
            entry += entry_header + code
    return found


def test_code_for_every_gpu_that_was_asked_for():
    """And PTX of the last, for what comes after it."""
    asked = [int(re.sub(r"\D", "", name)) for name in BUILD["cuda_archs"].split(",")]
    assert device_code(Path(_C.__file__).read_bytes()) == {(CUBIN, arch) for arch in asked} | {(PTX, asked[-1])}


def test_no_symbol_is_missing():
    """Python may resolve functions when they are first called; here all at once."""
    ctypes.CDLL(_C.__file__, mode=os.RTLD_NOW)


@pytest.mark.parametrize("family", ["dot", "gathered", "joint", "importance"])
def test_every_operator_of_a_family_has_its_kernel(family):
    """Compiled, not the function that explains why there is none."""
    names = torch._C._dispatch_get_registrations_for_dispatch_key("CPU")
    operators = {name for name in names if re.match(f"mi_ext::{family}_", name)}
    assert len(operators) == {"dot": 6, "gathered": 6, "joint": 8, "importance": 3}[family]
    for operator in operators:
        pattern = rf"^CUDA: registered at .*({family}|ranking)_cuda\.cpp"
        assert re.search(pattern, torch._C._dispatch_dump(operator), re.MULTILINE)


def test_versions_agree():
    assert BUILD["cuda"].split(".")[0] == torch.version.cuda.split(".")[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_driver_torch_says_so():
    x = torch.randn(4, 3)
    with pytest.raises((RuntimeError, AssertionError), match="NVIDIA"):
        DotScores(x.cuda(), x.cuda())
