"""Scores over the ranks of torch.distributed: candidates of all ranks, gathered or travelling in a ring.

    gather        every rank gets all ranks' rows, O(N d); any source of scores takes them as candidates
    RingScores    candidates travel from rank to rank: a rank holds its own and those passing by, never all
    sum_gradient  a parameter whose gradient is summed over ranks

**Scale of gradients.** backward() on every rank gives a row the gradient of the *sum of all ranks' losses*: what other
ranks' losses ask of a candidate comes back to its owner and is added. DistributedDataParallel then averages parameters'
gradients over ranks, which makes them those of the mean of the ranks' losses: of the loss over the whole batch if each
rank takes the mean over equally many queries, or if all of them compute the whole loss. So nothing is to be multiplied
by the number of ranks; with n queries here of N in all, multiply a rank's mean by n · ranks / N.

All calls are collective: every rank makes them in the same order, and backward() too. Ranks that disagree on a width, a
dtype or on whether a gradient is asked for all get a ValueError instead of waiting for ever. Batches may differ in
size. Without an initialised process group, and with one rank, nothing is sent: results are those of one process.
"""

from .collectives import gather, sum_gradient
from .ring import RingScores

__all__ = ["RingScores", "gather", "sum_gradient"]
