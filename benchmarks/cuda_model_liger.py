"""Liger's fused linear cross entropy on n × m × d, for cuda_model: its Triton kernel counted, torch's products by hand.

For a chunk of queries Liger calls torch.mm for the scores, in the features' type, then a Triton kernel that reads each
row of them twice and overwrites it with its gradient, then torch.mm and torch.addmm for both gradients. Of torch's
products only what they cannot do without is counted: the flops, and each operand and result once to or from DRAM, the
chunk of scores among them (a large second-level cache may keep it). Their shared memory and instructions are not.
"""

from collections.abc import Callable, Iterator

import numpy as np

from .cuda_model_counts import SIZE, Growth, Launch, summed, work
from .cuda_model_triton import jit_function, launched

COLUMNS = 32768  # the most that a block of the kernel takes at once, and SIZE
WARPS = 32
ITEM = 2  # bytes of bfloat16


class Rows(Growth):
    """Launches on one row of `n` scores, and on two."""

    def each(self, count: Callable[[Launch], float]) -> float:
        return (sum(map(count, self.twice)) - sum(map(count, self.once))) / self.n

    def at_size(self, count: Callable[[Launch], float], size: int) -> float:
        return self.each(count) * size**2

    def launches(self) -> Iterator[Growth]:
        yield self


def liger(d: int, architecture: str) -> dict:
    """The products and the kernel are launches of their own."""
    kernel = Rows(*([cross_entropy(rows, architecture)] for rows in (1, 2)), COLUMNS)
    return summed([work(kernel, SIZE), products(d)], kernel.conflicts, architecture)


def products(d: int) -> dict:
    """Of a score, for SIZE² scores."""
    scores = 3 * ITEM * SIZE**2  # written by the first product, read by the others
    sides = ITEM * d * (SIZE // chunk_of(SIZE, SIZE, d) * 4 * SIZE + 2 * SIZE)
    zero = dict.fromkeys(("exp2", "fp32", "lanes", "waves", "L2 bytes"), 0.0)
    return {"flop": 6.0 * d, "flops": {"bf16": 6.0 * d}, "lanes of": "", **zero, "DRAM bytes": scores + sides}


def chunk_of(n: int, m: int, d: int) -> int:
    """Queries of a chunk: a power of two, so many that its scores are about as many as there are features."""
    chunks = -(-m // d)
    return min(n, 1 << (-(-n // chunks) - 1).bit_length())


def cross_entropy(rows: int, architecture: str) -> Launch:
    from ptxsim import Device, f32_to_bf16

    device, rng = Device(), np.random.default_rng(0)
    scores = device.to_device(f32_to_bf16(rng.standard_normal((rows, COLUMNS))))
    values = {"X_ptr": scores, "Y_ptr": device.to_device(np.arange(rows)), "loss_ptr": device.zeros(rows)}
    values |= {"X_stride": COLUMNS, "Y_stride": 1, "loss_stride": 1, "n_cols": COLUMNS, "n_non_ignore": SIZE}
    values |= {"ignore_index": -100}
    types = {name: "i32" for name in values} | {"X_ptr": "*bf16", "Y_ptr": "*i64", "loss_ptr": "*fp32"}
    constants = dict.fromkeys(("weight_ptr", "z_loss_ptr", "token_accuracy_ptr", "predicted_tokens_ptr", "softcap"))
    constants |= {"token_accuracy_stride": 0, "predicted_tokens_stride": 0, "sum_non_ignore_weight": float(SIZE)}
    constants |= {"weight_sum": 0.0, "lse_square_scale": 0.0, "label_smoothing": 0.0, "reduction": "mean"}
    constants |= dict.fromkeys(("RETURN_Z_LOSS", "RETURN_TOKEN_ACCURACY", "RETURN_PREDICTED_TOKENS"), False)
    constants |= {"HAS_WEIGHT": False, "HAS_SOFTCAPPING": False, "HAS_GRADIENTS": True, "BLOCK_SIZE": COLUMNS}
    function = jit_function("liger_kernel.ops.cross_entropy", "liger_cross_entropy_kernel")
    a_warp = COLUMNS // WARPS
    return launched(device, function, rows, values, types, constants, architecture, a_warp, True, num_warps=WARPS)
