"""The launchers of csrc/cuda/joint.h on a simulated device, as the raw operators of csrc/ops/library.cpp."""

import numpy as np
import torch
from structs import (
    DotStatistics,
    Exclusions,
    Features,
    JointGradients,
    JointProblem,
    PartitionWeights,
    UpstreamGradients,
)
from walks import DTYPES, Walks, _address, _tensor


class JointWalks:
    def __init__(self, walks: Walks):
        self.walks = walks

    def _features(self, t, name: str) -> Features:
        if t is None:
            return Features(0, 0, 0)
        rows, width = (t.shape[0], t.shape[1]) if t.dim() == 2 else (1, len(t))
        return Features(self.walks._place(t, name), rows, t.stride(0) if rows > 1 else width)

    def _joint(self, tensors, bias, exclusions) -> JointProblem:
        self.walks._device.reset()
        names = "a", "b", "inner_weight", "inner_bias", "last_weight"
        return JointProblem(
            *map(self._features, tensors, names),
            tensors[0].shape[1],
            DTYPES[tensors[0].dtype],
            self.walks._place(bias, "bias"),
            Exclusions(*(self.walks._place(t, "exclusion") for t in exclusions)),
            self.walks.multiprocessors,
        )

    def _gradients(self, tensors, wanted: bool = True):
        arrays = [self.walks._gradient(t, wanted and t is not None, "gradient") for t in tensors]
        return arrays, JointGradients(*map(_address, arrays))

    # ---- the raw operators; tensors: a, b, inner_weight, inner_bias, last_weight

    def joint_statistics(self, *arguments):
        tensors, exclusions, columns = arguments[:5], arguments[5:9], arguments[9]
        problem = self._joint(tensors, None, exclusions)
        positive = None if exclusions[0] is None else self.walks._doubles(len(tensors[0]), name="positive")
        lse = self.walks._doubles(len(tensors[0]), name="lse")
        column_lse = self.walks._doubles(len(tensors[1]), name="column lse") if columns else None
        statistics = DotStatistics(_address(positive), lse.ptr, _address(column_lse), 0.0)
        self.walks._call("joint_statistics", (problem, statistics), (problem, statistics))
        return _tensor(positive), _tensor(lse), _tensor(column_lse)

    def joint_clipped_lse(self, *arguments):
        tensors, bias, exclusions, clip = arguments[:5], arguments[5], arguments[6:10], arguments[10]
        problem = self._joint(tensors, bias, exclusions)
        lse = self.walks._doubles(len(tensors[0]), name="lse")
        statistics = DotStatistics(0, lse.ptr, 0, clip)
        self.walks._call("joint_statistics", (problem, statistics), (problem, statistics))
        return _tensor(lse)

    def joint_fused(self, *arguments):
        tensors, exclusions, (a, b, is_global) = arguments[:5], arguments[5:9], arguments[9:]
        problem = self._joint(tensors, None, exclusions)
        positive, lse = (self.walks._doubles(len(tensors[0]), name=name) for name in ("positive", "lse"))
        loss = self.walks._doubles(name="loss")
        arrays, gradients = self._gradients(tensors)
        statistics = DotStatistics(positive.ptr, lse.ptr, 0, 0.0)
        weights = PartitionWeights(int(is_global), a, b)
        self.walks._call("joint_fused", (problem,), (problem, weights, statistics, gradients, loss.ptr))
        return tuple(map(_tensor, (loss, *arrays)))

    def joint_gradient(self, *arguments):
        tensors, exclusions, upstream = arguments[:5], arguments[5:9], arguments[9:]
        problem = self._joint(tensors, None, exclusions)
        lse, column_lse, dpositive, dlse, dcolumn_lse = (
            self.walks._place(t.contiguous(), "upstream") for t in upstream
        )
        upstream = UpstreamGradients(lse, dlse, column_lse, dcolumn_lse, dpositive)
        arrays, gradients = self._gradients(tensors)
        self.walks._call("joint_gradient", (problem,), (problem, upstream, gradients))
        return tuple(map(_tensor, arrays))

    def joint_softplus_sum(self, *arguments):
        tensors, bias, exclusions, gradient = arguments[:5], arguments[5], arguments[6:10], arguments[10]
        problem = self._joint(tensors, bias, exclusions)
        value, dbias = (self.walks._doubles(name=name) for name in ("value", "dbias"))
        arrays, gradients = self._gradients(tensors, gradient)
        self.walks._call("joint_softplus_sum", (problem, gradients), (problem, value.ptr, dbias.ptr, gradients))
        return tuple(map(_tensor, (value, *arrays, dbias)))

    def joint_matrix(self, *tensors):
        problem = self._joint(tensors, None, (None,) * 4)
        wide = np.float64 if tensors[0].dtype == torch.float64 else np.float32
        scores = self.walks._device.empty((len(tensors[0]), len(tensors[1])), wide, "scores")
        self.walks._call("joint_matrix", (problem,), (problem, scores.ptr))
        return _tensor(scores)

    def joint_matrix_gradient(self, *arguments):
        tensors, upstream = arguments[:5], arguments[5]
        problem = self._joint(tensors, None, (None,) * 4)
        arrays, gradients = self._gradients(tensors)
        self.walks._call(
            "joint_matrix_gradient", (problem,), (problem, self.walks._place(upstream, "upstream"), gradients)
        )
        return tuple(map(_tensor, arrays))
