"""The operators of the compiled extension, each as a differentiable function: the only user of `torch.ops.mi_ext`.

    dot         s_ij = scale · <x_i, y_j>     x [n, d] queries, y [m, d] candidates; no n×m array exists at any time
    gathered    s_ik = scale · <x_i, y_ik>    y_ik = y[index_ik] of a bank y [V, d], never copied; or y [n, m, d]
    joint       s_ij = <w, relu(a_i + b_j)>  a [n, h], b [m, h], also with a second hidden layer; nothing n×m×h exists
    importance  two query sets on the same candidates: log-sum-exps of s', of s'' and of s' + s'' in one walk

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
    dot_lse_gradient,
    dot_softplus_sum,
    dot_statistics,
)
from .dot_losses import dot_logistic_loss, dot_mean_less_exponential, dot_symmetric_cross_entropy
from .gathered import (
    gathered_clipped_log_partition,
    gathered_cross_entropy_sum,
    gathered_log_partition,
    gathered_negative_lse,
    gathered_softplus_sum,
)
from .importance import importance_cross_entropy_sum, importance_statistics
from .joint import (
    joint_clipped_log_partition,
    joint_cross_entropy_sum,
    joint_log_partition,
    joint_matrix,
    joint_softplus_sum,
    joint_statistics,
)
from .linear import unit_rows
from .ranking import dot_ranking, gathered_ranking, joint_ranking
from .vmap import register_vmap_of_operators

explain_missing_kernels()
register_vmap_of_operators()

__all__ = [
    "dot_clipped_log_partition",
    "dot_cross_entropy_sum",
    "dot_log_partition",
    "dot_logistic_loss",
    "dot_lse_gradient",
    "dot_mean_less_exponential",
    "dot_ranking",
    "dot_softplus_sum",
    "dot_statistics",
    "dot_symmetric_cross_entropy",
    "gathered_clipped_log_partition",
    "gathered_cross_entropy_sum",
    "gathered_log_partition",
    "gathered_negative_lse",
    "gathered_ranking",
    "gathered_softplus_sum",
    "joint_clipped_log_partition",
    "joint_cross_entropy_sum",
    "joint_log_partition",
    "joint_matrix",
    "joint_ranking",
    "joint_softplus_sum",
    "joint_statistics",
    "importance_cross_entropy_sum",
    "importance_statistics",
    "unit_rows",
]
