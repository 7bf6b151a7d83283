// Features as the tiles read them: the compute type, padded to whole vectors.
#pragma once
#include "../core/params.h"
#include "tile-inl.h"
#include "workspace.h"

namespace mi {
namespace MI_ISA {

constexpr int64_t kChunk = 64;           // columns of d handled together; the pitch of a copied candidate
constexpr int64_t kCandidateBlock = 96;  // candidates that pass a panel of queries, or two products, at a time

MI_INLINE int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }
MI_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <class T>
MI_INLINE int64_t padded(int64_t count) {
  return round_up(count, kLanes<T>);
}

#if defined(__aarch64__)
typedef __fp16 Float16;
#else
typedef _Float16 Float16;
#endif

MI_INLINE float bfloat16_value(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// out[k] = row[first + k] in the compute type.
template <class T>
MI_INLINE void convert(T* out, const Features& features, Dtype dtype, int64_t row, int64_t first, int64_t count) {
  const int64_t offset = row * features.pitch + first;
  switch (dtype) {
    case Dtype::kFloat32:
      for (int64_t k = 0; k < count; k++) out[k] = static_cast<const float*>(features.data)[offset + k];
      break;
    case Dtype::kFloat64:
      for (int64_t k = 0; k < count; k++) out[k] = static_cast<const double*>(features.data)[offset + k];
      break;
    case Dtype::kBFloat16:
      for (int64_t k = 0; k < count; k++)
        out[k] = bfloat16_value(static_cast<const uint16_t*>(features.data)[offset + k]);
      break;
    case Dtype::kFloat16:
      for (int64_t k = 0; k < count; k++) out[k] = static_cast<const Float16*>(features.data)[offset + k];
      break;
  }
}

// Candidates y: element (j, k) at data + (k / 64) chunk + j pitch + k % 64. Read in place where rows are whole vectors
// of the compute type and short; otherwise from a copy, 64 columns of d after another (a long pitch falls into few
// cache sets).
template <class T>
struct Candidates {
  const T* data = nullptr;
  T* copy = nullptr;
  int64_t pitch = 0;
  int64_t chunk = 0;

  static bool in_place(const DotProblem& p) {
    const bool same_type = p.dtype == (sizeof(T) == 8 ? Dtype::kFloat64 : Dtype::kFloat32);
    return same_type && p.dim % kLanes<T> == 0 && p.candidates.pitch * sizeof(T) < 1024;
  }

  void place(const DotProblem& p, Arena& arena) {
    if (in_place(p)) {
      data = static_cast<const T*>(p.candidates.data);
      pitch = p.candidates.pitch;
      chunk = kChunk;
    } else {
      data = copy = arena.take<T>(p.m() * round_up(p.dim, kChunk));
      pitch = kChunk;
      chunk = p.m() * kChunk;
    }
  }

  void fill(const DotProblem& p, int64_t first, int64_t last) const {
    if (copy == nullptr) return;
    for (int64_t c = 0; c * kChunk < p.dim; c++) {
      const int64_t count = smaller(kChunk, p.dim - c * kChunk);
      for (int64_t j = first; j < last; j++) {
        T* out = copy + c * chunk + j * pitch;
        convert(out, p.candidates, p.dtype, j, c * kChunk, count);
        for (int64_t k = count; k < kChunk; k++) out[k] = 0;
      }
    }
  }
};

// Per-candidate side inputs in the compute type.
template <class T>
struct CandidateSide {
  T* log_weight = nullptr;  // v_j log2 e; or e^{v_j} where the weights multiply
  IntOf<T>* label = nullptr;

  void place(const DotProblem& p, Arena& arena) {
    if (p.exclusions.candidate_log_weight) log_weight = arena.take<T>(p.m());
    if (p.exclusions.candidate_label) label = arena.take<IntOf<T>>(p.m());
  }

  void fill(const DotProblem& p, int64_t first, int64_t last, bool multiply) const {
    for (int64_t j = first; j < last; j++) {
      if (log_weight) {
        const double v = p.exclusions.candidate_log_weight[j];
        log_weight[j] = static_cast<T>(multiply ? std::exp(v) : v * kLog2E);
      }
      if (label) label[j] = static_cast<IntOf<T>>(p.exclusions.candidate_label[j]);
    }
  }
};

// The queries one thread works on.
template <class T>
struct QueryBlock {
  int64_t first = 0, rows = 0, vectors = 0;
  int64_t width = 0;                // padded d
  T* natural = nullptr;             // [rows][width]
  T* positive = nullptr;            // [kQueryBlock] score of the positive, log2 units
  int64_t* target = nullptr;        // [kQueryBlock]
  IntOf<T>* label = nullptr;        // [kQueryBlock]
  uint8_t* has_positive = nullptr;  // per 6 candidates: one of them is a positive of this block

  void place(const DotProblem& p, Arena& arena) {
    width = padded<T>(p.dim);
    natural = arena.take<T>(kQueryBlock * width);
    positive = arena.take<T>(kQueryBlock);
    if (p.exclusions.target) target = arena.take<int64_t>(kQueryBlock);
    if (p.exclusions.query_label) label = arena.take<IntOf<T>>(kQueryBlock);
    if (p.exclusions.target) has_positive = arena.take<uint8_t>(p.m() / kRowsHigh + 1);
  }

  void clear_marks(const DotProblem& p) const {
    if (has_positive) std::memset(has_positive, 0, p.m() / kRowsHigh + 1);
  }

  void load(const DotProblem& p, int64_t first_row, int64_t row_count) {
    if (target)
      for (int64_t i = 0; i < rows; i++) has_positive[target[i] / kRowsHigh] = 0;
    first = first_row, rows = row_count, vectors = padded<T>(rows) / kLanes<T>;
    for (int64_t i = 0; i < rows; i++) {
      convert(natural + i * width, p.queries, p.dtype, first + i, 0, p.dim);
      for (int64_t k = p.dim; k < width; k++) natural[i * width + k] = 0;
    }
    for (int64_t i = 0; i < kQueryBlock; i++) {
      if (target) target[i] = i < rows ? p.exclusions.target[first + i] : -1;
      if (label) label[i] = i < rows ? static_cast<IntOf<T>>(p.exclusions.query_label[first + i]) : 0;
      positive[i] = 0;
    }
    if (target)
      for (int64_t i = 0; i < rows; i++) has_positive[target[i] / kRowsHigh] = 1;
  }
};

// A block's queries across the lanes, times scale log2 e, in panels: [kQueryBlock / kPanel][d][kPanel]. The factor is
// a double: rounded, it would shift all scores one way, while the roundings of its products with x_ik cancel.
template <class T>
struct TransposedQueries {
  T* data = nullptr;
  int64_t dim = 0;

  void place(const DotProblem& p, int64_t, Arena& arena) {
    dim = p.dim;
    data = arena.take<T>(dim * round_up(kQueryBlock, kPanel<T>));
  }

  const T* at(int64_t lane) const { return data + lane / kPanel<T> * dim * kPanel<T> + lane % kPanel<T>; }

  void fill(const DotProblem& p, const QueryBlock<T>& queries) const {
    const double factor = p.scale * kLog2E;
    for (int64_t i = 0; i < queries.vectors * kLanes<T>; i++) {
      T* out = data + (at(i) - data);
      for (int64_t k = 0; k < dim; k++)
        out[k * kPanel<T>] = i < queries.rows ? static_cast<T>(queries.natural[i * queries.width + k] * factor) : T(0);
    }
  }
};

}  // namespace MI_ISA
}  // namespace mi
