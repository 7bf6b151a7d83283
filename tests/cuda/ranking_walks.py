"""The launcher of csrc/cuda/ranking.h on a simulated device, as the raw operator."""

import numpy as np
from structs import DotRanking, Features
from walks import Walks, _address, _tensor


class RankingWalks:
    def __init__(self, walks: Walks):
        self.walks = walks

    def dot_ranking(self, x, y, scale, target, x_label, y_label, log_weight, external_positive, tf32=False):
        walks, n = self.walks, len(x)
        problem = walks._problem(x, y, scale, None, target, x_label, y_label, log_weight, tf32)
        external = Features(0, 0, 0)
        if external_positive is not None:
            pitch = external_positive.stride(0) if n > 1 else x.shape[1]
            external = Features(walks._place(external_positive, "external positive"), n, pitch)
        positive = None if target is None else walks._doubles(n, name="positive")
        lse, entropy = walks._doubles(n, name="lse"), walks._doubles(n, name="entropy")
        rank = walks._device.empty((n,), np.int64, "rank")
        results = DotRanking(_address(positive), lse.ptr, entropy.ptr, rank.ptr)
        walks._call("ranking", (problem, external), (problem, external, results))
        return tuple(map(_tensor, (positive, lse, entropy, rank)))
