"""Contrastive bounds on mutual information and losses made of them, without the n×m score matrix; all in nats.

Scores      DotScores, GatheredScores, JointScores, DenseScores: where scores come from, log-partitions, …
bounds      infonce, ml_cpc, nwj, donsker_varadhan, tuba, smile, …: scores → estimate of MI, to maximise
losses      InfoNCE, NTXent, CLIP, SigLIP, DCL, SupCon, MoCo, MLCPC, CRD, KPair, DIM, …: embeddings → loss, to minimise
negatives   Queue, MemoryBank: negatives that outlive a batch; resample: draws from a softmax of scores
critics     Bilinear, Separable, Cosine, Joint: modules (x, y) → scores
estimate    MutualInformationEstimator: fit(x, y).estimate() in nats; python -m mi_ext does it for files
distributed gather, RingScores: candidates of all ranks of torch.distributed; from mi_ext.distributed import …
dropin      peers' losses by their own names: from mi_ext.dropin.info_nce import InfoNCE, and nine others
reference   the same operations in plain torch on the explicit matrix, the truth that tests compare with
"""

from . import bounds, critics, losses, negatives, reference
from .estimate import MutualInformationEstimator
from .scores import DenseScores, DotScores, GatheredScores, JointScores

__all__ = [
    "DenseScores",
    "DotScores",
    "GatheredScores",
    "JointScores",
    "MutualInformationEstimator",
    "bounds",
    "critics",
    "losses",
    "negatives",
    "reference",
]
