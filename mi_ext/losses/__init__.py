"""Contrastive losses as modules: each takes embeddings and returns a loss, 0-dim, in nats, to **minimise**.

Common to all. `temperature` T > 0: a float, or an nn.Parameter to learn it; scores are <x_i, y_j>/T. `normalize=True`
divides embeddings by their length first: scores are cosines over T. Results are float32, or float64 for such inputs.
`forward(..., return_stats=True)` returns (loss, stats) with, detached:
    mi             the estimate of mutual information that belongs to the loss, in nats
    log_partition  [n]: R_i(0, 0), the log of the sum of exp(score) over a row's positive and negatives
    n_negatives    negatives of a row (an int, or int64 [n] where rows differ)
    rank           int64 [n]: negatives that score no less than the positive, so 0 is best; a tie counts against the
                   positive, and embeddings that are all alike rank last
    top1, top5     share of rows with rank < 1, rank < 5: accuracy of the positive among its candidates
    effective_negatives  [n]: e^H, H the entropy of softmax(score) over a row's negatives: how many carry the gradient
The last four take a second walk over the scores; like the loss it holds no matrix of them.
Errors are those of `DotScores`: TypeError or ValueError naming the argument; a loss of no queries is a ValueError.
"""

from .base import ContrastiveLoss
from .crd import CRD
from .dependency import NeuralDependency, shuffle_dimensions
from .dim import DIM, PriorMatching
from .in_batch import CLIP, DCL, InfoNCE, NTXent, SigLIP
from .k_pair import KPair
from .queue import MLCPC, MoCo
from .supervised import SupCon

__all__ = [
    "CLIP",
    "CRD",
    "DCL",
    "DIM",
    "ContrastiveLoss",
    "InfoNCE",
    "KPair",
    "MLCPC",
    "MoCo",
    "NTXent",
    "NeuralDependency",
    "PriorMatching",
    "SigLIP",
    "SupCon",
    "shuffle_dimensions",
]
