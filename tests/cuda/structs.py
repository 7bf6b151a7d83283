"""csrc/core/params.h, for ctypes. A pointer is a device address, 0 for null."""

import ctypes

POINTER, INT64, DOUBLE, INT, BOOL = ctypes.c_uint64, ctypes.c_int64, ctypes.c_double, ctypes.c_int, ctypes.c_bool


def _struct(name: str, **fields):
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


Features = _struct("Features", data=POINTER, rows=INT64, pitch=INT64)
Exclusions = _struct(
    "Exclusions", target=POINTER, query_label=POINTER, candidate_label=POINTER, candidate_log_weight=POINTER
)
DotProblem = _struct(
    "DotProblem",
    queries=Features,
    candidates=Features,
    dim=INT64,
    dtype=INT,
    scale=POINTER,
    bias=POINTER,
    exclusions=Exclusions,
    tf32=BOOL,
    multiprocessors=INT,
    capability=INT,
)
DotGradients = _struct("DotGradients", queries=POINTER, candidates=POINTER, scale=POINTER, bias=POINTER)
DotStatistics = _struct(
    "DotStatistics", positive=POINTER, negative_lse=POINTER, column_negative_lse=POINTER, clip=DOUBLE
)
PartitionWeights = _struct("PartitionWeights", partition=INT, positive_log_weight=DOUBLE, negative_log_weight=DOUBLE)
UpstreamGradients = _struct(
    "UpstreamGradients",
    negative_lse_value=POINTER,
    negative_lse=POINTER,
    column_negative_lse_value=POINTER,
    column_negative_lse=POINTER,
    positive=POINTER,
)
DotRanking = _struct("DotRanking", positive=POINTER, negative_lse=POINTER, entropy=POINTER, rank=POINTER)

Pair, Triple, Doubles = POINTER * 2, POINTER * 3, DOUBLE * 3
ImportanceProblem = _struct("ImportanceProblem", first=DotProblem, second=DotProblem)
ImportanceStatistics = _struct("ImportanceStatistics", positive=Pair, negative_lse=Triple)
ImportanceUpstream = _struct("ImportanceUpstream", positive=Pair, negative_lse=Triple, weights_detached=BOOL)
ImportanceGradients = _struct("ImportanceGradients", queries=Pair, candidates=POINTER, scale=Pair)
ImportanceObjective = _struct(
    "ImportanceObjective", weight=Doubles, weights_detached=BOOL, log_mass=POINTER, external_positive=Pair
)
GatheredProblem = _struct(
    "GatheredProblem",
    queries=Features,
    candidates=Features,
    index=POINTER,
    query_pitch=INT64,
    negatives=INT64,
    dim=INT64,
    dtype=INT,
    scale=POINTER,
    bias=POINTER,
    multiprocessors=INT,
)
GatheredLoss = _struct(
    "GatheredLoss", positive=POINTER, negative_lse=POINTER, positive_gradient=POINTER, row_weight=POINTER, loss=POINTER
)
PairWeights = _struct("PairWeights", scores=POINTER, negative_lse=POINTER, row_weight=POINTER)
SortedPairs = _struct("SortedPairs", first=INT64, queries=INT64, row=POINTER, pair=POINTER)
JointProblem = _struct(
    "JointProblem",
    queries=Features,
    candidates=Features,
    inner_weight=Features,
    inner_bias=Features,
    last_weight=Features,
    hidden=INT64,
    dtype=INT,
    bias=POINTER,
    exclusions=Exclusions,
    multiprocessors=INT,
)
JointGradients = _struct(
    "JointGradients",
    queries=POINTER,
    candidates=POINTER,
    inner_weight=POINTER,
    inner_bias=POINTER,
    last_weight=POINTER,
)
