// The two products of a gradient by products of parts.
#pragma once
#include "part-scores-inl.h"
#include "products-inl.h"

namespace mi {
namespace MI_ISA {

template <>
struct GradientProducts<float> {
  static constexpr int64_t kColumns = 16 * kSquare;  // of y that are split together

  uint32_t* lanes = nullptr;     // y, the operand B: candidates by columns
  float* scaled = nullptr;       // c x [kQueryBlock][width]
  uint32_t* weighted = nullptr;  // c x / unit, the operand B: queries by columns
  float* unit = nullptr;         // [1]

  void place(const DotProblem& p, bool for_candidates, Arena& arena) {
    const int64_t width = padded<float>(p.dim);
    lanes = arena.take<uint32_t>(operand_words(smaller(kColumns, width), kCandidateBlock));
    if (!for_candidates) return;
    scaled = arena.take<float>(kQueryBlock * width);
    weighted = arena.take<uint32_t>(operand_words(width, kQueryBlock));
    unit = arena.take<float>(1);
  }

  void weigh(const QueryBlock<float>& queries, const float* coefficient) const {
    const int64_t width = queries.width;
    for (int64_t i = 0; i < queries.rows; i++)
      for (int64_t k = 0; k < width; k++) scaled[i * width + k] = coefficient[i] * queries.natural[i * width + k];
    FloatMatrix matrix{scaled, width, queries.rows, width};
    *unit = matrix.unit();
    matrix.factor = 1 / *unit;
    split_lanes<false>(matrix, weighted);
  }

  void add_to_queries(const float* weights, const Candidates<float>& y, int64_t first, int64_t count,
                      const QueryBlock<float>& queries, float* sums) const {
    const int64_t width = queries.width;
    if (queries.rows == 0) return;
    for (int64_t j = 0; j < count; j += kCandidateBlock)
      for (int64_t k = 0; k < width; k += kColumns) {
        const int64_t depth = smaller(kCandidateBlock, count - j), columns = smaller(kColumns, width - k);
        split_lanes<false>(matrix_of(y, first + j, depth, k, columns), lanes);
        multiply_parts<true, true>({weights + j * kQueryBlock, kQueryBlock, depth, queries.rows},
                                   {lanes, squares(depth)}, sums + k, width, columns);
      }
  }

  void add_to_candidates(const float* weights, int64_t count, const QueryBlock<float>& queries, float* sums,
                         int64_t pitch) const {
    if (queries.rows == 0) return;
    multiply_parts<false, true>({weights, kQueryBlock, count, queries.rows}, {weighted, squares(queries.rows), *unit},
                                sums, pitch, queries.width);
  }
};

}  // namespace MI_ISA
}  // namespace mi
