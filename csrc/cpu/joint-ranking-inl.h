// Ranks of the positives by a joint critic, and the entropies of the negatives' weights.
#pragma once
#include "joint-walk-inl.h"
#include "ranked-rows-inl.h"

namespace mi {
namespace MI_ISA {

template <class Critic>
struct JointRankingWalk {
  using T = typename Critic::Scalar;
  using Walk = JointWalk<Critic>;

  const JointProblem& p;
  const DotRanking& out;
  Walk walk{p, false};
  EntropySum2* row_sums = nullptr;  // [n]
  T* threshold = nullptr;           // [n]
  T* positives = nullptr;           // [slots][kRows][kColumns], scores of the columns around a positive

  void run() {
    Workspace workspace([&](Arena& arena) {
      walk.place(arena);
      row_sums = arena.take<EntropySum2>(p.n());
      threshold = arena.take<T>(p.n());
      positives = arena.take<T>(walk.slot_count * Walk::kTile);
    });
    std::fill_n(row_sums, p.n(), EntropySum2{});
    std::fill_n(out.rank, p.n(), int64_t{0});
    walk.run(
        [&](int s, Range rows, Range columns, T* scores) {
          if (columns.first == 0) score_positives(s, rows);
          Walk::for_rows(rows, scores, [&](int64_t i, T* row) { add_row(i, columns, row); });
        },
        [](int, Range) {});
    for (int64_t i = 0; i < p.n(); i++) {
      out.negative_lse[i] = log2_value(row_sums[i].weights) * kLn2;
      out.entropy[i] = row_sums[i].entropy() * kLn2;
      if (threshold[i] != threshold[i]) out.rank[i] = p.m();
    }
  }

  // By the arithmetic of the negatives: equal vectors score equal. Neighbours often share the columns that are scored.
  void score_positives(int s, Range rows) {
    T* tile = positives + s * Walk::kTile;
    int64_t scored = -1;
    for (int64_t i = rows.first; i < rows.last; i++) {
      const int64_t target = p.exclusions.target[i], first = target / Critic::kColumnUnit * Critic::kColumnUnit;
      if (first != scored) walk.critic.scores(walk.slots[s], first, smaller(Critic::kColumnUnit, p.m() - first), tile);
      scored = first;
      threshold[i] = rank_threshold(tile[(i - rows.first) * Walk::kColumns + target - first]);
    }
  }

  // Log-weights say how often a negative counts, not how it ranks.
  void add_row(int64_t i, Range columns, T* row) {
    const RowExclusions<T> exclusions{p.exclusions, 0, 0, false};
    exclusions.apply(row, i, columns, out.positive);
    out.rank[i] += count_not_below(row, columns.size(), threshold[i]);
    if (const double* log_weight = p.exclusions.candidate_log_weight)
      for (int64_t c = 0; c < columns.size(); c++)  // no -inf + inf
        if (row[c] != -kInfinity) row[c] += static_cast<T>(log_weight[columns.first + c]);
    row_sums[i] = merge(row_sums[i], entropy_sum_of_row(row, columns.size(), static_cast<T>(kLog2E)));
  }
};

}  // namespace MI_ISA
}  // namespace mi
