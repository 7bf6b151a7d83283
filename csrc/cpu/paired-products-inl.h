// The arithmetic of a fused walk for bfloat16 inputs: products of 16-bit pairs, float32 sums, float32 scores and
// statistics.
#pragma once
#include "paired-scores-inl.h"
#include "parallel.h"

namespace mi {
namespace MI_ISA {

struct PairedProducts {
  using Scalar = float;
  using Slot = PairedBlock;

  uint16_t* rows = nullptr;        // y [count][row_pitch]
  uint16_t* transposed = nullptr;  // y [dim][column_pitch]
  int64_t dim = 0, count = 0;      // d and m in whole squares
  int64_t row_pitch = 0, column_pitch = 0;

  static constexpr int64_t kUnit = kSquare;               // ranges of candidates begin at a whole square
  static constexpr int64_t kGroup = 8 * kCandidateBlock;  // candidates between loading and storing a square of products

  static int64_t bytes_kept(int64_t m) { return in_squares(m) * kQueryBlock * 4; }

  void place(const DotProblem& p, Arena& arena) {
    dim = in_squares(p.dim), count = in_squares(p.m());
    row_pitch = dim + kSquare, column_pitch = count + kSquare;  // never a power of two: it falls into few cache sets
    rows = arena.take<uint16_t>(count * row_pitch);
    transposed = arena.take<uint16_t>(dim * column_pitch);
  }
  void place_slot(const DotProblem&, int64_t candidate_count, Slot& slot, Arena& arena) const {
    slot.place(dim, in_squares(candidate_count), arena);
  }

  void fill(const DotProblem& p, Range columns) const {
    const int64_t last = columns.last == p.m() ? count : columns.last;
    for (int64_t j = columns.first; j < last; j++) {
      uint16_t* row = rows + j * row_pitch;
      const int64_t filled = j < p.m() ? p.dim : 0;
      if (filled)
        std::memcpy(row, static_cast<const uint16_t*>(p.candidates.data) + j * p.candidates.pitch, filled * 2);
      for (int64_t k = filled; k < dim; k++) row[k] = 0;
    }
    for (int64_t k0 = 0; k0 < dim; k0 += kSquare)
      for (int64_t j = columns.first; j < last; j++)
        for (int64_t k = k0; k < k0 + kSquare; k++) transposed[k * column_pitch + j] = rows[j * row_pitch + k];
  }

  // E of the block and `columns`, and their sums.
  void exponentiate(const DotProblem& p, const CandidateSide<float>& side, const QueryBlock<float>& queries,
                    Range columns, Slot& slot, const RowSums<float>& sums) const {
    const TileRegisters registers;
    pair_queries(p, queries, slot);
    exponentiate_pairs({rows, row_pitch, dim, slot, static_cast<float>(p.scale * kLog2E), {side, queries}}, sums,
                       columns, in_squares(queries.rows));
    slot.pad(columns.size(), queries.rows);
  }

  // Over `columns`: products [rows][width] = E^T y;  candidate_sums [m][width] += E (c x).
  void multiply(const DotProblem&, const QueryBlock<float>& queries, Range columns, const Slot& slot,
                const float* coefficient, float* products, float* candidate_sums) const {
    const TileRegisters registers;
    weigh_queries(queries, coefficient, slot.weighted);
    std::memset(slot.products, 0, dim * kQueryBlock * sizeof(float));
    const int64_t kept = in_squares(columns.size()), lanes = in_squares(queries.rows);
    for (int64_t j = 0; j < kept; j += kGroup) {
      const int64_t group = smaller(kGroup, kept - j);
      for (int64_t k = 0; k < dim; k += kSquare)
        for (int64_t lane = 0; lane < lanes; lane += kSquare)
          add_square(transposed + k * column_pitch + columns.first + j, column_pitch * 2,
                     slot.by_candidate + j / 2 * kQueryBlock + lane, kQueryBlock * 4, group / kSquare,
                     slot.products + k * kQueryBlock + lane, kQueryBlock * 4);
      for (int64_t row = j; row < smaller(j + group, columns.size()); row += kSquare)
        add_candidate_rows(slot, row, smaller(kSquare, columns.size() - row), lanes, queries.width,
                           candidate_sums + (columns.first + row) * queries.width);
    }
    for (int64_t i = 0; i < queries.rows; i++)
      for (int64_t k = 0; k < queries.width; k++) products[i * queries.width + k] = slot.products[k * kQueryBlock + i];
  }

 private:
  void pair_queries(const DotProblem& p, const QueryBlock<float>& queries, const Slot& slot) const {
    std::memset(slot.queries, 0, dim / 2 * kQueryBlock * 4);
    for (int64_t i = 0; i < queries.rows; i++) {
      const uint16_t* x = static_cast<const uint16_t*>(p.queries.data) + (queries.first + i) * p.queries.pitch;
      for (int64_t k = 0; k + 1 < p.dim; k += 2) std::memcpy(slot.queries + k / 2 * kQueryBlock + i, x + k, 4);
      if (p.dim % 2) std::memcpy(slot.queries + p.dim / 2 * kQueryBlock + i, x + p.dim - 1, 2);
    }
  }

  // c x, 0 beyond the last query and the last column.
  void weigh_queries(const QueryBlock<float>& queries, const float* coefficient, uint32_t* weighted) const {
    const auto weighed = [&](int64_t i, int64_t k) -> Vec<float> {
      if (i >= queries.rows || k >= queries.width) return Vec<float>{};
      return coefficient[i] * load(queries.natural + i * queries.width + k);
    };
    for (int64_t i = 0; i < in_squares(queries.rows); i += 2)
      for (int64_t k = 0; k < dim; k += kLanes<float>)
        _mm512_storeu_si512(weighted + i / 2 * dim + k, in_pairs(both_rounded(weighed(i, k), weighed(i + 1, k))));
  }

  // dy of 32 candidates, of which `valid` are there: one square for every 32 columns of d.
  void add_candidate_rows(const Slot& slot, int64_t row, int64_t valid, int64_t lanes, int64_t width,
                          float* sums) const {
    const uint16_t* weights = slot.by_query + row * kQueryBlock;
    for (int64_t k = 0; k < width; k += kSquare) {
      if (valid == kSquare && k + kSquare <= width)
        add_square(weights, kQueryBlock * 2, slot.weighted + k, dim * 4, lanes / kSquare, sums + k, width * 4);
      else
        add_part_of_square(weights, kQueryBlock * 2, slot.weighted + k, dim * 4, lanes / kSquare, sums + k, width * 4,
                           valid, smaller(kSquare, width - k));
    }
  }
};

}  // namespace MI_ISA
}  // namespace mi
