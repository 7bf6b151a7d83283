// Value and both gradients in one walk, 6nmd flops, for a loss that is a sum of row cross-entropies or one
// log-partition. A thread owns a block of queries: all its E = 2^(s - r), then, the rows' log-partitions known,
//   w_ij = c_i E_ij,   dx_i = scale c_i sum_j E_ij y_j,   dy_j += scale sum_i E_ij (c_i x_i).
#pragma once
#include <memory>

#include "../core/partition.h"
#include "finish-inl.h"

namespace mi {
namespace MI_ISA {

// A thread keeps all E of its block of queries until the rows are summed; beyond this many bytes the scores are walked
// twice.
constexpr int64_t kLargestBlock = int64_t{64} << 20;

template <class Products>
struct FusedWalk {
  using T = typename Products::Scalar;
  struct Slot {
    typename Products::Slot own;
    QueryBlock<T> queries;
    RowSums<T> sums;
    T* sums_of_products = nullptr;        // [kQueryBlock][width] sum_j E_ij y_j
    T* coefficient = nullptr;             // [kQueryBlock] c_i scale
    double reference = kLowestReference;  // global partition: log2 units the slot's sums are measured against
  };

  const DotProblem& p;
  const PartitionWeights& weights;
  const double* external_positive;
  const DotStatistics& statistics;
  const DotGradients& g;
  double* positive_gradient;  // [n] dL/dz_i
  int slot_count;
  int64_t width = padded<T>(p.dim);
  Products products = {};
  CandidateSide<T> side = {};
  std::unique_ptr<Slot[]> slots{new Slot[slot_count]};
  std::unique_ptr<CandidateSums<T>[]> candidate_sums{new CandidateSums<T>[slot_count]};
  double* scale_part = nullptr;     // [n]
  double* row_reference = nullptr;  // [n] global partition: the slot's reference when the row was written

  void place(Arena& arena) {
    products.place(p, arena);
    side.place(p, arena);
    scale_part = arena.take<double>(p.n());
    row_reference = arena.take<double>(p.n());
    for (int s = 0; s < slot_count; s++) {
      slots[s].queries.place(p, arena);
      slots[s].sums.place(arena);
      products.place_slot(p, slots[s].own, arena);
      slots[s].sums_of_products = arena.take<T>(kQueryBlock * width);
      slots[s].coefficient = arena.take<T>(kQueryBlock);
      candidate_sums[s].place(p, g, s, width, arena);
    }
  }

  void prepare(int s) {
    const Range columns = part_of(p.m(), s, slot_count, kCandidateBlock);
    products.fill(p, columns);
    side.fill(p, columns.first, columns.last, false);
    slots[s].queries.clear_marks(p);
    std::memset(candidate_sums[s].sums, 0, p.m() * width * sizeof(T));
  }

  void walk(int s) {
    Slot& slot = slots[s];
    const Range rows = part_of(p.n(), s, slot_count, kLanes<T>);
    for (int64_t i = rows.first; i < rows.last; i += kQueryBlock) {
      slot.queries.load(p, i, smaller(kQueryBlock, rows.last - i));
      slot.sums.clear();
      products.exponentiate(p, side, slot.queries, slot.own, slot.sums);
      finish_rows(s);
      products.multiply(p, slot.queries, slot.own, slot.coefficient, slot.sums_of_products, candidate_sums[s].sums);
      write_rows(slot);
    }
  }

  // Statistics of the block's rows, and the coefficients c_i.
  void finish_rows(int s) {
    Slot& slot = slots[s];
    const bool global = weights.partition == Partition::kGlobal;
    if (global) raise_slot_reference(s);
    for (int64_t b = 0; b < slot.queries.rows; b++) {
      const int64_t i = slot.queries.first + b;
      const double lse2 = log2_value(slot.sums.at(b));
      if (p.exclusions.target) statistics.positive[i] = slot.queries.positive[b] * kLn2;
      statistics.negative_lse[i] = lse2 * kLn2;
      double coefficient;
      if (global) {
        row_reference[i] = slot.reference;
        coefficient = lse2 == -kInfinity ? 0 : std::exp2(slot.sums.reference[b] - slot.reference);
      } else {
        const double positive = p.exclusions.target ? statistics.positive[i] : external_positive[i];
        const double weight = negative_probability(positive, lse2 * kLn2, weights);
        positive_gradient[i] = -weight;
        coefficient = weight == 0 ? 0 : weight * std::exp2(slot.sums.reference[b] - lse2);
      }
      slot.coefficient[b] = static_cast<T>(coefficient * p.scale);
    }
  }

  // Keeps every row's weight below 2^60 of the slot's reference.
  void raise_slot_reference(int s) {
    Slot& slot = slots[s];
    double highest = kLowestReference;
    for (int64_t b = 0; b < slot.queries.rows; b++) {
      const double lse2 = log2_value(slot.sums.at(b));
      if (lse2 > highest && lse2 < kInfinity) highest = lse2;
    }
    if (highest <= slot.reference + kLazyRange<T>) return;
    const T factor = static_cast<T>(std::exp2(slot.reference - highest));
    T* sums = candidate_sums[s].sums;
    for (int64_t k = 0; k < p.m() * width; k++) sums[k] *= factor;
    slot.reference = highest;
  }

  void write_rows(const Slot& slot) {
    for (int64_t b = 0; b < slot.queries.rows; b++) {
      const int64_t i = slot.queries.first + b;
      T* out = g.queries ? static_cast<T*>(g.queries) + i * p.dim : nullptr;
      scale_part[i] = write_query_gradient(slot.queries, b, slot.sums_of_products + b * width,
                                           static_cast<double>(slot.coefficient[b]) / p.scale, p.scale, p.dim, out);
    }
  }

  // Global partition: everything so far is relative to a slot's reference; the row weights tell what it comes to.
  void normalize() {
    const double* positive = p.exclusions.target ? statistics.positive : external_positive;
    const double total = partition_loss(p.n(), positive, statistics.negative_lse, weights);
    auto factor = [&](double reference) {
      return total == -kInfinity ? 0.0 : std::exp2(reference + (weights.negative_log_weight - total) * kLog2E);
    };
    for (int64_t i = 0; i < p.n(); i++) {
      row_reference[i] = factor(row_reference[i]);
      scale_part[i] *= row_reference[i];
      positive_gradient[i] =
          positive && total > -kInfinity ? std::exp(positive[i] + weights.positive_log_weight - total) : 0;
    }
    for (int s = 0; s < slot_count; s++) candidate_sums[s].factor = factor(slots[s].reference);
  }

  void finish(int s) {
    const Range columns = part_of(p.m(), s, slot_count, kCandidateBlock),
                rows = part_of(p.n(), s, slot_count, kLanes<T>);
    join_candidate_sums(candidate_sums.get(), slot_count, p.dim, width, columns, static_cast<T*>(g.candidates));
    if (g.queries && weights.partition == Partition::kGlobal)
      for (int64_t i = rows.first; i < rows.last; i++)
        for (int64_t k = 0; k < p.dim; k++)
          static_cast<T*>(g.queries)[i * p.dim + k] *= static_cast<T>(row_reference[i]);
    add_positive_gradients(p, positive_gradient, g, rows, columns, slots[s].sums_of_products);
  }
};

template <class Products>
void dot_fused(const DotProblem& p, const PartitionWeights& weights, const double* external_positive,
               const DotStatistics& statistics, const DotGradients& g, double* positive_gradient) {
  const int slots = slots_for(p.threads, round_up(p.n(), kLanes<float>) / kLanes<float>);
  FusedWalk<Products> walk{p, weights, external_positive, statistics, g, positive_gradient, slots};
  Workspace workspace([&](Arena& arena) { walk.place(arena); });
  for_slots(slots, [&](int s) { walk.prepare(s); });
  for_slots(slots, [&](int s) { walk.walk(s); });
  if (weights.partition == Partition::kGlobal) walk.normalize();
  for_slots(slots, [&](int s) { walk.finish(s); });
  *g.scale = scale_gradient(p, walk.scale_part, positive_gradient, statistics.positive);
}

}  // namespace MI_ISA
}  // namespace mi
