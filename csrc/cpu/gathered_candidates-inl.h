// The gradient of the negatives themselves: dy_ik = w_ik x_i, with weights w that are known once the partitions are.
//
// A bank's rows serve many queries. Counting sorts the queries by bank row, and the walk's roles are exchanged: each
// bank row, read once, meets the queries that point to it, and its gradient is written once by the thread that owns it.
// Order and sums depend on nothing but the index. Explicit negatives have one query each.
#pragma once
#include <algorithm>
#include <ranges>
#include <utility>

#include "gathered-inl.h"

namespace mi {
namespace MI_ISA {

// Pairs of a block of queries that are sorted together: scratch stays below the gradient of a large bank.
constexpr int64_t kPairsSorted = int64_t{1} << 20;
constexpr int64_t kTablesPerPair = 4;  // most entries in the tables of all sorters

// w_ik = g_i 2^(s_ik - r_i): dL/da_i e^{s_ik - a_i} for any dL/da.
template <class T>
struct KnownExponentials {
  T *reference = nullptr, *factor = nullptr;  // [n]

  void place(const GatheredProblem& p, Arena& arena) {
    reference = arena.take<T>(p.n() + kLanes<T>), factor = arena.take<T>(p.n() + kLanes<T>);
  }
  void fill(const GatheredProblem& p, const double* negative_lse, const double* upstream) const {
    for (int64_t i = 0; i < p.n(); i++) {
      const Normalizer<T> row = normalizer<T>(negative_lse[i], upstream[i]);
      reference[i] = row.reference, factor[i] = row.factor;
    }
  }
  // query(r): the query that score r belongs to.
  template <class Query>
  void weigh(T* s, int64_t count, Query&& query) const {
    T r[kGroup] = {}, f[kGroup] = {};
    for (int64_t k = 0; k < count; k++) r[k] = reference[query(k)], f[k] = factor[query(k)];
    for (int64_t k = 0; k < kGroup; k += kLanes<T>) store(s + k, load(f + k) * exp2<T>(load(s + k) - load(r + k)));
  }
};

// w_ik = sigmoid(s_ik), of a softplus sum.
template <class T>
struct KnownSigmoids {
  template <class Query>
  void weigh(T* s, int64_t, Query&&) const {
    Sigmoids<T>{}.weigh(s);
  }
};

template <class T, class Weights>
struct CandidateWalk {
  struct Slot {
    RowReader<T> queries, candidates;
    WeightedSum<T> sum;
  };

  const GatheredProblem& p;
  const Weights& weights;
  T* out;  // dy, the shape of y
  int slot_count = slots_for(p.threads, p.index ? p.candidates.rows : p.n());
  int64_t width = padded<T>(p.dim);
  int64_t block = p.m() == 0 ? p.n() : smaller(p.n(), round_up(larger(kPairsSorted, p.candidates.rows), p.m()) / p.m());
  GroupScores<T> scores_of{static_cast<T>(p.scale * kLog2E), static_cast<T>(p.bias * kLog2E)};
  std::unique_ptr<Slot[]> slots{new Slot[slot_count]};
  int sorters = slots_for(slot_count, smaller(block, kTablesPerPair * block * p.m() / larger(p.candidates.rows, 1)));
  int64_t* next = nullptr;   // [sorters][V] where a sorter's next query of a bank row goes in `query`
  int32_t* query = nullptr;  // [block m] queries by bank row

  static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

  void place(Arena& arena) {
    if (p.index) next = arena.take<int64_t>(sorters * p.candidates.rows), query = arena.take<int32_t>(block * p.m());
    for (int s = 0; s < slot_count; s++) {
      slots[s].queries.place(p.dtype, p.dim, arena);
      slots[s].candidates.place(p.dtype, p.dim, arena);
      slots[s].sum = {arena.take<T>(width), arena.take<T>(width), width};
    }
  }

  void walk() {
    for_slots(slot_count, [&](int s) { slots[s].queries.clear(), slots[s].candidates.clear(); });
    if (p.index == nullptr) return for_slots(slot_count, [&](int s) { walk_own_negatives(slots[s], s); });
    int64_t first = 0;
    do {
      const Range queries{first, smaller(first + block, p.n())};
      sort(queries);
      for_slots(slot_count, [&](int s) { walk_bank(slots[s], s, queries.size() * p.m(), first == 0); });
      first += block;
    } while (first < p.n());
  }

  // A sorter has a range of queries, in order: so are those of each bank row.
  void sort(Range queries) {
    const int64_t rows = p.candidates.rows;
    auto for_pairs = [&](int s, auto&& visit) {
      const Range own = part_of(queries.size(), s, sorters, 1);
      for (int64_t i = queries.first + own.first; i < queries.first + own.last; i++)
        for (const int64_t *index = p.index + i * p.m(), *end = index + p.m(); index < end; index++) visit(i, *index);
    };
    for_slots(sorters, [&](int s) {
      int64_t* const count = next + s * rows;
      std::fill_n(count, rows, 0);
      for_pairs(s, [&](int64_t, int64_t row) { count[row]++; });
    });
    for (int64_t row = 0, start = 0; row < rows; row++)
      for (int s = 0; s < sorters; s++) start += std::exchange(next[s * rows + row], start);
    for_slots(sorters, [&](int s) {
      int64_t* const place = next + s * rows;
      for_pairs(s, [&](int64_t i, int64_t row) { query[place[row]++] = static_cast<int32_t>(i); });
    });
  }

  // Where the queries of bank row 0, 1, ... end: where the last sorter's would go on.
  const int64_t* bounds() const { return next + (sorters - 1) * p.candidates.rows; }

  // Rows are shared out so that every slot has about as many pairs and rows.
  int64_t first_row(int s, int64_t pairs) const {
    const int64_t* const bound = bounds();
    const int64_t share = (pairs + p.candidates.rows) * s / slot_count;
    return *std::ranges::partition_point(std::views::iota(int64_t{0}, p.candidates.rows),
                                         [&](int64_t row) { return bound[row] + row + 1 <= share; });
  }

  void walk_bank(Slot& slot, int s, int64_t pairs, bool first_block) {
    const T scale = static_cast<T>(p.scale);
    const int64_t* bound = bounds();
    for (int64_t row = first_row(s, pairs); row < first_row(s + 1, pairs); row++) {
      T* dy = out + row * p.dim;
      if (first_block) std::memset(dy, 0, p.dim * sizeof(T));
      const int64_t start = row ? bound[row - 1] : 0;
      if (start == bound[row]) continue;
      const T* y = slot.candidates.read_one(p.candidates, row);
      slot.sum.clear();
      for (int64_t first = start; first < bound[row]; first += kBlockOfNegatives) {
        add_block(slot, y, first, smaller(first + kBlockOfNegatives, bound[row]));
        slot.sum.fold();
      }
      for (int64_t k = 0; k < p.dim; k++) dy[k] += scale * slot.sum.whole[k];
    }
  }

  // sum += w x over queries first <= k < last of a bank row y.
  void add_block(Slot& slot, const T* y, int64_t first, int64_t last) {
    T weight[kGroup];
    for (int64_t k = first; k < last; k += kGroup) {
      const RowGroup<T>& group = slot.queries.read(p.queries, query, k, last);
      scores_of.template of<kStep / 2>(y, group, width, weight);
      weights.weigh(weight, group.count, [&](int64_t r) { return query[k + r]; });
      add_weighted_rows(weight, group, width, slot.sum.block);
    }
  }

  void walk_own_negatives(Slot& slot, int s) {
    const Range rows = part_of(p.n(), s, slot_count, 1);
    T weight[kGroup];
    for (int64_t i = rows.first; i < rows.last; i++) {
      const NegativesOfQuery negatives = negatives_of(p, i);
      const T* x = slot.queries.read_one(p.queries, i);
      for (int64_t k = 0; k < p.m(); k += kGroup) {
        const RowGroup<T>& group = slot.candidates.read(negatives.rows, negatives.index, k, p.m());
        scores_of.template of<kStep>(x, group, width, weight);
        weights.weigh(weight, group.count, [&](int64_t) { return i; });
        for (int64_t r = 0; r < group.count; r++) {
          const T factor = static_cast<T>(p.scale) * weight[r];
          T* dy = out + (i * p.m() + k + r) * p.dim;
          for (int64_t c = 0; c < p.dim; c++) dy[c] = factor * x[c];
        }
      }
    }
  }
};

}  // namespace MI_ISA
}  // namespace mi
