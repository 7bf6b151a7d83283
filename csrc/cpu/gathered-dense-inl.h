// Scores of all rows of a bank with all queries, where the index of a query has a good part of the bank: weights
// w_ij = c_ij w(s_ij), where c_ij counts how often query i has row j, then dx = W y and dy = W^T x. A pair of a dense
// product takes a fraction of the time of a gathered one, since operands wait in registers and the bank is read in
// order.
//
// A dense product has all its terms, and 0 times what is not finite would not be 0. A row of the bank or a query that
// is not finite has no finite scores; nothing is said then, and each pair has to be read by itself.
#pragma once
#include <memory>

#include "gathered-counts-inl.h"
#include "gathered-lanes-inl.h"
#include "gathered-sums-inl.h"
#include "gathered_candidates-inl.h"

namespace mi {
namespace MI_ISA {

// Pairs of dense products that take the time of one that is gathered: in float64, which half as many lanes hold, fewer;
// with a gradient of the bank, for which pairs would be sorted by row, 1.6 times as many.
template <class T>
constexpr double kDensePairs = (kVectorBytes == 64   ? 3.25
                                : kVectorBytes == 32 ? 2.5
                                                     : 1.25) *
                               (sizeof(T) == 8 ? 0.8 : 1);
template <class T>
constexpr double kDensePairsWithBank = 1.6 * kDensePairs<T>;

template <class T>
bool dense_pays(const GatheredProblem& p, bool bank_gradient) {
  const double asked = static_cast<double>(p.n()) * p.m();
  return p.index && p.candidates.rows >= p.threads * kCandidateBlock &&
         padded<T>(p.n()) * p.candidates.rows < (bank_gradient ? kDensePairsWithBank<T> : kDensePairs<T>)*asked;
}

template <class T, class Lanes>
struct DenseWalk {
  struct Slot {
    Candidates<T> y;         // kCandidateBlock rows of the bank
    Lanes lanes;             // one a query
    T* weights = nullptr;    // c, then W [kCandidateBlock][kQueryBlock]
    T* products = nullptr;   // W y [kQueryBlock][width], where asked for
    T* sums = nullptr;       // W^T x [kCandidateBlock][width], where asked for
    Vec<T>* zero = nullptr;  // NaN once a score was not finite
  };

  const GatheredProblem& p;
  bool with_products;
  T* bank_gradient = nullptr;  // dy [V, d]
  double clip = 0;
  DotProblem problem = {p.queries, p.candidates, p.dim, p.dtype, p.scale, p.bias, {}, p.threads};
  PairCounts<T> counts{p};
  int slot_count = p.threads;
  int64_t width = padded<T>(p.dim);
  std::unique_ptr<Slot[]> slots{new Slot[slot_count]};
  QueryBlock<T> queries = {};
  TransposedQueries<T> transposed = {};
  GradientProducts<T> gradient = {};
  T* coefficient = nullptr;  // [kQueryBlock] dy_j = sum_i w_ij coefficient_i x_i

  DotProblem rows_of_bank(int64_t first, int64_t count) const {
    DotProblem block = problem;
    block.candidates.data = static_cast<const char*>(p.candidates.data) + first * p.candidates.pitch * size_of(p.dtype);
    block.candidates.rows = count;
    return block;
  }

  void place(Arena& arena) {
    counts.place(arena);
    queries.place(problem, arena);
    transposed.place(problem, p.candidates.rows, arena);
    gradient.place(problem, bank_gradient, p.candidates.rows, arena);
    coefficient = arena.take<T>(kQueryBlock);
    for (int s = 0; s < slot_count; s++) {
      slots[s].y.place(rows_of_bank(0, kCandidateBlock), arena);
      if constexpr (requires { slots[s].lanes.place(arena); }) slots[s].lanes.place(arena);
      slots[s].weights = arena.take<T>(kCandidateBlock * kQueryBlock);
      slots[s].zero = arena.take<Vec<T>>(1);
      if (with_products) slots[s].products = arena.take<T>(kQueryBlock * width);
      if (bank_gradient) slots[s].sums = arena.take<T>(kCandidateBlock * width);
    }
  }

  // begin(first, count) sets the coefficients of a block of queries, end(first, count) finds their sums in the slots.
  // False: something is not finite.
  template <class Begin, class End>
  bool walk(Begin&& begin, End&& end) {
    for (int64_t i = 0; i < p.n(); i += counts.queries) {
      const int64_t count = smaller(counts.queries, p.n() - i);
      for (int64_t k = 0; k < p.m(); k += counts.kMostNegatives) {
        for_slots(slot_count, [&](int s) {
          if (s == 0 && k == 0) load(i, count, begin);
          counts.count(i, part_of(counts.queries, s, slot_count, 1), {k, smaller(k + counts.kMostNegatives, p.m())});
        });
        for_slots(slot_count, [&](int s) {
          if (k == 0) clear(slots[s]);
          walk_bank(slots[s], part_of(p.candidates.rows, s, slot_count, kCandidateBlock), i == 0 && k == 0);
        });
      }
      if (!finite()) return false;
      end(i, count);
    }
    return true;
  }

 private:
  template <class Begin>
  void load(int64_t first, int64_t count, Begin&& begin) {
    queries.load(problem, first, count);
    transposed.fill(problem, queries);
    begin(first, count);
    if (bank_gradient) gradient.weigh(queries, coefficient);
  }

  void clear(const Slot& slot) const {
    *slot.zero = Vec<T>{};
    if constexpr (requires { slot.lanes.clear(); }) slot.lanes.clear();
    if (with_products) std::memset(slot.products, 0, kQueryBlock * width * sizeof(T));
  }

  bool finite() const {
    bool finite = true;
    for (int s = 0; s < slot_count; s++) finite &= horizontal_sum<T>(*slots[s].zero) == 0;
    for (int64_t i = 0; bank_gradient && i < queries.rows; i++)
      for (int64_t k = 0; k < p.dim; k++) finite &= coefficient[i] * queries.natural[i * width + k] * 0 == 0;
    return finite;
  }

  void walk_bank(Slot& slot, Range own, bool first) const {
    for (int64_t j = own.first; j < own.last; j += kCandidateBlock) {
      const int64_t count = smaller(kCandidateBlock, own.last - j);
      const DotProblem block = rows_of_bank(j, count);
      if (slot.y.copy)
        slot.y.fill(block, 0, count);
      else
        slot.y.data = static_cast<const T*>(block.candidates.data);
      counts.read(j, count, slot.weights);
      weigh(slot, count, !slot.y.copy && j + 2 * kCandidateBlock <= own.last);
      if (bank_gradient) std::memset(slot.sums, 0, count * width * sizeof(T));
      gradient.add(slot.weights, false, slot.y, {0, count}, queries, slot.products, slot.sums);
      if (bank_gradient) add_to_bank(slot, j, count, first);
    }
  }

  // c of `count` rows become their weights.
  void weigh(Slot& slot, int64_t count, bool more) const {
    const CandidateSide<T> side;
    const BlockScores<T> scores{p.dim, slot.y, transposed, {side, queries}};
    for_vector_tiles(scores.vectors(), [&](auto vectors, int64_t vector) {
      for_row_tiles(count, [&](auto rows, int64_t r) {
        if (more && vector == 0) fetch_next(slot.y, r, rows());
        const LaneTile<T> tile{
            slot.weights + r * kQueryBlock, vector * kLanes<T>, {slot.weights, r, slot.products, width, queries.rows}};
        weigh_tile<rows(), vectors()>(scores, slot, r, tile);
      });
    });
    if constexpr (requires { slot.lanes.fold(); }) slot.lanes.fold();
  }

  // Calls for the rows of the next block beside the products of this one.
  static void fetch_next(const Candidates<T>& y, int64_t r, int64_t rows) {
    const T* const next = y.data + (kCandidateBlock + r) * y.pitch;
    for (int64_t k = 0; k < rows * y.pitch; k += kCacheLine / sizeof(T)) __builtin_prefetch(next + k, 0, 2);
  }

  template <int kRows, int kVectors>
  __attribute__((noinline)) void weigh_tile(const BlockScores<T>& scores, const Slot& slot, int64_t r,
                                            const LaneTile<T>& tile) const {
    auto s = scores.template tile<kRows, kVectors>(r, tile.lane / kLanes<T>);
    const T bias = static_cast<T>(p.bias * kLog2E), bound = static_cast<T>(clip * kLog2E);
    Vec<T> zero = *slot.zero;
#pragma GCC unroll 6
    for (int row = 0; row < kRows; row++)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) {
        zero += s.at[row][v] * 0;
        s.at[row][v] += bias;
        if (bound != 0) s.at[row][v] = min<T>(broadcast(bound), max<T>(broadcast(-bound), s.at[row][v]));
      }
    *slot.zero = zero;
    slot.lanes.template weigh<kRows, kVectors>(s, tile);
  }

  void add_to_bank(const Slot& slot, int64_t j, int64_t count, bool first) const {
    for (int64_t r = 0; r < count; r++) {
      T* const dy = bank_gradient + (j + r) * p.dim;
      const T* const sum = slot.sums + r * width;
      for (int64_t k = 0; k < p.dim; k++) dy[k] = (first ? T(0) : dy[k]) + sum[k];
    }
  }
};

// Sums and products of all queries; with a gradient of the bank for weights that need none of their sums.
template <class T, class Lanes>
bool sum_densely(DenseWalk<T, Lanes>& walk, const QuerySums<T, typename Lanes::Result>& sums) {
  return walk.walk([&](int64_t, int64_t count) { std::fill_n(walk.coefficient, count, static_cast<T>(walk.p.scale)); },
                   [&](int64_t first, int64_t count) {
                     for (int64_t q = 0; q < count; q++) {
                       auto& whole = sums.results[first + q] = walk.slots[0].lanes.at(q);
                       for (int s = 1; s < walk.slot_count; s++) whole = merge(whole, walk.slots[s].lanes.at(q));
                       T* const product = sums.products + (first + q) * sums.width;
                       for (int s = 0; sums.with_products && s < walk.slot_count; s++) {
                         const auto& slot = walk.slots[s];
                         const T factor = static_cast<T>(Lanes::in_units_of(whole, slot.lanes.at(q)));
                         for (int64_t k = 0; k < sums.width; k++)
                           product[k] = (s ? product[k] : T(0)) + factor * slot.products[q * sums.width + k];
                       }
                     }
                   });
}

// dy for known weights.
template <class T>
bool multiply_densely(const GatheredProblem& p, const KnownExponentials<T>& weights, T* bank_gradient) {
  DenseWalk<T, KnownExponentialLanes<T>> walk{p, false, bank_gradient};
  Workspace workspace([&](Arena& arena) { walk.place(arena); });
  return walk.walk(
      [&](int64_t first, int64_t count) {
        for (int s = 0; s < walk.slot_count; s++) walk.slots[s].lanes.reference = weights.reference + first;
        for (int64_t q = 0; q < count; q++) walk.coefficient[q] = static_cast<T>(p.scale) * weights.factor[first + q];
      },
      [](int64_t, int64_t) {});
}

}  // namespace MI_ISA
}  // namespace mi
