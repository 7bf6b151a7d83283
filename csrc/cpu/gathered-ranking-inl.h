// Ranks of the positives among each query's own negatives, and the entropies of their weights.
#pragma once
#include "gathered-inl.h"
#include "ranked-rows-inl.h"

namespace mi {
namespace MI_ISA {

struct RankedSum {
  EntropySum2 sum;
  int64_t above = 0;  // negatives not below the positive
};
MI_INLINE RankedSum merge(const RankedSum& a, const RankedSum& b) { return {merge(a.sum, b.sum), a.above + b.above}; }

// Scores of a block are kept until it is done.
template <class T>
struct RankedBlocks {
  using Result = RankedSum;

  WeightedSum<T> products;  // not asked for
  T threshold;
  int64_t count = 0;
  RankedSum total = {};
  T block[kBlockOfNegatives] = {};

  void weigh(const T* s) {
    std::copy_n(s, kGroup, block + count);
    count += kGroup;
  }
  void fold() {
    total.sum = merge(total.sum, entropy_sum_of_row(block, count, T(1)));
    total.above += count_not_below(block, count, threshold);
    count = 0;
  }
  Result result() const { return total; }
  static double in_units_of(const Result&, const Result&) { return 1; }
};

template <class T>
void gathered_ranking(const GatheredProblem& p, const Features& positives, const DotRanking& out) {
  QueryWalk<T, RankedBlocks<T>> walk{p, false};
  T* threshold = nullptr;  // [n]
  Workspace workspace([&](Arena& arena) { walk.place(arena), threshold = arena.take<T>(p.n()); });
  auto& slot = walk.slots[0];
  slot.negatives.clear(), slot.query.clear();
  for (int64_t i = 0; i < p.n(); i++) {  // by the arithmetic of the negatives: equal vectors score equal
    T s[kGroup];
    const T* x = slot.query.read_one(p.queries, i);
    walk.scores().template of<kStep>(x, slot.negatives.template read<int64_t>(positives, nullptr, i, i + 1), walk.width,
                                     s);
    threshold[i] = rank_threshold(s[0]);
  }
  walk.walk([&](int64_t i, const WeightedSum<T>& products) { return RankedBlocks<T>{products, threshold[i]}; });
  for (int64_t i = 0; i < p.n(); i++) {
    const RankedSum row = walk.sums.row(i);
    out.negative_lse[i] = log2_value(row.sum.weights) * kLn2;
    out.entropy[i] = row.sum.entropy() * kLn2;
    out.rank[i] = threshold[i] == threshold[i] ? row.above : p.m();
  }
}

}  // namespace MI_ISA
}  // namespace mi
