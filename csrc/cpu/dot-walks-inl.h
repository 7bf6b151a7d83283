// What the operators ask of dot scores, each a walk: gradients for any upstream, softplus sums, a fused objective.
#pragma once
#include "fused-inl.h"
#include "gradient-inl.h"
#include "statistics-inl.h"

namespace mi {
namespace MI_ISA {

constexpr auto nothing = [](auto...) {};

template <class T>
void row_gradient(const DotProblem& p, const UpstreamGradients& up, const double* positive, const DotGradients& g) {
  GradientWalk<T> walk{p, g, up.positive, false};
  Workspace workspace([&](Arena& arena) { walk.place(arena); });
  for_slots(walk.grid.slots(), [&](int s) { walk.prepare(s); });
  auto begin = [&](int s) {
    typename GradientWalk<T>::Slot& slot = walk.slots[s];
    for (int64_t b = 0; b < slot.queries.rows; b++) {
      const int64_t i = slot.queries.first + b;
      const Normalizer<T> row = normalizer<T>(up.negative_lse_value[i], up.negative_lse[i]);
      slot.lane_a[b] = row.reference;
      slot.coefficient[b] = row.factor * static_cast<T>(p.scale);
    }
    for (int64_t b = slot.queries.rows; b < kQueryBlock; b++) slot.lane_a[b] = 0;
    return RowWeights<T>{slot.lane_a};
  };
  walk.walk(begin, nothing, nothing);
  for_slots(walk.grid.slots(), [&](int s) { walk.finish(s); });
  *g.scale = scale_gradient(p, walk.scale_part, up.positive, positive);
}

template <class T>
void row_column_gradient(const DotProblem& p, const UpstreamGradients& up, const double* positive,
                         const DotGradients& g) {
  GradientWalk<T> walk{p, g, up.positive, false};
  T *column_reference = nullptr, *column_factor = nullptr;
  Workspace workspace([&](Arena& arena) {
    walk.place(arena);
    column_reference = arena.take<T>(p.m());
    column_factor = arena.take<T>(p.m());
  });
  for_slots(walk.grid.slots(), [&](int s) {
    walk.prepare(s);
    const Range columns = part_of(p.m(), s, walk.grid.slots(), kCandidateBlock);
    for (int64_t j = columns.first; j < columns.last; j++) {
      const Normalizer<T> column = normalizer<T>(up.column_negative_lse_value[j], up.column_negative_lse[j]);
      column_reference[j] = column.reference;
      column_factor[j] = column.factor;
    }
  });
  auto begin = [&](int s) {
    typename GradientWalk<T>::Slot& slot = walk.slots[s];
    for (int64_t b = 0; b < kQueryBlock; b++) {
      const int64_t i = slot.queries.first + b;
      const bool row = up.negative_lse && b < slot.queries.rows;
      const Normalizer<T> r = normalizer<T>(row ? up.negative_lse_value[i] : -kInfinity, row ? up.negative_lse[i] : 0);
      slot.lane_a[b] = r.reference;
      slot.lane_b[b] = r.factor;
      slot.coefficient[b] = static_cast<T>(p.scale);
    }
    return RowColumnWeights<T>{slot.lane_a, slot.lane_b, column_reference, column_factor};
  };
  walk.walk(begin, nothing, nothing);
  for_slots(walk.grid.slots(), [&](int s) { walk.finish(s); });
  *g.scale = scale_gradient(p, walk.scale_part, up.positive, positive);
}

template <class T>
void softplus_sum(const DotProblem& p, double* positive, double* value, const DotGradients& g) {
  GradientWalk<T> walk{p, g, nullptr, true};
  double *slot_value = nullptr, *slot_weight = nullptr;  // [slots][kQueryBlock] of the block in hand
  double *row_value = nullptr, *row_weight = nullptr;    // [n]
  Workspace workspace([&](Arena& arena) {
    walk.place(arena);
    slot_value = arena.take<double>(walk.grid.slots() * kQueryBlock);
    slot_weight = arena.take<double>(walk.grid.slots() * kQueryBlock);
    row_value = arena.take<double>(p.n());
    row_weight = arena.take<double>(p.n());
  });
  for_slots(walk.grid.slots(), [&](int s) { walk.prepare(s); });
  auto begin = [&](int s) {
    typename GradientWalk<T>::Slot& slot = walk.slots[s];
    for (int64_t b = 0; b < kQueryBlock; b++) {
      slot.lane_a[b] = slot.lane_b[b] = 0;
      slot_value[s * kQueryBlock + b] = slot_weight[s * kQueryBlock + b] = 0;
      slot.coefficient[b] = static_cast<T>(p.scale);
    }
    return SoftplusWeights<T>{slot.lane_a, slot.lane_b, walk.side.log_weight};
  };
  auto fold = [&](int s) {
    typename GradientWalk<T>::Slot& slot = walk.slots[s];
    for (int64_t b = 0; b < kQueryBlock; b++) {
      slot_value[s * kQueryBlock + b] += slot.lane_a[b];
      slot_weight[s * kQueryBlock + b] += slot.lane_b[b];
      slot.lane_a[b] = slot.lane_b[b] = 0;
    }
  };
  auto end = [&](int s, int64_t i) {
    const int first = walk.grid.first_of_group(s);
    const int64_t b = i - walk.slots[s].queries.first;
    double positive_score = 0;
    row_value[i] = row_weight[i] = 0;
    for (int other = first; other < first + walk.grid.parts; other++) {
      row_value[i] += slot_value[other * kQueryBlock + b], row_weight[i] += slot_weight[other * kQueryBlock + b];
      positive_score += walk.slots[other].queries.positive[b];
    }
    if (p.exclusions.target) positive[i] = positive_score * kLn2;
  };
  walk.walk(begin, fold, end);
  for_slots(walk.grid.slots(), [&](int s) { walk.finish(s); });
  *value = *g.bias = 0;
  for (int64_t i = 0; i < p.n(); i++) *value += row_value[i], *g.bias += row_weight[i];
  *g.scale = g.queries ? scale_gradient(p, walk.scale_part, nullptr, positive) : 0;
}

template <class T>
void fused(const DotProblem& p, const PartitionWeights& weights, const double* external_positive,
           const DotStatistics& statistics, const DotGradients& g, double* positive_gradient) {
  if (g.candidates == nullptr)
    return dot_fused_queries<T>(p, weights, external_positive, statistics, g, positive_gradient);
  if (PlainProducts<T>::bytes_kept(p.m()) <= kLargestBlock)
    return dot_fused<PlainProducts<T>>(p, weights, external_positive, statistics, g, positive_gradient);
  dot_statistics<T>(p, statistics);
  double* row_weight = nullptr;
  Workspace workspace([&](Arena& arena) { row_weight = arena.take<double>(p.n()); });
  const double* positive = p.exclusions.target ? statistics.positive : external_positive;
  partition_gradients(p.n(), positive, statistics.negative_lse, weights, row_weight, positive_gradient);
  const UpstreamGradients up{statistics.negative_lse, row_weight, nullptr, nullptr, positive_gradient};
  row_gradient<T>(p, up, statistics.positive, g);
}

}  // namespace MI_ISA
}  // namespace mi
