r"""Contrastive bounds on mutual information and losses made of them, without the n×m score matrix; all in nats.

Sources of scores s_ij: their log-partitions and cross-entropies, never all scores at once
    DotScores        s_ij = scale · <x_i, y_j> + bias: a batch, a queue, a bank shared by all queries
    GatheredScores   s_ik = scale · <x_i, bank[index_ik]> + bias: negatives of each query's own
    JointScores      s_ij = MLP([x_i; y_j]): a critic on pairs
    DenseScores      s_ij of a matrix given: any other critic, and any derivative

bounds: scores → estimate of mutual information, 0-dim, to maximise
    infonce, alpha_cpc, ml_cpc                                   classifies the positive; at most log K or log(K/α)
    ml_cpc_min_alpha, alpha_schedule                             which α ml_cpc may take, and how to lower it
    donsker_varadhan, DonskerVaradhanEMA                         log of a mean over negatives; with unbiased gradients
    nwj, f_mine, eta_dv, tuba, interpolated                      without that log: baselines given or learned
    jensen_shannon, smile                                        trained to classify; smile estimates by clipped DV
    eta_dv_convex, sobolev_penalty                               a linear critic, concave in its weights; regularisers
    conditional_infonce, variational_infonce, sir_infonce        I(x'; y | x''), negatives given x''
    conditional_eta_dv                                           I(x; y | z)
    importance_infonce, decomposed_infonce, chained_infonce      I(x'; y | x'') by weights; sums may exceed log K

losses: embeddings → loss, 0-dim, to minimise
    InfoNCE, NTXent, DCL, CLIP, SigLIP, KPair                    negatives are the others of the batch
    MoCo, MLCPC                                                  a queue of negatives; one softmax over all queries
    CRD                                                          a memory of all items
    SupCon                                                       several positives by class labels
    DIM, PriorMatching                                           local against global features; codes match a prior
    NeuralDependency, shuffle_dimensions                         total correlation of the coordinates of a code
    ContrastiveLoss                                              what they share: temperature, normalize, return_stats

critics: modules (x, y) → scores
    Bilinear, Separable, Cosine      products of embeddings, DotScores
    Joint                            one network on the pair, JointScores
    mlp                              an encoder for Separable

negatives: those that outlive a batch
    Queue, MemoryBank                the last keys; a vector for each item
    resample                         draws from a softmax of scores

MutualInformationEstimator    fit(x, y).estimate() in nats, with a standard error; python -m mi_ext does it for files
reference                     the operations in plain torch on the whole matrix: the truth that tests compare with
distributed                   gather, RingScores: the candidates of all ranks; import mi_ext.distributed
dropin                        other packages' losses by their own names; from mi_ext.dropin.info_nce import InfoNCE, …
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
