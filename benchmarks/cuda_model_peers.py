"""The Triton kernels of inf-cl and cut-cross-entropy, in the configurations their packages choose, for cuda_model.

A call is a kernel's name → its launches on n × n scores.
"""

import numpy as np

from .cuda_model_counts import Launch
from .cuda_model_triton import jit_function, launched


def inf_cl(n: int, d: int, architecture: str) -> dict[str, list[Launch]]:
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
        tile = 64 * 64 // 8  # of a warp
        options = {"num_warps": 8, "num_stages": 1}
        return launched(device, function, -(-n // 64), values, types, constants, architecture, tile, False, **options)

    forward = run("_prob_fwd_kernel")
    gradients = [run("_dq_prob_bwd_kernel"), run("_dk_prob_bwd_kernel")]
    return {"inf-cl, forward": [forward], "inf-cl, forward and gradients": [forward, *gradients]}


def cut_cross_entropy(n: int, d: int, architecture: str) -> dict[str, list[Launch]]:
    """Log-sum-exp, then both gradients in one kernel; bfloat16, gradients too. Nothing is filtered, filter_eps=None."""
    from ptxsim import Device, f32_to_bf16

    device, rng = Device(), np.random.default_rng(0)
    e, c = (device.to_device(f32_to_bf16(rng.standard_normal((n, d)) / d**0.5)) for _ in range(2))
    values = {"E": e, "C": c, "LSE": device.to_device(np.full(n, -np.inf, np.float32)), "B": n, "V": n, "D": d}
    values |= {"Locks": device.zeros(64, np.uint32), "num_locks": 64, "B_BIN": n, "stride_lse_b": 1}
    values |= {"stride_eb": d, "stride_ed": 1, "stride_cv": d, "stride_cd": 1, "stride_vb": 1}
    values |= {"dOut": device.to_device(np.ones(1, np.float32)), "grad_scale": 1.0}
    values |= {"Targets": device.to_device(np.arange(n))}
    values |= {name: device.zeros((n, d), np.uint16) for name in ("dE", "dC")}
    locks = -(-d // 64)  # for each row of them
    for side in ("de", "dc"):
        values |= {f"n_{side}_locks_0": -(-n // locks), f"n_{side}_locks_1": locks}
        values[f"d{side[1].upper()}Locks"] = device.zeros((-(-n // locks), locks), np.uint32)
    types = {name: "i32" for name in values} | {"Targets": "*i64", "LSE": "*fp32", "dOut": "*fp32"}
    types |= {name: "*bf16" for name in ("E", "C", "dE", "dC")} | {"grad_scale": "fp32"}
    types |= {name: "*u32" for name in ("Locks", "dELocks", "dCLocks")}

    def run(module: str, kernel: str, block_b: int, block_v: int, constants: dict, **options):
        shared = {"Valids": None, "softcap": None, "HAS_VALIDS": False, "HAS_SOFTCAP": False, "GROUP_B": 8}
        shared |= {"BLOCK_B": block_b, "BLOCK_V": block_v, "BLOCK_D": 32, "EVEN_D": True}
        function = jit_function(f"cut_cross_entropy.{module}", kernel)
        grid = -(-n // block_b) * -(-n // block_v)
        tile = block_b * block_v // options["num_warps"]  # a block of threads has no other
        return launched(device, function, grid, values, types, shared | constants, architecture, tile, True, **options)

    no_average = {"LA": None, "HAS_LA": False, "DOT_PRECISION": "tf32"}
    forward = run("cce_lse_forward", "_cce_lse_forward_kernel", 256, 128, no_average, num_warps=8, num_stages=3)
    both = {"VocabOrdering": None, "HAS_VOCAB_ORDERING": False, "MM_BACK_BLOCK_D": 64, "MM_BACK_EVEN_D": True}
    both |= {
        "ITEM_DO": True,
        "FILTER_GRAD": False,
        "filter_eps": None,
        "HAS_TARGETS": True,
        "SHIFT": False,
        "REQUIRES_GRAD": True,
    }
    gradients = run("cce_backward", "_cce_backward_kernel", 128, 128, both, num_warps=4, num_stages=4)
    name = "cut-cross-entropy, forward"
    return {name: [forward], f"{name} and gradients": [forward, gradients]}


# name: (calls, dtype, queries that are whole tiles)
PEERS = {"inf-cl": (inf_cl, "tf32", 128), "cut-cross-entropy": (cut_cross_entropy, "bfloat16", 256)}
