// Negatives sorted by where in a bank they lie, so that a block of the bank that fits the second cache serves many
// queries before the next one comes from memory. To read a large bank at random takes longer than all arithmetic.
#pragma once
#include <algorithm>

#include "parallel.h"
#include "rows-inl.h"

namespace mi {
namespace MI_ISA {

struct BankBlocks {
  static constexpr int64_t kBytes = int64_t{1} << 18;                   // of a block
  static constexpr int kRowBits = 16;                                   // of the place of a row in its block
  static constexpr int64_t kPairs = int64_t{1} << 20, kQueries = 1024;  // that are sorted together, at most
  static constexpr int64_t kFewestBlocks = 32;                          // a smaller bank stays in the last cache
  static constexpr int64_t kFewestNegatives = 32;                       // of a query in a block, on average
  static constexpr int64_t kFewestUses = 2;                             // of a row of the bank, on average

  const GatheredProblem& p;
  int shift = log2_rows();
  int64_t count = (p.candidates.rows + (int64_t{1} << shift) - 1) >> shift;
  int64_t negatives = smaller(p.m(), kPairs);
  int64_t queries = negatives == 0 ? 0 : smaller(smaller(p.n(), kQueries), kPairs / negatives);
  uint16_t* row = nullptr;    // [queries][negatives] row in its block, by block, as they come in the index
  int32_t* end = nullptr;     // [queries][count] where a block's end in it
  int64_t* before = nullptr;  // [count + 1] pairs of all queries in the blocks before

  int log2_rows() const {
    int shift = 0;
    while (shift < kRowBits && (p.candidates.pitch * size_of(p.dtype) << (shift + 1)) <= kBytes) shift++;
    return shift;
  }
  bool pay() const {
    return p.index && count >= kFewestBlocks && count >= p.threads && negatives >= kFewestNegatives * count &&
           queries * negatives >= kFewestUses * p.candidates.rows;
  }

  void place(Arena& arena) {
    row = arena.take<uint16_t>(queries * negatives);
    end = arena.take<int32_t>(queries * count);
    before = arena.take<int64_t>(count + 1);
  }

  // Sorts index[first], ..., before index[last], of the q-th query of a group.
  void sort(int64_t q, const int64_t* index, int64_t size) const {
    int32_t* const at = end + q * count;
    std::fill_n(at, count, 0);
    for (int64_t k = 0; k < size; k++) at[index[k] >> shift]++;
    for (int64_t b = 0, start = 0; b < count; b++) start += std::exchange(at[b], static_cast<int32_t>(start));
    const int64_t mask = (int64_t{1} << shift) - 1;
    uint16_t* const out = row + q * negatives;
    for (int64_t k = 0; k < size; k++) out[at[index[k] >> shift]++] = static_cast<uint16_t>(index[k] & mask);
  }

  // Sorts some negatives of a group of queries, by `slots` threads.
  void sort_all(Range group, Range part, int slots) const {
    for_slots(slots, [&](int s) {
      const Range share = part_of(group.size(), s, slots, 1);
      for (int64_t q = share.first; q < share.last; q++)
        sort(q, p.index + (group.first + q) * p.m() + part.first, part.size());
    });
  }

  // Where the q-th query's negatives in block b are.
  Range range(int64_t q, int64_t b) const {
    const int32_t* const at = end + q * count;
    return {b ? at[b - 1] : 0, at[b]};
  }
  Features rows(int64_t b) const {
    const int64_t first = b << shift;
    const char* data = static_cast<const char*>(p.candidates.data) + first * p.candidates.pitch * size_of(p.dtype);
    return {data, smaller(int64_t{1} << shift, p.candidates.rows - first), p.candidates.pitch};
  }

  // Blocks are shared out in order, so that every part has about as many pairs.
  void add_up(int64_t query_count) const {
    std::fill_n(before, count + 1, 0);
    for (int64_t q = 0; q < query_count; q++)
      for (int64_t b = 0; b < count; b++) before[b + 1] += range(q, b).size();
    for (int64_t b = 0; b < count; b++) before[b + 1] += before[b];
  }
  int64_t first_block(int part, int parts) const {
    if (part == parts) return count;
    return std::lower_bound(before, before + count, before[count] * part / parts) - before;
  }
};

}  // namespace MI_ISA
}  // namespace mi
