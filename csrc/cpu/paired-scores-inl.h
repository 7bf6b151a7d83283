// Scores made of bfloat16 pairs, float32 from the first sum on: from the registers where they are summed or, by AMX,
// from a block in memory.
#pragma once
#include "paired-block-inl.h"

namespace mi {
namespace MI_ISA {

struct PairedScores {
  const uint16_t* rows;  // y [count][pitch]
  int64_t pitch, dim;    // dim in whole squares
  const PairedBlock& block;
  float factor;  // scale log2 e
  TileExclusions<float> exclusions;

#if defined(__AMX_BF16__)
  // The scores of candidates [first, first + count), before their tiles are asked for.
  void prepare(int64_t first, int64_t count, int64_t lanes) const {
    std::memset(block.scores, 0, in_squares(count) * kQueryBlock * sizeof(float));
    for (int64_t lane = 0; lane < lanes; lane += kSquare)
      for (int64_t row = 0; row < count; row += kSquare)
        add_square(rows + (first + row) * pitch, pitch * 2, block.queries + lane, kQueryBlock * 4, dim / kSquare,
                   block.scores + row * kQueryBlock + lane, kQueryBlock * 4);
  }
#else
  void prepare(int64_t, int64_t, int64_t) const {}
#endif

  // Of candidates from j on, which is row `row` of what was prepared.
  template <int kRows, int kVectors>
  inline __attribute__((always_inline)) Tile<float, kRows, kVectors> tile(int64_t j, int64_t row, int64_t lane) const {
    auto s = Tile<float, kRows, kVectors>::zero();
#if defined(__AMX_BF16__)
#pragma GCC unroll 6
    for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++)
        s.at[r][v] = load(block.scores + (row + r) * kQueryBlock + lane + v * kLanes<float>);
#else
    (void)row;
    multiply_add_pairs(s.at, rows + j * pitch, pitch * 2, block.queries + lane, kQueryBlock * 4, dim / 2);
#endif
#pragma GCC unroll 6
    for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) s.at[r][v] *= factor;
    exclusions.apply(s, j, lane);
    return s;
  }
};

// Exponentials of a tile, kept as candidates from `kept` on, and their sums.
template <int kRows, int kVectors>
MI_NOINLINE void paired_exponential_tile(const PairedScores& scores, const RowSums<float>& sums, int64_t j, int64_t row,
                                         int64_t kept, int64_t lane) {
  const auto s = scores.template tile<kRows, kVectors>(j, row, lane);
  const PairedBlock& block = scores.block;
  exponentiate_tile(
      s, sums, lane,
      [&](const float* highest, int64_t lanes) { raise_paired(block, sums, kept, lane, highest, lanes); },
      [&](int v, const Vec<float>(&e)[kRows]) __attribute__((always_inline)) {
#pragma GCC unroll 3
        for (int r = 0; r < kRows; r += 2)
          block.keep(kept + r, lane + v * kLanes<float>, e[r], r + 1 < kRows ? e[r + 1] : Vec<float>{});
      });
}

// E of the candidates `columns`, the first of which is kept first, and their sums.
MI_INLINE void exponentiate_pairs(const PairedScores& scores, const RowSums<float>& sums, Range columns,
                                  int64_t lanes) {
  for (int64_t j = columns.first; j < columns.last; j += kCandidateBlock) {
    const int64_t count = smaller(kCandidateBlock, columns.last - j);
    scores.prepare(j, count, lanes);
    for_vector_tiles(lanes / kLanes<float>, [&](auto vectors, int64_t vector) {
      for_row_tiles(count, [&](auto tile_rows, int64_t row) {
        paired_exponential_tile<tile_rows(), vectors()>(scores, sums, j + row, row, j - columns.first + row,
                                                        vector * kLanes<float>);
      });
    });
    sums.fold();
  }
}

}  // namespace MI_ISA
}  // namespace mi
