// What a slot keeps of a block of queries whose products are made of bfloat16 pairs.
#pragma once
#include "exponential-inl.h"
#include "pairs-inl.h"

namespace mi {
namespace MI_ISA {

// Queries, or columns of d, in whole squares.
MI_INLINE int64_t in_squares(int64_t count) { return round_up(count, kSquare); }

// E is rounded to bfloat16 for the two gradient products alone, and kept twice, since each of them pairs another index.
struct PairedBlock {
  uint32_t* queries = nullptr;       // x, pairs along d: [dim / 2][kQueryBlock]
  uint32_t* weighted = nullptr;      // c x, pairs along the queries: [kQueryBlock / 2][dim]
  float* scores = nullptr;           // [kCandidateBlock][kQueryBlock], by AMX alone
  uint32_t* by_candidate = nullptr;  // E, pairs along the candidates: [count / 2][kQueryBlock]
  uint16_t* by_query = nullptr;      // E, pairs along the queries: [count][kQueryBlock]
  float* products = nullptr;         // [dim][kQueryBlock] sum_j y_jk E_ji

  // dim and candidate_count in whole squares.
  void place(int64_t dim, int64_t candidate_count, Arena& arena) {
    queries = arena.take<uint32_t>(dim / 2 * kQueryBlock);
    weighted = arena.take<uint32_t>(kQueryBlock / 2 * dim);
#if defined(__AMX_BF16__)
    scores = arena.take<float>(kCandidateBlock * kQueryBlock);
#endif
    by_candidate = arena.take<uint32_t>(candidate_count / 2 * kQueryBlock);
    by_query = arena.take<uint16_t>(candidate_count * kQueryBlock);
    products = arena.take<float>(dim * kQueryBlock);
  }

  // E = 0 behind the last candidate and behind the last query, to the ends of their squares. Products go over these,
  // and that x and y are 0 there does not do: E may be infinite.
  void pad(int64_t candidates, int64_t rows) const {
    for (int64_t j = candidates; j < in_squares(candidates); j++)
      for (int64_t i = 0; i < kQueryBlock; i++) by_query[j * kQueryBlock + i] = half(j, i) = 0;
    for (int64_t j = 0; j < candidates; j++)
      for (int64_t i = rows; i < in_squares(rows); i++) by_query[j * kQueryBlock + i] = 0;
  }

  // E of candidates j and j + 1, in both layouts; j is even.
  inline __attribute__((always_inline)) void keep(int64_t j, int64_t lane, Vec<float> first, Vec<float> second) const {
    uint16_t* place = by_query + j * kQueryBlock + lane;
    const __m512i rounded = both_rounded(first, second);
    _mm256_storeu_si256((__m256i*)place, _mm512_castsi512_si256(rounded));
    _mm256_storeu_si256((__m256i*)(place + kQueryBlock), _mm512_extracti64x4_epi64(rounded, 1));
    _mm512_storeu_si512(by_candidate + j / 2 * kQueryBlock + lane, in_pairs(rounded));
  }

 private:
  uint16_t& half(int64_t j, int64_t i) const {
    return reinterpret_cast<uint16_t*>(by_candidate)[(j / 2 * kQueryBlock + i) * 2 + j % 2];
  }
};

MI_INLINE Vec<float> widened(const uint16_t* bfloat16) {
  return (Vec<float>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)bfloat16)), 16);
}

// Raises the references of lanes that `highest` leaves behind, and brings the E of the candidates before j along. Rare.
MI_NOINLINE void raise_paired(const PairedBlock& block, const RowSums<float>& sums, int64_t j, int64_t lane,
                              const float* highest, int64_t lanes) {
  for (int64_t i = 0; i < lanes; i += kLanes<float>) {
    const Vec<float> old = load(sums.reference + lane + i);
    if (!any_greater<float>(load(highest + i), old + kLazyRange<float>)) continue;
    raise_references(sums, Referenced<float>{}, lane + i, highest + i, kLanes<float>);
    const Vec<float> factor = exp2<float>(old - load(sums.reference + lane + i));
    for (int64_t row = 0; row < j; row += 2) {
      const uint16_t* kept = block.by_query + row * kQueryBlock + lane + i;
      block.keep(row, lane + i, widened(kept) * factor, widened(kept + kQueryBlock) * factor);
    }
  }
}

}  // namespace MI_ISA
}  // namespace mi
