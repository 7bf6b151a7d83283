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
