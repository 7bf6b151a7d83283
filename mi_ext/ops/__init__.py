"""The operators of the compiled extension, each as a differentiable function: the only user of `torch.ops.mi_ext`.

    dot    s_ij = scale · <x_i, y_j>     x [n, d] queries, y [m, d] candidates; no n×m array exists at any time

`exclusions` = (target [n], x_label [n], y_label [m], candidate_log_weight v [m]), each None or a tensor. The functions
of `mi_ext.reference` have the same signatures and are the truth these are tested against.

Statistics are float64. Two ways lead to a gradient: *fused*, where the loss is known beforehand (one walk over the
scores gives value and gradient), and *recomputed*, for any upstream gradient of the statistics (a second walk). Both
give the same numbers. A second derivative is an error: use `DenseScores` where one is needed.
"""

from .. import _C  # noqa: F401  registers torch.ops.mi_ext
from . import fakes  # noqa: F401
from .cuda import explain_missing_kernels
from .dot import (
    dot_clipped_log_partition,
    dot_cross_entropy_sum,
    dot_log_partition,
    dot_softplus_sum,
    dot_statistics,
)

explain_missing_kernels()

__all__ = [
    "dot_clipped_log_partition",
    "dot_cross_entropy_sum",
    "dot_log_partition",
    "dot_softplus_sum",
    "dot_statistics",
]
