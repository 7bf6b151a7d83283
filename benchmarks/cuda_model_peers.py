"""The Triton kernels of inf-cl and cut-cross-entropy, in the configurations their packages choose, for cuda_model."""

import importlib

import numpy as np

WARP = 32
ARCHITECTURE = 80


def launches(n: int, d: int) -> list[tuple]:
    """(kernel, dtype, counts of its launches); none where Triton or a package is not installed, and that is said."""
    found = []
    for name, count in (("inf-cl", inf_cl), ("cut-cross-entropy", cut_cross_entropy)):
        try:
            found += count(n, d)
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return found


def inf_cl(n: int, d: int) -> list[tuple]:
    """Online log-sum-exp, then a kernel for each gradient; float32 read, tf32 multiplied; 64 × 64 tiles, 8 warps."""
    from ptxsim import Device

    device, rng = Device(), np.random.default_rng(0)
    q, k = (device.to_device(rng.standard_normal((n, d)).astype(np.float32)) for _ in range(2))
    rows_of = device.zeros(-(-n // 128) * 128)
    types = {name: "*fp32" for name in ("Q", "K", "LSE", "dQ", "dK", "dLSE")}
    types |= {name: "i32" for name in ("nheads", "seqlen_q", "seqlen_k")}
    values = {"Q": q, "K": k, "LSE": rows_of, "dLSE": rows_of, "dQ": device.zeros((n, d)), "dK": device.zeros((n, d))}
    values |= {"nheads": 1, "seqlen_q": n, "seqlen_k": n}
    constants = {"BLOCK_HEADDIM": d, "BLOCK_M": 64, "BLOCK_N": 64}

    def run(kernel: str):
        function = jit_function("inf_cl.flash", kernel)
        return launch(device, function, -(-n // 64), values, types, constants, num_warps=8, num_stages=1)

    forward = run("_prob_fwd_kernel")
    gradients = [run("_dq_prob_bwd_kernel"), run("_dk_prob_bwd_kernel")]
    name = "inf-cl forward"
    return [(name, "tf32", [forward]), (f"{name} and gradients", "tf32", [forward, *gradients])]


def cut_cross_entropy(n: int, d: int) -> list[tuple]:
    """Log-sum-exp, then both gradients in one kernel; bfloat16."""
    from ptxsim import Device, f32_to_bf16

    device, rng = Device(), np.random.default_rng(0)
    e, c = (device.to_device(f32_to_bf16(rng.standard_normal((n, d)) / d**0.5)) for _ in range(2))
    values = {"E": e, "C": c, "LSE": device.to_device(np.full(n, -np.inf, np.float32)), "B": n, "V": n, "D": d}
    values |= {"Locks": device.zeros(64, np.uint32), "num_locks": 64, "B_BIN": n, "stride_lse_b": 1}
    values |= {"stride_eb": d, "stride_ed": 1, "stride_cv": d, "stride_cd": 1, "stride_vb": 1}
    values |= {"dOut": device.to_device(np.ones(1, np.float32)), "grad_scale": 1.0, "filter_eps": 0.0}
    values |= {"Targets": device.to_device(np.arange(n)), "dE": device.zeros((n, d)), "dC": device.zeros((n, d))}
    values |= {"dELocks": device.zeros(1, np.uint32), "dCLocks": device.zeros(1, np.uint32)}
    values |= {name: 1 for name in ("n_de_locks_0", "n_de_locks_1", "n_dc_locks_0", "n_dc_locks_1")}
    types = {name: "i32" for name in values} | {"E": "*bf16", "C": "*bf16", "Targets": "*i64"}
    types |= {name: "*fp32" for name in ("LSE", "dOut", "dE", "dC")} | {"grad_scale": "fp32", "filter_eps": "fp32"}
    types |= {name: "*u32" for name in ("Locks", "dELocks", "dCLocks")}

    def run(module: str, kernel: str, block_b: int, block_v: int, constants: dict, **options):
        shared = {"Valids": None, "softcap": None, "HAS_VALIDS": False, "HAS_SOFTCAP": False, "GROUP_B": 8}
        shared |= {"BLOCK_B": block_b, "BLOCK_V": block_v, "BLOCK_D": 32, "EVEN_D": True}
        function = jit_function(f"cut_cross_entropy.{module}", kernel)
        grid = -(-n // block_b) * -(-n // block_v)
        return launch(device, function, grid, values, types, shared | constants, **options)

    no_average = {"LA": None, "HAS_LA": False, "DOT_PRECISION": "tf32"}
    forward = run("cce_lse_forward", "_cce_lse_forward_kernel", 256, 128, no_average, num_warps=8, num_stages=3)
    both = {"VocabOrdering": None, "HAS_VOCAB_ORDERING": False, "MM_BACK_BLOCK_D": 64, "MM_BACK_EVEN_D": True}
    both |= {"ITEM_DO": True, "FILTER_GRAD": True, "HAS_TARGETS": True, "SHIFT": False, "REQUIRES_GRAD": True}
    gradients = run("cce_backward", "_cce_backward_kernel", 128, 128, both, num_warps=4, num_stages=4)
    name = "cut-cross-entropy forward"
    return [(name, "bfloat16", [forward]), (f"{name} and gradients", "bfloat16", [forward, gradients])]


def jit_function(module: str, name: str):
    """The kernel below autotuning and heuristics."""
    import triton

    function = getattr(importlib.import_module(module), name)
    while not isinstance(function, triton.runtime.JITFunction):
        function = function.fn
    return function


def launch(device, function, grid: int, values: dict, types: dict, constants: dict, **options):
    """Compiles a Triton kernel for a GPU that is not here, runs it in ptxsim; its counts."""
    import triton
    from ptxsim import Module
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {name: "constexpr" if name in constants else types[name] for name in function.arg_names}
    aligned = [name for name, kind in signature.items() if kind.startswith("*")]
    attributes = {(function.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    constants = {name: value for name, value in constants.items() if name in function.arg_names}
    source = ASTSource(function, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", ARCHITECTURE, WARP), options=options)
    module = Module(compiled.asm["ptx"])
    kernel = module[module.kernels[0]]
    arguments = [values[name] for name in function.arg_names if name not in constants]
    arguments += [None] * (len(kernel.fn.params) - len(arguments))  # scratch
    shared_bytes = compiled.metadata.shared
    return device.launch(kernel, grid, WARP * compiled.metadata.num_warps, arguments, shared_bytes=shared_bytes)
