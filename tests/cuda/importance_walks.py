"""The launchers of csrc/cuda/importance.h on a simulated device, as the raw operators."""

from structs import (
    Doubles,
    ImportanceGradients,
    ImportanceObjective,
    ImportanceProblem,
    ImportanceStatistics,
    ImportanceUpstream,
    Pair,
    Triple,
)
from walks import Walks, _address, _tensor


class ImportanceWalks:
    def __init__(self, walks: Walks):
        self.walks = walks

    def importance_statistics(self, x1, x2, y, scale1, scale2, target, x_label, y_label, log_weight, tf32=False):
        problem = self._problem(x1, x2, y, scale1, scale2, target, x_label, y_label, log_weight, tf32)
        statistics, arrays = self._statistics(len(x1), target)
        self.walks._call("importance_statistics", (problem,), (problem, statistics))
        return tuple(map(_tensor, arrays))

    def importance_fused(self, x1, x2, y, scale1, scale2, target, x_label, y_label, log_weight, *rest):
        external1, external2, log_mass, w1, w2, w3, detached, candidate_gradient, tf32 = (*rest, False)[:9]
        walks = self.walks
        problem = self._problem(x1, x2, y, scale1, scale2, target, x_label, y_label, log_weight, tf32)
        statistics, _ = self._statistics(len(x1), target)
        gradients, arrays = self._gradients(x1, x2, y, candidate_gradient)
        external = Pair(*(walks._place(t, "external positive") for t in (external1, external2)))
        objective = ImportanceObjective(Doubles(w1, w2, w3), detached, walks._place(log_mass, "log mass"), external)
        positive_gradient = [walks._doubles(len(x1), name="positive gradient") for _ in range(2)]
        loss, terms = walks._doubles(name="loss"), walks._doubles(3, name="terms")
        pair = Pair(*(array.ptr for array in positive_gradient))
        arguments = problem, objective, statistics, gradients, pair, loss.ptr, terms.ptr
        walks._call("importance_fused", (problem, gradients), arguments)
        return tuple(map(_tensor, (loss, terms, *arrays, *positive_gradient)))

    def importance_gradient(self, x1, x2, y, scale1, scale2, target, x_label, y_label, log_weight, *rest):
        statistics, upstream, (detached, candidate_gradient, tf32) = rest[:5], rest[5:10], (*rest[10:], False)[:3]
        problem = self._problem(x1, x2, y, scale1, scale2, target, x_label, y_label, log_weight, tf32)
        known = self._five(statistics)
        up = ImportanceUpstream(*self._five(upstream), detached)
        gradients, arrays = self._gradients(x1, x2, y, candidate_gradient)
        arguments = problem, ImportanceStatistics(*known), up, gradients
        self.walks._call("importance_gradient", (problem, gradients), arguments)
        return tuple(map(_tensor, arrays))

    def _problem(self, x1, x2, y, scale1, scale2, *rest) -> ImportanceProblem:
        first = self.walks._problem(x1, y, scale1, None, *rest)
        second = type(first).from_buffer_copy(first)
        second.scale = self.walks._place(scale2, "scale2")
        second.queries.data = self.walks._place(x2, "x2")
        second.queries.pitch = x2.stride(0) if len(x2) > 1 else x2.shape[1]
        return ImportanceProblem(first, second)

    def _five(self, tensors):
        places = [self.walks._place(t.contiguous(), "statistic") for t in tensors]
        return Pair(*places[:2]), Triple(*places[2:])

    def _statistics(self, n, target):
        positive = [None if target is None else self.walks._doubles(n, name="positive") for _ in range(2)]
        lse = [self.walks._doubles(n, name="lse") for _ in range(3)]
        return ImportanceStatistics(Pair(*map(_address, positive)), Triple(*map(_address, lse))), (*positive, *lse)

    def _gradients(self, x1, x2, y, candidate_gradient):
        walks = self.walks
        sides = (x1, True, "dx1"), (x2, True, "dx2"), (y, candidate_gradient, "dy")
        dx1, dx2, dy = (walks._gradient(*side) for side in sides)
        scales = [walks._doubles(name="dscale") for _ in range(2)]
        gradients = ImportanceGradients(Pair(dx1.ptr, dx2.ptr), _address(dy), Pair(*(s.ptr for s in scales)))
        return gradients, (dx1, dx2, dy, *scales)
