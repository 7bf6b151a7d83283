"""The launchers of csrc/cuda/gathered.h on a simulated device, as the raw operators of csrc/ops/library.cpp."""

import ctypes

import numpy as np
import torch
from structs import (
    DotGradients,
    Features,
    GatheredLoss,
    GatheredProblem,
    PairWeights,
    PartitionWeights,
    SortedPairs,
    UpstreamGradients,
)
from walks import DTYPES, Walks, _address, _tensor

NO_INDEX = 1  # an empty index is an index: its address is not null


class GatheredWalks:
    """Does what csrc/ops/gathered_cuda.cpp does: allocates, sorts, and calls the launchers one after another."""

    def __init__(self, walks: Walks):
        self._walks = walks
        self.pairs_sorted = 1 << 22

    @property
    def launches(self):
        return self._walks.launches

    # ---- problems and results

    def _problem(self, x, y, index, scale, bias=None) -> GatheredProblem:
        walks = self._walks
        walks._device.reset()
        walks.launches = []
        self._index = index
        x = _rows_contiguous(x)
        if index is None:
            y = y if y.shape[2] <= 1 or y.stride(2) == 1 else y.contiguous()
            candidates = Features(walks._place(y, "y"), y.shape[0] * y.shape[1], y.stride(1))
        else:
            y = _rows_contiguous(y)
            candidates = Features(walks._place(y, "y"), len(y), y.stride(0) if len(y) > 1 else y.shape[1])
        return GatheredProblem(
            Features(walks._place(x, "x"), len(x), x.stride(0) if len(x) > 1 else x.shape[1]),
            candidates,
            0 if index is None else walks._place(index.contiguous(), "index") or NO_INDEX,
            y.stride(0) if index is None else 0,
            y.shape[1] if index is None else index.shape[1],
            x.shape[1],
            DTYPES[x.dtype],
            walks._place(scale, "scale"),
            walks._place(bias, "bias"),
            walks.multiprocessors,
        )

    def _run(self, name: str, problem, arguments, query_gradient: bool) -> None:
        size = self._walks._size("gathered_workspace", (problem, ctypes.c_bool(query_gradient)))
        self._walks._run(name, size, (problem, *arguments))

    def _scores(self, x, problem, wanted: bool) -> int:
        scalar = np.float64 if x.dtype == torch.float64 else np.float32
        return self._walks._device.empty((len(x), problem.negatives), scalar, "scores").ptr if wanted else 0

    def _doubles(self, *names_and_shapes):
        return [self._walks._doubles(*shape, name=name) for name, *shape in names_and_shapes]

    def _candidate_gradient(self, x, y, problem, scores: int, negative_lse: int = 0, row_weight: int = 0):
        if not scores:
            return None
        dy, weights = self._walks._gradient(y, True, "dy"), PairWeights(scores, negative_lse, row_weight)
        if self._index is None:
            size = self._walks._size("negatives_gradient_workspace", (problem,))
            self._walks._run("negatives_gradient", size, (problem, weights, dy.ptr))
            return dy
        m = problem.negatives
        block = max(1, self.pairs_sorted // max(m, 1))
        for first in range(0, max(len(x), 1), block):
            queries = min(block, len(x) - first)
            keys = self._walks._device.empty((queries * m,), np.int32, "keys")
            block_of = SortedPairs(first, queries, 0, 0)
            self._walks._run("bank_keys", 0, (problem, block_of, keys.ptr))
            row, pair = torch.sort(_tensor(keys), stable=True)
            block_of.row, block_of.pair = self._walks._place(row, "rows"), self._walks._place(pair, "pairs")
            size = self._walks._size("bank_gradient_workspace", (problem, block_of))
            self._walks._run("bank_gradient", size, (problem, weights, block_of, dy.ptr))
        return dy

    # ---- the raw operators

    def gathered_lse(self, x, y, index, scale):
        return self._lse(x, self._problem(x, y, index, scale), 0.0)

    def gathered_clipped_lse(self, x, y, index, scale, bias, clip):
        return self._lse(x, self._problem(x, y, index, scale, bias), clip)

    def _lse(self, x, problem, clip):
        (lse,) = self._doubles(("lse", len(x)))
        self._run("gathered_lse", problem, (ctypes.c_double(clip), lse.ptr), False)
        return _tensor(lse)

    def gathered_fused(self, x, y, index, scale, positive, a, b, is_global, candidate_gradient):
        problem = self._problem(x, y, index, scale)
        lse, dpositive, row_weight = self._doubles(*((name, len(x)) for name in ("lse", "dpositive", "row weight")))
        loss, dscale = self._doubles(("loss",), ("dscale",))
        dx, scores = self._walks._gradient(x, True, "dx"), self._scores(x, problem, candidate_gradient)
        positive = self._walks._place(positive.contiguous(), "positive")
        partition = GatheredLoss(positive, lse.ptr, dpositive.ptr, row_weight.ptr, loss.ptr)
        weights, gradients = PartitionWeights(int(is_global), a, b), DotGradients(dx.ptr, 0, dscale.ptr, 0)
        self._run("gathered_fused", problem, (weights, partition, gradients, scores), True)
        dy = self._candidate_gradient(x, y, problem, scores, lse.ptr, row_weight.ptr)
        return tuple(map(_tensor, (loss, dx, dy, dscale, dpositive)))

    def gathered_gradient(self, x, y, index, scale, negative_lse, grad_negative_lse, candidate_gradient):
        problem = self._problem(x, y, index, scale)
        lse, upstream = (self._walks._place(t.contiguous(), "upstream") for t in (negative_lse, grad_negative_lse))
        (dscale,) = self._doubles(("dscale",))
        dx, scores = self._walks._gradient(x, True, "dx"), self._scores(x, problem, candidate_gradient)
        arguments = UpstreamGradients(lse, upstream), DotGradients(dx.ptr, 0, dscale.ptr, 0), scores
        self._run("gathered_gradient", problem, arguments, True)
        dy = self._candidate_gradient(x, y, problem, scores, lse, upstream)
        return tuple(map(_tensor, (dx, dy, dscale)))

    def gathered_softplus_sum(self, x, y, index, scale, bias, query_gradient, candidate_gradient):
        problem = self._problem(x, y, index, scale, bias)
        value, dscale, dbias = self._doubles(("value",), ("dscale",), ("dbias",))
        dx, scores = self._walks._gradient(x, query_gradient, "dx"), self._scores(x, problem, candidate_gradient)
        gradients = DotGradients(_address(dx), 0, dscale.ptr, dbias.ptr)
        self._run("gathered_softplus_sum", problem, (value.ptr, gradients, scores), query_gradient)
        dy = self._candidate_gradient(x, y, problem, scores)
        return tuple(map(_tensor, (value, dx, dy, dscale, dbias)))


def _rows_contiguous(t):
    usable = t.shape[1] <= 1 or t.stride(1) == 1
    return t if usable and (len(t) <= 1 or t.stride(0) >= t.shape[1]) else t.contiguous()
