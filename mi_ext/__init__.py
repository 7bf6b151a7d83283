"""Contrastive bounds on mutual information and losses made of them, without the n×m score matrix; all in nats.

Scores      DotScores, JointScores, DenseScores   where scores come from: log-partitions, cross-entropies, …
bounds      infonce, ml_cpc, nwj, donsker_varadhan, tuba, smile, …: scores → estimate of MI, to maximise
losses      InfoNCE, NTXent, CLIP, SigLIP, DCL, SupCon, MoCo, MLCPC: embeddings → loss, to minimise
critics     Bilinear, Separable, Cosine, Joint: modules (x, y) → scores
reference   the same operations in plain torch on the explicit matrix, the truth that tests compare with
"""

from . import bounds, critics, losses, reference
from .scores import DenseScores, DotScores, JointScores

__all__ = ["DenseScores", "DotScores", "JointScores", "bounds", "critics", "losses", "reference"]
