"""Sources of scores and the reductions of them that every bound and loss is made of.

    s_ij = scale · f(x_i, y_j) + bias     natural-log domain, rows = queries x, columns = candidates y
    p_i                                   the score of query i with its positive
    negative_lse_i  = log Σ_{j ∈ N_i} exp(s_ij + v_j)                  over the negatives of row i
    R_i(a, b)       = logaddexp(p_i + a, b + negative_lse_i)           row log-partition with log-weights a and b
    T(a, b)         = log Σ_i exp R_i(a, b)                            global log-partition

Statistics are float64 inside, so that differences of large scores are exact; results are float32 for inputs of 32 or 16
bits and float64 for float64 inputs. Everything is in nats.
"""

from .blocks import column_blocks, recomputed
from .dense import DenseScores
from .dot import DotScores
from .gathered import GatheredScores
from .joint import JointScores
from .local_global import LocalGlobalScores
from .pairs import added, importance_cross_entropy_sum
from .shared_columns import SharedColumnScores
from .source import Scores

__all__ = [
    "DenseScores",
    "DotScores",
    "GatheredScores",
    "JointScores",
    "LocalGlobalScores",
    "Scores",
    "SharedColumnScores",
    "added",
    "column_blocks",
    "importance_cross_entropy_sum",
    "recomputed",
]
