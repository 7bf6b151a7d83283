// How often the index of a query names each row of a bank: counted query by query, where the counters stay in the
// nearest caches, and read row by row, a register of queries at a time.
#pragma once
#include "features-inl.h"
#include "parallel.h"

namespace mi {
namespace MI_ISA {

template <class T>
struct PairCounts {
  using Count = uint8_t;
  typedef Count Counts __attribute__((vector_size(16)));
  static constexpr int64_t kSquare = 16 / sizeof(Count);  // queries and rows whose counts are transposed together
  static constexpr int64_t kCarry = int64_t{1} << (8 * sizeof(Count));  // where a counter starts again at 0
  static constexpr int64_t kMostNegatives = int64_t{1} << 16;           // of a query that are counted together
  static constexpr int64_t kBytes = int64_t{4} << 20;                   // of all counters, where they suffice
  static constexpr int64_t kUnit = kLanes<T> > kSquare ? kLanes<T> : kSquare;
  static constexpr int64_t kMostQueries = kQueryBlock / kUnit * kUnit;

  const GatheredProblem& p;
  int64_t pitch = lines() * 64 / sizeof(Count);
  int64_t queries = block_of_queries();                       // counted together
  int64_t carries = smaller(p.m(), kMostNegatives) / kCarry;  // of a query, at most
  Count* of_query = nullptr;                                  // [queries][pitch] c modulo kCarry
  int32_t* carried = nullptr;        // [queries][carries] rows whose c is kCarry more, each time
  int64_t* carried_count = nullptr;  // [queries]

  // An odd number of cache lines: rows of counters that begin far apart lie in different cache sets.
  int64_t lines() const { return (p.candidates.rows + kCandidateBlock) * sizeof(Count) / 64 | 1; }

  // Blocks of the same size, as few as may be.
  int64_t block_of_queries() const {
    const int64_t fit = kBytes / (pitch * static_cast<int64_t>(sizeof(Count))) / kUnit * kUnit;
    const int64_t most = fit < kUnit ? kUnit : smaller(fit, kMostQueries);
    const int64_t blocks = (p.n() + most - 1) / most;
    return blocks == 0 ? kUnit : round_up((p.n() + blocks - 1) / blocks, kUnit);
  }

  void place(Arena& arena) {
    of_query = arena.take<Count>(queries * pitch);
    carried = arena.take<int32_t>(queries * carries);
    carried_count = arena.take<int64_t>(queries);
  }

  // Counts negatives `part` of queries first + own.first, ...; of those beyond the last query there are none.
  void count(int64_t first, Range own, Range part) const {
    for (int64_t q = own.first; q < own.last; q++) {
      Count* const counts = of_query + q * pitch;
      int32_t* next = carried + q * carries;
      std::memset(counts, 0, pitch * sizeof(Count));
      const int64_t *index = p.index + (first + q) * p.m(), *const end = index + part.last;
      for (index += part.first; first + q < p.n() && index < end; index++)
        if (__builtin_expect(++counts[*index] == 0, 0)) *next++ = static_cast<int32_t>(*index);
      carried_count[q] = next - (carried + q * carries);
    }
  }

  // out[r][q] = c of row first + r, r < count, and query q of the block; rows of `out` are kQueryBlock apart.
  void read(int64_t first, int64_t count, T* out) const {
    for (int64_t q = 0; q < queries; q += kSquare)
      for (int64_t r = 0; r < count; r += kSquare)
        transpose(of_query + q * pitch + first + r, out + r * kQueryBlock + q, smaller(kSquare, count - r));
    for (int64_t q = 0; q < queries; q++)
      for (const int32_t *row = carried + q * carries, *const end = row + carried_count[q]; row < end; row++)
        if (*row >= first && *row < first + count) out[(*row - first) * kQueryBlock + q] += kCarry;
  }

 private:
  // Every round joins the lanes of vectors r and r + kSquare / 2; log2(kSquare) rounds transpose the square.
  void transpose(const Count* from, T* out, int64_t rows) const {
    Counts v[kSquare], joined[kSquare];
    for (int64_t r = 0; r < kSquare; r++) std::memcpy(&v[r], from + r * pitch, sizeof(Counts));
#pragma GCC unroll 4
    for (int64_t round = 1; round < kSquare; round *= 2) {
#pragma GCC unroll 8
      for (int64_t r = 0; r < kSquare / 2; r++) {
        joined[2 * r] = join<0>(v[r], v[r + kSquare / 2], std::make_integer_sequence<int, kSquare>{});
        joined[2 * r + 1] = join<kSquare / 2>(v[r], v[r + kSquare / 2], std::make_integer_sequence<int, kSquare>{});
      }
#pragma GCC unroll 16
      for (int64_t r = 0; r < kSquare; r++) v[r] = joined[r];
    }
    for (int64_t r = 0; r < rows; r++)
      for (int64_t q = 0; q < kSquare; q++) out[r * kQueryBlock + q] = static_cast<T>(v[r][q]);
  }

  // Lanes kFrom, kFrom + 1, ... of a and b in turn.
  template <int kFrom, int... kLane>
  static inline __attribute__((always_inline)) Counts join(Counts a, Counts b, std::integer_sequence<int, kLane...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, (kLane / 2 + kFrom + (kLane % 2) * static_cast<int>(kSquare))...);
#else
    return __builtin_shuffle(a, b, Counts{static_cast<Count>(kLane / 2 + kFrom + (kLane % 2) * kSquare)...});
#endif
  }
};

}  // namespace MI_ISA
}  // namespace mi
