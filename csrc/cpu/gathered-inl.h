// The walk over each query's own negatives: y_ik is read once, for its score and, weighted at once, for the gradient of
// the query. Nothing of size m is kept, but for the places of at most 2^20 negatives where they are read block by
// block.
#pragma once
#include <memory>

#include "gathered-blocks-inl.h"
#include "gathered-sums-inl.h"
#include "gathered-weights-inl.h"

namespace mi {
namespace MI_ISA {

constexpr int64_t kBlockOfNegatives = 256;  // sums over a block are short, sums over blocks few

// The negatives of query i: row index[k] of `rows` for k < m; index null: row k.
struct NegativesOfQuery {
  Features rows;
  const int64_t* index;
};
MI_INLINE NegativesOfQuery negatives_of(const GatheredProblem& p, int64_t i) {
  if (p.index) return {p.candidates, p.index + i * p.m()};
  const char* data = static_cast<const char*>(p.candidates.data) + i * p.query_pitch * size_of(p.dtype);
  return {{data, p.m(), p.candidates.pitch}, nullptr};
}

template <class T, class Weights>
struct QueryWalk {
  using Result = typename Weights::Result;
  struct Slot {
    RowReader<T> negatives, query;
    T* block = nullptr;  // [width]
  };

  const GatheredProblem& p;
  bool with_products;
  double clip = 0;
  // Work is shared out by queries and, where these are few, by parts of their negatives; or by blocks of the bank.
  BankBlocks blocks{p};
  int parts = blocks.pay() ? 1 : parts_of_query();
  int slot_count = blocks.pay() ? p.threads : slots_for(p.threads, p.n() * parts);
  int64_t width = padded<T>(p.dim);
  std::unique_ptr<Slot[]> slots{new Slot[slot_count]};
  QuerySums<T, Result> sums{p, with_products, parts};
  Weights* block_sums = nullptr;  // [slots][queries of a group] a slot's blocks
  T* block_products = nullptr;    // [slots][queries of a group][width]

  int parts_of_query() const {
    constexpr int kUnitsPerThread = 4;
    const int64_t wanted = p.threads * kUnitsPerThread, blocks = round_up(p.m(), kBlockOfNegatives) / kBlockOfNegatives;
    if (p.threads == 1 || p.n() == 0 || p.n() >= wanted || blocks == 0) return 1;
    return static_cast<int>(smaller((wanted + p.n() - 1) / p.n(), blocks));
  }

  void place(Arena& arena) {
    sums.place(arena);
    if (blocks.pay()) {
      blocks.place(arena);
      block_sums = arena.take<Weights>(slot_count * blocks.queries);
      if (with_products) block_products = arena.take<T>(slot_count * blocks.queries * width);
    }
    for (int s = 0; s < slot_count; s++) {
      slots[s].negatives.place(p.dtype, p.dim, arena);
      slots[s].query.place(p.dtype, p.dim, arena);
      if (with_products) slots[s].block = arena.take<T>(width);
    }
  }

  GroupScores<T> scores() const {
    return {static_cast<T>(p.scale * kLog2E), static_cast<T>(p.bias * kLog2E), static_cast<T>(clip * kLog2E)};
  }

  void walk() {
    walk([](int64_t, const WeightedSum<T>& sum) { return Weights{sum}; });
  }

  // start(i, sum): what weighs the negatives of query i, or of a part of them.
  template <class Start>
  void walk(Start&& start) {
    for_slots(slot_count, [&](int s) { slots[s].negatives.clear(), slots[s].query.clear(); });
    if (blocks.pay()) return walk_blocks(start);
    for_slots(slot_count, [&](int s) {
      const Range units = part_of(p.n() * parts, s, slot_count, 1);
      for (int64_t unit = units.first; unit < units.last; unit++) {
        const int64_t i = unit / parts;
        const NegativesOfQuery negatives = negatives_of(p, i);
        const Range part = part_of(p.m(), static_cast<int>(unit % parts), parts, kBlockOfNegatives);
        Weights weights = cleared(start(i, sum_in(slots[s], sums.products, unit)));
        add(slots[s], i, negatives.rows, negatives.index, part, weights);
        sums.results[unit] = weights.result();
      }
    });
  }

  WeightedSum<T> sum_in(const Slot& slot, T* of, int64_t at) const {
    return {slot.block, with_products ? of + at * width : nullptr, width};
  }
  static Weights cleared(Weights weights) {
    weights.products.clear();
    return weights;
  }

  template <class Start>
  void walk_blocks(Start&& start) {
    for (int64_t i = 0; i < p.n(); i += blocks.queries) {
      const Range queries{i, smaller(i + blocks.queries, p.n())};
      for_slots(slot_count, [&](int s) {
        for (int64_t at = s * blocks.queries, q = 0; q < queries.size(); q++, at++)
          new (block_sums + at) Weights(cleared(start(i + q, sum_in(slots[s], block_products, at))));
      });
      for (int64_t k = 0; k < p.m(); k += blocks.negatives)
        add_by_block(queries, {k, smaller(k + blocks.negatives, p.m())});
      for_slots(slot_count, [&](int s) {
        const Range share = part_of(queries.size(), s, slot_count, 1);
        for (int64_t q = share.first; q < share.last; q++) join(i + q, block_sums + q);
      });
    }
  }

  // Some negatives of some queries.
  void add_by_block(Range queries, Range negatives) {
    blocks.sort_all(queries, negatives, slot_count);
    blocks.add_up(queries.size());
    for_slots(slot_count, [&](int s) {
      for (int64_t b = blocks.first_block(s, slot_count); b < blocks.first_block(s + 1, slot_count); b++)
        for (int64_t q = 0; q < queries.size(); q++)
          add(slots[s], queries.first + q, blocks.rows(b), blocks.row + q * blocks.negatives, blocks.range(q, b),
              block_sums[s * blocks.queries + q]);
    });
  }

  // The sums of query i from those of the slots, by_slot[slot * blocks.queries].
  void join(int64_t i, const Weights* by_slot) {
    Result whole = by_slot->result();
    for (int s = 1; s < slot_count; s++) whole = merge(whole, by_slot[s * blocks.queries].result());
    sums.results[i] = whole;
    for (int s = 0; with_products && s < slot_count; s++) {
      const Weights& part = by_slot[s * blocks.queries];
      const T factor = static_cast<T>(Weights::in_units_of(whole, part.result()));
      T* const sum = sums.products + i * width;
      for (int64_t k = 0; k < width; k++) sum[k] = (s ? sum[k] : T(0)) + factor * part.products.whole[k];
    }
  }

  // Adds the negatives of query i in rows index[first], ..., before index[last].
  template <class Index>
  void add(Slot& slot, int64_t i, const Features& rows, const Index* index, Range part, Weights& weights) const {
    const T* x = slot.query.read_one(p.queries, i);
    const GroupScores<T> scores_of = scores();
    T s[kGroup];
    for (int64_t first = part.first; first < part.last; first += kBlockOfNegatives) {
      const int64_t last = smaller(first + kBlockOfNegatives, part.last);
      for (int64_t k = first; k < last; k += kGroup) {
        const RowGroup<T>& group = slot.negatives.read(rows, index, k, part.last);
        if (with_products) {
          scores_of.template of<kStep / 2>(x, group, width, s);
          weights.weigh(s);
          add_weighted_rows(s, group, width, weights.products.block);
        } else {
          scores_of.template of<kStep>(x, group, width, s);
          weights.weigh(s);
        }
      }
      weights.fold();
    }
  }
};

}  // namespace MI_ISA
}  // namespace mi
