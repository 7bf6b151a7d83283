// Tiles of scores by products of parts: those of kCandidateBlock candidates with the whole block of queries are
// multiplied together, and the tiles read them.
#pragma once
#include "parts-inl.h"
#include "scores-inl.h"

namespace mi {
namespace MI_ISA {

template <>
struct TransposedQueries<float> {
  uint32_t* lanes = nullptr;  // scale log2 e x, the operand B: d by queries
  float* scores = nullptr;    // [kCandidateBlock][kQueryBlock]
  float* scaled = nullptr;    // [kQueryBlock][width]
  int64_t width = 0;          // padded d

  void place(const DotProblem& p, Arena& arena) {
    width = padded<float>(p.dim);
    lanes = arena.take<uint32_t>(operand_words(kQueryBlock, width));
    scores = arena.take<float>(kCandidateBlock * kQueryBlock);
    scaled = arena.take<float>(kQueryBlock * width);
  }

  void fill(const DotProblem& p, const QueryBlock<float>& queries) const {
    const double factor = p.scale * kLog2E;
    for (int64_t k = 0; k < queries.rows * width; k++) scaled[k] = static_cast<float>(queries.natural[k] * factor);
    split_lanes<true>({scaled, width, queries.rows, width}, lanes);
  }
};

// Candidates first .. first + count, columns k .. k + columns of d; k: a multiple of kChunk.
MI_INLINE FloatMatrix matrix_of(const Candidates<float>& y, int64_t first, int64_t count, int64_t k, int64_t columns) {
  return {y.data + k / kChunk * y.chunk + first * y.pitch, y.pitch, count, columns, y.chunk};
}

template <>
struct BlockScores<float> {
  int64_t dim;
  const Candidates<float>& candidates;
  const TransposedQueries<float>& transposed;
  TileExclusions<float> exclusions;
  mutable int64_t first = 0;  // the candidate whose scores lie first

  int64_t vectors() const { return exclusions.queries.vectors; }

  // What the tiles of candidates j .. j + count read.
  void prepare(int64_t j, int64_t count) const {
    first = j;
    const int64_t width = transposed.width;
    if (vectors() == 0) return;
    multiply_parts<false, false>(matrix_of(candidates, j, count, 0, width), {transposed.lanes, squares(width)},
                                 transposed.scores, kQueryBlock, vectors() * kLanes<float>);
  }

  template <int kRows, int kVectors>
  inline __attribute__((always_inline)) Tile<float, kRows, kVectors> tile(int64_t j, int64_t first_vector) const {
    const int64_t lane = first_vector * kLanes<float>;
    const float* scores = transposed.scores + (j - first) * kQueryBlock + lane;
    Tile<float, kRows, kVectors> s;
#pragma GCC unroll 6
    for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) s.at[r][v] = load(scores + r * kQueryBlock + v * kLanes<float>);
    exclusions.apply(s, j, lane);
    return s;
  }
};

}  // namespace MI_ISA
}  // namespace mi
