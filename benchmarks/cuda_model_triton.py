"""Compiles Triton kernels for a GPU that is not here, and runs them in ptxsim; for cuda_model."""

import importlib
import tempfile
from pathlib import Path

from .cuda_model_counts import WARP, Launch

from machine_code import disassembled  # isort: skip  (found by the line above)


def jit_function(module: str, name: str):
    """The kernel below autotuning and heuristics."""
    import triton

    function = getattr(importlib.import_module(module), name)
    while not isinstance(function, triton.runtime.JITFunction):
        function = function.fn
    return function


def launched(device, function, grid, values, types, constants, architecture, scores, whole, **options) -> Launch:
    """As Triton compiles it for such arguments: integers of 1 are constants, of multiples of 16 known to be so.
    `scores` of a warp, in a turn of the main loop or in all: see `Launch`."""
    import triton
    from ptxsim import Module
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    known = constants | {name: 1 for name, value in values.items() if types[name] == "i32" and value == 1}
    constants = {name: value for name, value in known.items() if name in function.arg_names}
    signature = {name: "constexpr" if name in constants else types[name] for name in function.arg_names}
    aligned = [name for name, kind in signature.items() if kind[0] == "*" or kind == "i32" and values[name] % 16 == 0]
    attributes = {(function.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(function, signature=signature, constexprs=constants, attrs=attributes)
    target = GPUTarget("cuda", int(architecture.removeprefix("sm_")), WARP)
    compiled = triton.compile(source, target=target, options=options)
    module = Module(compiled.asm["ptx"])
    kernel = module[module.kernels[0]]
    arguments = [values[name] for name in function.arg_names if name not in constants]
    arguments += [None] * (len(kernel.fn.params) - len(arguments))  # scratch
    threads = WARP * compiled.metadata.num_warps
    stats = device.launch(kernel, grid, threads, arguments, shared_bytes=compiled.metadata.shared)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(compiled.asm["cubin"])
        (code,) = disassembled([cubin]).values()
    return Launch(stats, code, scores, whole)
