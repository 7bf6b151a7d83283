// The arithmetic of a fused walk for bfloat16 inputs: products of 16-bit pairs, float32 sums, float32 scores and
// statistics. E is rounded to bfloat16 for the two gradient products alone, and kept twice, since each of them pairs
// another index.
#pragma once
#include "exponential-inl.h"
#include "pairs-inl.h"
#include "parallel.h"

namespace mi {
namespace MI_ISA {

struct PairedProducts {
  using Scalar = float;
  struct Slot {
    uint32_t* queries = nullptr;       // x, pairs along d: [dim / 2][kQueryBlock]
    uint32_t* weighted = nullptr;      // c x, pairs along the queries: [kQueryBlock / 2][dim]
    float* scores = nullptr;           // [kCandidateBlock][kQueryBlock]
    uint32_t* by_candidate = nullptr;  // E, pairs along the candidates: [count / 2][kQueryBlock]
    uint16_t* by_query = nullptr;      // E, pairs along the queries: [count][kQueryBlock]
    float* products = nullptr;         // [dim][kQueryBlock] sum_j y_jk E_ji
  };

  uint16_t* rows = nullptr;        // y [count][row_pitch]
  uint16_t* transposed = nullptr;  // y [dim][column_pitch]
  int64_t dim = 0, count = 0;      // d and m, rounded up to whole squares
  int64_t row_pitch = 0, column_pitch = 0;

  static constexpr int64_t kUnit = kCandidateBlock;       // ranges of candidates begin at a whole block
  static constexpr int64_t kGroup = 8 * kCandidateBlock;  // candidates between loading and storing a square of products

  static int64_t bytes_kept(int64_t m) { return round_up(m, kCandidateBlock) * kQueryBlock * 4; }

  void place(const DotProblem& p, Arena& arena) {
    dim = round_up(p.dim, kSquare), count = round_up(p.m(), kCandidateBlock);
    row_pitch = dim + kSquare, column_pitch = count + kSquare;  // never a power of two: it falls into few cache sets
    rows = arena.take<uint16_t>(count * row_pitch);
    transposed = arena.take<uint16_t>(dim * column_pitch);
  }

  void place_slot(const DotProblem&, int64_t candidate_count, Slot& slot, Arena& arena) const {
    const int64_t kept = round_up(candidate_count, kCandidateBlock);
    slot.queries = arena.take<uint32_t>(dim / 2 * kQueryBlock);
    slot.weighted = arena.take<uint32_t>(kQueryBlock / 2 * dim);
    slot.scores = arena.take<float>(kCandidateBlock * kQueryBlock);
    slot.by_candidate = arena.take<uint32_t>(kept / 2 * kQueryBlock);
    slot.by_query = arena.take<uint16_t>(kept * kQueryBlock);
    slot.products = arena.take<float>(dim * kQueryBlock);
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
    const TileExclusions<float> exclusions{side, queries};
    const float factor = static_cast<float>(p.scale * kLog2E);
    pair_queries(p, queries, slot);
    for (int64_t j = columns.first; j < columns.last; j += kCandidateBlock) {
      multiply_scores(slot, j);
      float highest[kQueryBlock];
      finish_scores(exclusions, slot, factor, j, p.m(), highest);
      raise(slot, sums, j - columns.first, highest);
      keep_exponentials(slot, sums, j - columns.first);
      sums.fold();
    }
  }

  // Over `columns`: products [rows][width] = E^T y;  candidate_sums [m][width] += E (c x).
  void multiply(const DotProblem&, const QueryBlock<float>& queries, Range columns, const Slot& slot,
                const float* coefficient, float* products, float* candidate_sums) const {
    const TileRegisters registers;
    weigh_queries(queries, coefficient, slot.weighted);
    std::memset(slot.products, 0, dim * kQueryBlock * sizeof(float));
    const int64_t kept = round_up(columns.size(), kCandidateBlock);
    for (int64_t j = 0; j < kept; j += kGroup) {
      const int64_t group = smaller(kGroup, kept - j);
      for (int64_t k = 0; k < dim; k += kSquare)
        for (int64_t lane = 0; lane < kQueryBlock; lane += kSquare)
          add_square(transposed + k * column_pitch + columns.first + j, column_pitch * 2,
                     slot.by_candidate + j / 2 * kQueryBlock + lane, kQueryBlock * 4, group / kSquare,
                     slot.products + k * kQueryBlock + lane, kQueryBlock * 4);
      for (int64_t row = j; row < smaller(j + group, columns.size()); row += kSquare)
        add_candidate_rows(slot, row, smaller(kSquare, columns.size() - row), queries.width,
                           candidate_sums + (columns.first + row) * queries.width);
    }
    for (int64_t i = 0; i < queries.rows; i++)
      for (int64_t k = 0; k < queries.width; k++) products[i * queries.width + k] = slot.products[k * kQueryBlock + i];
  }

 private:
  void pair_queries(const DotProblem& p, const QueryBlock<float>& queries, const Slot& slot) const {
    std::memset(slot.queries, 0, dim / 2 * kQueryBlock * 4);
    uint16_t* halves = reinterpret_cast<uint16_t*>(slot.queries);
    for (int64_t i = 0; i < queries.rows; i++)
      for (int64_t k = 0; k < p.dim; k++)
        halves[(k / 2 * kQueryBlock + i) * 2 + k % 2] = rounded_to_bfloat16(queries.natural[i * queries.width + k]);
  }

  void weigh_queries(const QueryBlock<float>& queries, const float* coefficient, uint32_t* weighted) const {
    std::memset(weighted, 0, kQueryBlock / 2 * dim * 4);
    uint16_t* halves = reinterpret_cast<uint16_t*>(weighted);
    for (int64_t i = 0; i < queries.rows; i++)
      for (int64_t k = 0; k < queries.width; k++)
        halves[(i / 2 * dim + k) * 2 + i % 2] =
            rounded_to_bfloat16(coefficient[i] * queries.natural[i * queries.width + k]);
  }

  void multiply_scores(const Slot& slot, int64_t j) const {
    std::memset(slot.scores, 0, kCandidateBlock * kQueryBlock * sizeof(float));
    for (int64_t lane = 0; lane < kQueryBlock; lane += kSquare)
      for (int64_t row = 0; row < kCandidateBlock; row += kSquare)
        add_square(rows + (j + row) * row_pitch, row_pitch * 2, slot.queries + lane, kQueryBlock * 4, dim / kSquare,
                   slot.scores + row * kQueryBlock + lane, kQueryBlock * 4);
  }

  // Scores in log2 units with exclusions at -inf, and the highest of each query.
  void finish_scores(const TileExclusions<float>& exclusions, const Slot& slot, float factor, int64_t j, int64_t m,
                     float* highest) const {
    const Vec<float> excluded = broadcast(-std::numeric_limits<float>::infinity());
    for (int64_t lane = 0; lane < kQueryBlock; lane += kLanes<float>) {
      Vec<float> high = excluded;
      for (int64_t row = 0; row < kCandidateBlock; row += 2) {
        float* place = slot.scores + row * kQueryBlock + lane;
        Tile<float, 2, 1> s = {{{load(place) * factor}, {load(place + kQueryBlock) * factor}}};
        if (j + row + 1 < m) {
          exclusions.apply(s, j + row, lane);
        } else if (j + row < m) {
          Tile<float, 1, 1> last = {{{s.at[0][0]}}};
          exclusions.apply(last, j + row, lane);
          s = {{{last.at[0][0]}, {excluded}}};
        } else {
          s = {{{excluded}, {excluded}}};
        }
        high = max<float>(s.at[0][0], max<float>(s.at[1][0], high));
        store(place, s.at[0][0]);
        store(place + kQueryBlock, s.at[1][0]);
      }
      store(highest + lane, high);
    }
  }

  // Raises references left behind, and brings the E kept before row j along.
  void raise(const Slot& slot, const RowSums<float>& sums, int64_t j, const float* highest) const {
    for (int64_t lane = 0; lane < kQueryBlock; lane += kLanes<float>) {
      const Vec<float> old = load(sums.reference + lane);
      if (!any_greater<float>(load(highest + lane), old + kLazyRange<float>)) continue;
      raise_references(sums, Referenced<float>{}, lane, highest + lane, kLanes<float>);
      if (j == 0) continue;
      const Vec<float> factor = exp2<float>(old - load(sums.reference + lane));
      for (int64_t row = 0; row < j; row += 2) {
        uint16_t* kept = slot.by_query + row * kQueryBlock + lane;
        keep(slot, row, lane, widened(kept) * factor, widened(kept + kQueryBlock) * factor);
      }
    }
  }

  static inline __attribute__((always_inline)) Vec<float> widened(const uint16_t* bfloat16) {
    return (Vec<float>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)bfloat16)), 16);
  }

  // E of candidates j and j + 1, in both layouts.
  static inline __attribute__((always_inline)) void keep(const Slot& slot, int64_t j, int64_t lane, Vec<float> first,
                                                         Vec<float> second) {
    uint16_t* by_query = slot.by_query + j * kQueryBlock + lane;
    _mm256_storeu_si256((__m256i*)by_query, (__m256i)_mm512_cvtneps_pbh((__m512)first));
    _mm256_storeu_si256((__m256i*)(by_query + kQueryBlock), (__m256i)_mm512_cvtneps_pbh((__m512)second));
    _mm512_storeu_si512(slot.by_candidate + j / 2 * kQueryBlock + lane, paired((__m512)first, (__m512)second));
  }

  void keep_exponentials(const Slot& slot, const RowSums<float>& sums, int64_t j) const {
    for (int64_t lane = 0; lane < kQueryBlock; lane += kLanes<float>) {
      const Vec<float> reference = load(sums.reference + lane);
      Vec<float> sum = load(sums.sum + lane);
      for (int64_t row = 0; row < kCandidateBlock; row += 2) {
        const float* place = slot.scores + row * kQueryBlock + lane;
        const Vec<float> first = exp2<float>(load(place) - reference);
        const Vec<float> second = exp2<float>(load(place + kQueryBlock) - reference);
        sum += first + second;
        keep(slot, j + row, lane, first, second);
      }
      store(sums.sum + lane, sum);
    }
  }

  // dy of 32 candidates, of which `valid` are there: one square for every 32 columns of d.
  void add_candidate_rows(const Slot& slot, int64_t row, int64_t valid, int64_t width, float* sums) const {
    const uint16_t* weights = slot.by_query + row * kQueryBlock;
    const int64_t steps = kQueryBlock / kSquare;
    for (int64_t k = 0; k < width; k += kSquare) {
      if (valid == kSquare && k + kSquare <= width)
        add_square(weights, kQueryBlock * 2, slot.weighted + k, dim * 4, steps, sums + k, width * 4);
      else
        add_part_of_square(weights, kQueryBlock * 2, slot.weighted + k, dim * 4, steps, sums + k, width * 4, valid,
                           smaller(kSquare, width - k));
    }
  }
};

}  // namespace MI_ISA
}  // namespace mi
