"""The launchers of ranks and entropies on a simulated device, as the raw operators."""

import numpy as np
from gathered_walks import GatheredWalks, _rows_contiguous
from joint_walks import JointWalks
from structs import DotRanking, Features
from walks import Walks, _address, _tensor


class RankingWalks:
    def __init__(self, walks: Walks):
        self.walks = walks
        self.gathered, self.joint = GatheredWalks(walks), JointWalks(walks)

    def dot_ranking(self, x, y, scale, target, x_label, y_label, log_weight, external_positive, tf32=False):
        problem = self.walks._problem(x, y, scale, None, target, x_label, y_label, log_weight, tf32)
        external = self._rows(external_positive, "external positive")
        results, arrays = self._results(len(x), target is not None)
        self.walks._call("ranking", (problem, external), (problem, external, results))
        return tuple(map(_tensor, arrays))

    def gathered_ranking(self, x, y, index, scale, positive):
        problem = self.gathered._problem(x, y, index, scale)
        results, arrays = self._results(len(x), False)
        self.walks._call("gathered_ranking", (problem,), (problem, self._rows(positive, "positive"), results))
        return tuple(map(_tensor, arrays[1:]))

    def joint_ranking(self, *arguments):
        tensors, exclusions = arguments[:5], arguments[5:]
        problem = self.joint._joint(tensors, None, exclusions)
        results, arrays = self._results(len(tensors[0]), True)
        self.walks._call("joint_ranking", (problem,), (problem, results))
        return tuple(map(_tensor, arrays))

    def _rows(self, t, name: str) -> Features:
        if t is None:
            return Features(0, 0, 0)
        t = _rows_contiguous(t)
        return Features(self.walks._place(t, name), len(t), t.stride(0) if len(t) > 1 else t.shape[1])

    def _results(self, n: int, has_positive: bool):
        doubles = [self.walks._doubles(n, name=name) for name in ("positive", "lse", "entropy")]
        arrays = [doubles[0] if has_positive else None, *doubles[1:], self.walks._device.empty((n,), np.int64, "rank")]
        return DotRanking(*map(_address, arrays)), arrays
