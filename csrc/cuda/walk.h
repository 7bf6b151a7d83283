// What a kernel that walks over scores is told. One side owns a block of threads, row by row, the other streams by: the
// same kernel serves queries and candidates with their sides exchanged.
#pragma once
#include <cstdint>

namespace mi::cuda {

// What the weights of a gradient need to know of a row. Log2 units; -log2 of a factor is part of the reference.
//   exponential: w = sign 2^(s - reference);  softplus: w = sign sigmoid(s)
template <class Scalar>
struct alignas(4 * sizeof(Scalar)) Term {
  Scalar reference, sign;
  Scalar positive;  // the weight of the row's positive
  Scalar unused;
};

constexpr int kRowsPastEnd = 256;  // two tiles of the streamed side, at most

struct WalkSide {
  const void* data = nullptr;  // 16-byte aligned
  int64_t rows = 0;
  int64_t pitch = 0;                // bytes, a multiple of 16
  const int64_t* target = nullptr;  // row of the other side
  const int64_t* label = nullptr;
  const void* log_weight = nullptr;  // Scalar, log2 units
  const void* terms = nullptr;       // Term<Scalar>
  const void* references = nullptr;  // of the terms, Scalar, and of kRowsPastEnd more
};

struct Walk {
  WalkSide owner, streamed;
  int64_t row_bytes = 0;  // of the features in a row
  const double* scale = nullptr;
  const double* bias = nullptr;
  double clip = 0;          // > 0: scores are clamped
  int tiles_per_split = 0;  // of the streamed side, for blockIdx.y
  bool exact = true;        // float by three products, not one
};

constexpr int kRowsDecided = 32;  // together whether their log-sum-exps are known

// A row's part of a reduction: 2^reference sum, or a softplus sum and the sum of its derivatives.
template <class Scalar>
struct alignas(2 * sizeof(Scalar)) RowPart {
  Scalar reference, sum;
};

struct ForwardParams {
  Walk walk;
  double* positive = nullptr;      // [owner rows], where there are targets; may be null
  void* parts = nullptr;           // RowPart [splits][warps across][owner rows]
  const int* undecided = nullptr;  // [ceil(owner rows / kRowsDecided)] not 0: walk over them; null: over all
};

struct TwoSidedParams {
  Walk walk;
  double* positive = nullptr;    // as ForwardParams
  void* row_parts = nullptr;     // RowPart [splits][warps across][owner rows]
  void* column_parts = nullptr;  // RowPart [slots][warps down][column_pitch]
  int64_t column_pitch = 0;      // streamed rows in whole tiles
};

enum class Weights {
  kFixed,     // sum over the sides that have terms of sign 2^(s - reference)
  kSoftplus,  // sign sigmoid(s), of the side that has terms
  kOnline,    // 2^(s - r), r the row's running reference
};

struct GradientParams {
  Walk walk;
  bool owner_term = false, streamed_term = false;
  const double* any_negative = nullptr;  // > 0: signs matter
  const double* unit = nullptr;          // softplus: what weights are measured in
  double* positive = nullptr;            // [owner rows], as ForwardParams
  void* products = nullptr;              // Scalar [splits][owner rows][d], sum_j w_ij y_j
  void* parts = nullptr;                 // RowPart [splits][owner rows], online
  int64_t dim = 0;
};

}  // namespace mi::cuda
