// Value and gradients of a sum of row cross-entropies, or of one log-partition, in one walk: the scores of a block of
// queries are kept until its rows are summed, then become weights.
//   rows:    G_ij = (1 - p_i) e^{s_ij - a_i},  G at the positive = -(1 - p_i)
//   global:  G_ij = e^{s_ij + b - T},  G at the positive = e^{z_i + a - T};  T is known at the end alone, so each slot
//            measures against a reference of its own, raised when a row leaves it 2^60 behind.
#pragma once
#include "fused-inl.h"
#include "joint-walk-inl.h"

namespace mi {
namespace MI_ISA {

template <class Critic>
struct JointFused {
  using T = typename Critic::Scalar;
  using Walk = JointWalk<Critic>;

  const JointProblem& p;
  const PartitionWeights& weights;
  const JointStatistics& statistics;
  const JointGradients& g;
  Walk walk{p, true, true};
  bool global = weights.partition == Partition::kGlobal;
  LogSumExp2* row_sums = nullptr;    // [n]
  double* row_reference = nullptr;   // [n] the slot's reference when the row was weighed, log2 units
  double* slot_reference = nullptr;  // [slots]

  void run() {
    Workspace workspace([&](Arena& arena) {
      walk.place(arena);
      row_sums = arena.take<LogSumExp2>(p.n());
      row_reference = arena.take<double>(p.n());
      slot_reference = arena.take<double>(walk.slot_count);
    });
    std::fill_n(row_sums, p.n(), LogSumExp2{});
    std::fill_n(slot_reference, walk.slot_count, kLowestReference);
    const RowExclusions<T> exclusions{p.exclusions};
    walk.run(
        [&](int, Range rows, Range columns, T* scores) {
          Walk::for_rows(rows, scores, [&](int64_t i, T* row) {
            exclusions.apply(row, i, columns, statistics.positive);
            row_sums[i] = merge(row_sums[i], log_sum_exp_of_row(row, columns.size()));
          });
        },
        [&](int s, Range rows) { add_block(s, rows); });
    if (global) normalize();
    walk.finish(g);
  }

  void add_block(int s, Range rows) {
    for (int64_t i = rows.first; i < rows.last; i++) statistics.negative_lse[i] = log2_value(row_sums[i]) * kLn2;
    if (global) raise_reference(s, rows);
    walk.for_tiles(s, [&](Range columns, T* tile) {
      Walk::for_rows(rows, tile, [&](int64_t i, T* row) {
        const RowWeight weight = global ? global_weight(s, i) : row_weight(i);
        weigh_row<T>(row, columns.size(), weight.negatives, nullptr, nullptr);
        set_positive_weight(p, i, columns, row, weight.positive);
      });
      walk.add_gradients(s, columns, tile);
    });
    walk.critic.end(walk.slots[s], g);
  }

  struct RowWeight {
    Normalizer<T> negatives;
    double positive;
  };

  RowWeight row_weight(int64_t i) const {
    const double weight = negative_probability(statistics.positive[i], statistics.negative_lse[i], weights);
    return {normalizer<T>(statistics.negative_lse[i], weight), -weight};
  }

  RowWeight global_weight(int s, int64_t i) const {
    const double reference = slot_reference[s];
    row_reference[i] = reference;
    if (log_partition(i) == -kInfinity) return {normalizer<T>(-kInfinity, 0), 0};
    return {normalizer<T>(reference * kLn2 - weights.negative_log_weight, 1),
            std::exp2((statistics.positive[i] + weights.positive_log_weight) * kLog2E - reference)};
  }

  double log_partition(int64_t i) const {
    return row_log_partition(statistics.positive[i], statistics.negative_lse[i], weights);
  }

  void raise_reference(int s, Range rows) {
    double highest = kLowestReference;
    for (int64_t i = rows.first; i < rows.last; i++) {
      const double log2_partition = log_partition(i) * kLog2E;
      if (log2_partition > highest && log2_partition < kInfinity) highest = log2_partition;
    }
    if (highest <= slot_reference[s] + kLazyRange<T>) return;
    walk.critic.rescale(walk.slots[s], std::exp2(slot_reference[s] - highest));
    slot_reference[s] = highest;
  }

  // Everything so far is relative to a slot's reference.
  void normalize() const {
    const double total = partition_loss(p.n(), statistics.positive, statistics.negative_lse, weights);
    auto factor = [&](double reference) { return total == -kInfinity ? 0 : std::exp2(reference - total * kLog2E); };
    for_slots(walk.slot_count, [&](int s) {
      walk.critic.rescale(walk.slots[s], factor(slot_reference[s]));
      const Range rows = part_of(p.n(), s, walk.slot_count, 1);
      for (int64_t i = rows.first; i < rows.last; i++) {
        const T row_factor = static_cast<T>(factor(row_reference[i]));
        T* out = static_cast<T*>(g.queries) + i * p.hidden;
        for (int64_t k = 0; k < p.hidden; k++) out[k] *= row_factor;
      }
    });
  }
};

}  // namespace MI_ISA
}  // namespace mi
