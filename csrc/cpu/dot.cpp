// The walks over dot scores: gradients for any upstream, softplus sums, and the table of them all.
#include "families-inl.h"
#include "fused-inl.h"
#include "gradient-inl.h"
#include "statistics-inl.h"

namespace mi {
namespace MI_ISA {

template <class T>
void row_gradient(const DotProblem& p, const UpstreamGradients& up, const double* positive, const DotGradients& g) {
  GradientWalk<T> walk{p, g, up.positive};
  Workspace workspace([&](Arena& arena) { walk.place(arena); });
  for_slots(walk.slot_count, [&](int s) { walk.prepare(s, false); });
  for_slots(walk.slot_count, [&](int s) {
    auto begin = [&](typename GradientWalk<T>::Slot& slot) {
      for (int64_t b = 0; b < slot.queries.rows; b++) {
        const int64_t i = slot.queries.first + b;
        const Normalizer<T> row = normalizer<T>(up.negative_lse_value[i], up.negative_lse[i]);
        slot.lane_a[b] = row.reference;
        slot.coefficient[b] = row.factor * static_cast<T>(p.scale);
      }
      for (int64_t b = slot.queries.rows; b < kQueryBlock; b++) slot.lane_a[b] = 0;
      return RowWeights<T>{slot.lane_a};
    };
    walk.walk(s, true, begin, [](auto&) {}, [](auto&) {});
  });
  for_slots(walk.slot_count, [&](int s) { walk.finish(s); });
  *g.scale = scale_gradient(p, walk.scale_part, up.positive, positive);
}

template <class T>
void row_column_gradient(const DotProblem& p, const UpstreamGradients& up, const double* positive,
                         const DotGradients& g) {
  GradientWalk<T> walk{p, g, up.positive};
  T *column_reference = nullptr, *column_factor = nullptr;
  Workspace workspace([&](Arena& arena) {
    walk.place(arena);
    column_reference = arena.take<T>(p.m());
    column_factor = arena.take<T>(p.m());
  });
  for_slots(walk.slot_count, [&](int s) {
    walk.prepare(s, false);
    const Range columns = part_of(p.m(), s, walk.slot_count, kCandidateBlock);
    for (int64_t j = columns.first; j < columns.last; j++) {
      const Normalizer<T> column = normalizer<T>(up.column_negative_lse_value[j], up.column_negative_lse[j]);
      column_reference[j] = column.reference;
      column_factor[j] = column.factor;
    }
  });
  for_slots(walk.slot_count, [&](int s) {
    auto begin = [&](typename GradientWalk<T>::Slot& slot) {
      for (int64_t b = 0; b < kQueryBlock; b++) {
        const int64_t i = slot.queries.first + b;
        const bool row = up.negative_lse && b < slot.queries.rows;
        const Normalizer<T> r =
            normalizer<T>(row ? up.negative_lse_value[i] : -kInfinity, row ? up.negative_lse[i] : 0);
        slot.lane_a[b] = r.reference;
        slot.lane_b[b] = r.factor;
        slot.coefficient[b] = static_cast<T>(p.scale);
      }
      return RowColumnWeights<T>{slot.lane_a, slot.lane_b, column_reference, column_factor};
    };
    walk.walk(s, true, begin, [](auto&) {}, [](auto&) {});
  });
  for_slots(walk.slot_count, [&](int s) { walk.finish(s); });
  *g.scale = scale_gradient(p, walk.scale_part, up.positive, positive);
}

template <class T>
void softplus_sum(const DotProblem& p, double* positive, double* value, const DotGradients& g) {
  GradientWalk<T> walk{p, g, nullptr};
  double *row_value = nullptr, *row_weight = nullptr;
  Workspace workspace([&](Arena& arena) {
    walk.place(arena);
    row_value = arena.take<double>(p.n());
    row_weight = arena.take<double>(p.n());
  });
  for_slots(walk.slot_count, [&](int s) { walk.prepare(s, true); });
  for_slots(walk.slot_count, [&](int s) {
    auto begin = [&](typename GradientWalk<T>::Slot& slot) {
      for (int64_t b = 0; b < kQueryBlock; b++) {
        slot.lane_a[b] = slot.lane_b[b] = 0;
        slot.coefficient[b] = static_cast<T>(p.scale);
      }
      for (int64_t b = 0; b < slot.queries.rows; b++)
        row_value[slot.queries.first + b] = row_weight[slot.queries.first + b] = 0;
      return SoftplusWeights<T>{slot.lane_a, slot.lane_b, walk.side.log_weight};
    };
    auto fold = [&](typename GradientWalk<T>::Slot& slot) {
      for (int64_t b = 0; b < slot.queries.rows; b++) {
        row_value[slot.queries.first + b] += slot.lane_a[b];
        row_weight[slot.queries.first + b] += slot.lane_b[b];
      }
      for (int64_t b = 0; b < kQueryBlock; b++) slot.lane_a[b] = slot.lane_b[b] = 0;
    };
    auto end = [&](typename GradientWalk<T>::Slot& slot) {
      if (p.exclusions.target)
        for (int64_t b = 0; b < slot.queries.rows; b++)
          positive[slot.queries.first + b] = slot.queries.positive[b] * kLn2;
    };
    walk.walk(s, false, begin, fold, end);
  });
  for_slots(walk.slot_count, [&](int s) { walk.finish(s); });
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

DotKernels dot_kernels() {
  return {
      [](const DotProblem& p, const DotStatistics& statistics) {
        p.dtype == Dtype::kFloat64 ? dot_statistics<double>(p, statistics) : dot_statistics<float>(p, statistics);
      },
      [](const DotProblem& p, const PartitionWeights& weights, const double* external_positive,
         const DotStatistics& statistics, const DotGradients& g, double* positive_gradient) {
        const auto run = p.dtype == Dtype::kFloat64 ? fused<double> : fused<float>;
        run(p, weights, external_positive, statistics, g, positive_gradient);
      },
      [](const DotProblem& p, const UpstreamGradients& up, const double* positive, const DotGradients& g) {
        const bool wide = p.dtype == Dtype::kFloat64;
        const auto run = up.column_negative_lse ? (wide ? row_column_gradient<double> : row_column_gradient<float>)
                                                : (wide ? row_gradient<double> : row_gradient<float>);
        run(p, up, positive, g);
      },
      [](const DotProblem& p, double* positive, double* value, const DotGradients& g) {
        const auto run = p.dtype == Dtype::kFloat64 ? softplus_sum<double> : softplus_sum<float>;
        run(p, positive, value, g);
      },
  };
}

}  // namespace MI_ISA
}  // namespace mi
