// Value and both gradients in one walk, 6nmd flops, for a loss that is a sum of row cross-entropies or one
// log-partition. A group of slots owns a block of queries: all its E = 2^(s - r), then, the rows' log-partitions known,
//   w_ij = c_i E_ij,   dx_i = scale c_i sum_j E_ij y_j,   dy_j += scale sum_i E_ij (c_i x_i),
// where a slot has its own part of the candidates, its own r, and so its own c.
#pragma once
#include <memory>

#include "../core/partition.h"
#include "finish-inl.h"

namespace mi {
namespace MI_ISA {

// A group keeps all E of its block of queries until the rows are summed; beyond this many bytes the scores are walked
// twice.
constexpr int64_t kLargestBlock = int64_t{64} << 20;

template <class Products>
struct FusedWalk {
  using T = typename Products::Scalar;
  struct Slot : BlockProducts<T> {
    typename Products::Slot own;
    RowSums<T> sums;
    double reference = kLowestReference;  // global partition: log2 units the group's sums are measured against
  };

  const DotProblem& p;
  const PartitionWeights& weights;
  const double* external_positive;
  const DotStatistics& statistics;
  const DotGradients& g;
  double* positive_gradient;  // [n] dL/dz_i
  BlockGrid<T> grid{p, Products::kUnit};
  bool global = weights.partition == Partition::kGlobal;
  int64_t width = padded<T>(p.dim);
  Products products = {};
  CandidateSide<T> side = {};
  std::unique_ptr<Slot[]> slots{new Slot[grid.slots()]};
  std::unique_ptr<CandidateSums<T>[]> candidate_sums{new CandidateSums<T>[grid.groups]};
  double* log_partition = nullptr;  // [n] of the negatives, log2 units
  double* scale_part = nullptr;     // [n]
  double* row_reference = nullptr;  // [n] global partition: the group's reference when the row was written

  const Slot* group_of(int s) const { return &slots[grid.first_of_group(s)]; }

  void place(Arena& arena) {
    products.place(p, arena);
    side.place(p, arena);
    log_partition = arena.take<double>(p.n());
    scale_part = arena.take<double>(p.n());
    row_reference = arena.take<double>(p.n());
    for (int s = 0; s < grid.slots(); s++) {
      slots[s].place(p, arena);
      slots[s].sums.place(arena);
      products.place_slot(p, grid.candidates(s).size(), slots[s].own, arena);
    }
    for (int group = 0; group < grid.groups; group++) candidate_sums[group].place(p, g, group, width, arena);
  }

  void prepare(int s) {
    const Range share = part_of(p.m(), s, grid.slots(), Products::kUnit), columns = grid.candidates(s);
    products.fill(p, share);
    side.fill(p, share.first, share.last, false);
    slots[s].queries.clear_marks(p);
    std::memset(candidate_sums[grid.group(s)].sums + columns.first * width, 0, columns.size() * width * sizeof(T));
  }

  void walk() {
    grid.for_blocks(
        [&](int s, int64_t block) { exponentiate(s, block); }, [&](int s, int64_t block) { finish_rows(s, block); },
        [&](int s, int64_t block) { multiply(s, block); }, [&](int s, int64_t block) { write_rows(s, block); });
  }

  void exponentiate(int s, int64_t block) {
    Slot& slot = slots[s];
    const Range rows = grid.queries(s, block);
    slot.queries.load(p, rows.first, rows.size());
    slot.sums.clear();
    if (rows.size() == 0) return;  // a group with fewer blocks than another
    products.exponentiate(p, side, slot.queries, grid.candidates(s), slot.own, slot.sums);
  }

  // Statistics of the block's rows.
  void finish_rows(int s, int64_t block) {
    const Range own = grid.own_queries(s, block);
    for (int64_t i = own.first; i < own.last; i++) {
      const int64_t b = i - slots[s].queries.first;
      LogSumExp2 sum;
      double positive = 0;
      for (const Slot* member = group_of(s); member < group_of(s) + grid.parts; member++) {
        sum = merge(sum, member->sums.at(b));
        positive += member->queries.positive[b];  // 0 where the positive is not among the member's candidates
      }
      log_partition[i] = log2_value(sum);
      statistics.negative_lse[i] = log_partition[i] * kLn2;
      if (p.exclusions.target) statistics.positive[i] = positive * kLn2;
      if (!global)
        positive_gradient[i] = -negative_probability(
            p.exclusions.target ? statistics.positive[i] : external_positive[i], statistics.negative_lse[i], weights);
    }
  }

  void multiply(int s, int64_t block) {
    Slot& slot = slots[s];
    const Range rows = grid.queries(s, block);
    if (rows.size() == 0) return;
    if (global) raise_reference(s, rows);
    for (int64_t i = rows.first; i < rows.last; i++) {
      const double base = global ? slot.reference : log_partition[i], weight = global ? 1 : -positive_gradient[i];
      const bool nothing = weight == 0 || log_partition[i] == -kInfinity;
      const double relative = std::exp2(slot.sums.reference[i - rows.first] - base);
      slot.coefficient[i - rows.first] = static_cast<T>(nothing ? 0 : weight * relative * p.scale);
    }
    products.multiply(p, slot.queries, grid.candidates(s), slot.own, slot.coefficient, slot.products,
                      candidate_sums[grid.group(s)].sums);
  }

  // Keeps every row's weight below 2^60 of the group's reference.
  void raise_reference(int s, Range rows) {
    Slot& slot = slots[s];
    double highest = kLowestReference;
    for (int64_t i = rows.first; i < rows.last; i++)
      if (log_partition[i] > highest && log_partition[i] < kInfinity) highest = log_partition[i];
    if (highest <= slot.reference + kLazyRange<T>) return;
    const T factor = static_cast<T>(std::exp2(slot.reference - highest));
    T* sums = candidate_sums[grid.group(s)].sums;
    const Range columns = grid.candidates(s);
    for (int64_t k = columns.first * width; k < columns.last * width; k++) sums[k] *= factor;
    slot.reference = highest;
  }

  void write_rows(int s, int64_t block) {
    const Range own = grid.own_queries(s, block);
    for (int64_t i = own.first; i < own.last; i++) {
      scale_part[i] = write_query_gradient<T>(p, group_of(s), grid.parts, i, g.queries) / p.scale;
      row_reference[i] = slots[s].reference;
    }
  }

  // Global partition: everything so far is relative to a group's reference; the row weights tell what it comes to.
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
    for (int group = 0; group < grid.groups; group++)
      candidate_sums[group].factor = factor(slots[group * grid.parts].reference);
  }

  void finish(int s) {
    const Range columns = part_of(p.m(), s, grid.slots(), kCandidateBlock),
                rows = part_of(p.n(), s, grid.slots(), kLanes<T>);
    join_candidate_sums(candidate_sums.get(), grid.groups, p.dim, width, columns, static_cast<T*>(g.candidates));
    if (g.queries && global)
      for (int64_t i = rows.first; i < rows.last; i++)
        for (int64_t k = 0; k < p.dim; k++)
          static_cast<T*>(g.queries)[i * p.dim + k] *= static_cast<T>(row_reference[i]);
    add_positive_gradients(p, positive_gradient, g, rows, columns, slots[s].products);
  }
};

template <class Products>
void dot_fused(const DotProblem& p, const PartitionWeights& weights, const double* external_positive,
               const DotStatistics& statistics, const DotGradients& g, double* positive_gradient) {
  FusedWalk<Products> walk{p, weights, external_positive, statistics, g, positive_gradient};
  Workspace workspace([&](Arena& arena) { walk.place(arena); });
  for_slots(walk.grid.slots(), [&](int s) { walk.prepare(s); });
  walk.walk();
  if (walk.global) walk.normalize();
  for_slots(walk.grid.slots(), [&](int s) { walk.finish(s); });
  *g.scale = scale_gradient(p, walk.scale_part, positive_gradient, statistics.positive);
}

}  // namespace MI_ISA
}  // namespace mi
