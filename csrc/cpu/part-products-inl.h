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
  uint32_t* weighted = nullptr;  // c x, the operand B: queries by columns

  void place(const DotProblem& p, bool for_candidates, Arena& arena) {
    const int64_t width = padded<float>(p.dim);
    lanes = arena.take<uint32_t>(operand_words(smaller(kColumns, width), kCandidateBlock));
    if (!for_candidates) return;
    scaled = arena.take<float>(kQueryBlock * width);
    weighted = arena.take<uint32_t>(operand_words(width, kQueryBlock));
  }

  void weigh(const QueryBlock<float>& queries, const float* coefficient) const {
    const int64_t width = queries.width;
    for (int64_t i = 0; i < queries.rows; i++)
      for (int64_t k = 0; k < width; k++) scaled[i * width + k] = coefficient[i] * queries.natural[i * width + k];
    split_lanes_of_columns({scaled, width, queries.rows, width}, weighted);
  }

  void add_to_queries(const float* weights, const Candidates<float>& y, int64_t first, int64_t count,
                      const QueryBlock<float>& queries, float* sums) const {
    const int64_t width = queries.width;
    for (int64_t j = 0; j < count; j += kCandidateBlock)
      for (int64_t k = 0; k < width; k += kColumns) {
        const int64_t depth = smaller(kCandidateBlock, count - j), columns = smaller(kColumns, width - k);
        split_lanes_of_columns(matrix_of(y, first + j, depth, k, columns), lanes);
        multiply_parts<true>({weights + j * kQueryBlock, kQueryBlock, depth, queries.rows}, {lanes, squares(depth)},
                             sums + k, width, columns, true);
      }
  }

  void add_to_candidates(const float* weights, int64_t count, const QueryBlock<float>& queries, float* sums,
                         int64_t pitch) const {
    multiply_parts<false>({weights, kQueryBlock, count, queries.rows}, {weighted, squares(queries.rows)}, sums, pitch,
                          queries.width, true);
  }
};

}  // namespace MI_ISA
}  // namespace mi
