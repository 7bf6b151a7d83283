// What the kernels on gathered scores are told, and the kernels of one element type as the launchers see them.
#pragma once
#include <cuda_runtime_api.h>

#include "../core/macros.h"
#include "../core/params.h"

namespace mi::cuda {

// Rows of features as a warp reads them.
struct GatheredRows {
  const char* data = nullptr;
  int64_t pitch = 0;  // bytes
  int unit = 16;      // bytes of the widest load that every row allows: 16, 4 or 2
};

// Elements from one row of products to the next: whole pieces of any element type.
MI_HOST_DEVICE int64_t product_pitch(int64_t dim) { return (dim + 7) / 8 * 8; }

// A warp owns a part of a query's negatives; `lanes` of its lanes share a row, 16 bytes at a time.
struct GatheredWalk {
  GatheredRows queries, candidates;
  int64_t query_pitch = 0;         // bytes, without index
  const int64_t* index = nullptr;  // [n][m]
  int64_t n = 0, m = 0;
  int64_t rows = 0;  // that a query may choose from
  int dim = 0, row_bytes = 0;
  const double* scale = nullptr;
  const double* bias = nullptr;
  double clip = 0;         // > 0: scores are clamped
  GatheredRows positives;  // of a ranking, one a query
  int64_t parts = 1, part_size = 0;
  int lanes = 32;
  int chunks = 1;            // of a row too long for the registers of a warp
  void* scores = nullptr;    // Scalar [n][m], log2 units, or null
  void* results = nullptr;   // RowPart [parts][n], or RankingPart of a ranking
  void* products = nullptr;  // Scalar [parts][n][product_pitch], sum_k w_ik y_ik, or null
};

// w = factor 2^(s - reference), or factor sigmoid(s).
template <class Scalar>
struct alignas(2 * sizeof(Scalar)) PairTerm {
  Scalar reference, factor;
};

// Pairs whose scores are known: their weights times the queries make the gradient of the negatives.
struct PairWalk {
  GatheredRows queries;
  int64_t pairs = 0, m = 0;      // pair k is of query k / m
  const void* scores = nullptr;  // Scalar [pairs], log2 units
  const void* terms = nullptr;   // PairTerm [queries]
  bool softplus = false;
  int dim = 0, row_bytes = 0;
  void* out = nullptr;  // Scalar [pairs][d], or [rows][d] of a bank
  // Of a bank:
  int32_t rows = 0;
  const int32_t* row = nullptr;   // [pairs] ascending; `rows`: none
  const int64_t* pair = nullptr;  // [pairs]
  int lanes = 32;                 // that share a chunk of sorted pairs
  void* heads = nullptr;          // Scalar [chunks][d], of runs that began in an earlier chunk
};

constexpr int kGatheredThreads = 128;
constexpr int kBankChunk = 128;  // sorted pairs
constexpr int kPiece = 16;       // bytes of a row that a lane reads at a time

struct GatheredKernels {
  cudaError_t (*queries)(bool softplus, const GatheredWalk&, cudaStream_t);
  cudaError_t (*ranking)(const GatheredWalk&, cudaStream_t);
  cudaError_t (*negatives)(const PairWalk&, cudaStream_t);
  cudaError_t (*bank)(const PairWalk&, cudaStream_t);
};

// One per file in instantiations/.
extern const GatheredKernels gathered_bfloat16, gathered_float16, gathered_float32, gathered_float64;

inline const GatheredKernels& gathered_kernels(Dtype dtype) {
  switch (dtype) {
    case Dtype::kBFloat16:
      return gathered_bfloat16;
    case Dtype::kFloat16:
      return gathered_float16;
    case Dtype::kFloat64:
      return gathered_float64;
    default:
      return gathered_float32;
  }
}

}  // namespace mi::cuda
