// The three partitions of two query sets on the same candidates: statistics, a known objective with its gradients, and
// gradients for any upstream.
#include "families-inl.h"
#include "importance-inl.h"

namespace mi {
namespace MI_ISA {

// Beyond this many bytes of exponentials a thread computes them twice: memory is no faster, and a bank is long.
constexpr int64_t kMostKept = int64_t{24} << 20;

template <class T>
ImportanceRow finish_row(const typename ImportanceWalk<T>::Slot& slot, int64_t b, int64_t i, bool has_target,
                         const ImportanceStatistics& out) {
  ImportanceRow row = {};
  for (int k = 0; k < 3; k++) out.negative_lse[k][i] = row.negative_lse[k] = log2_value(slot.sums[k].at(b)) * kLn2;
  if (has_target)
    for (int h = 0; h < 2; h++) out.positive[h][i] = row.positive[h] = slot.side[h].queries.positive[b] * kLn2;
  return row;
}

template <class T>
void finish_gradients(ImportanceWalk<T>& walk, const double* const* positive_gradient, const double* const* positive) {
  for_slots(walk.slot_count, [&](int s) { walk.finish(s, positive_gradient); });
  for (int h = 0; h < 2; h++)
    *walk.g->scale[h] = scale_gradient(*walk.p[h], walk.scale_part[h], positive_gradient[h], positive[h]);
}

template <class T>
void importance_statistics(const ImportanceProblem& p, const ImportanceStatistics& statistics) {
  ImportanceWalk<T> walk{{&p.first, &p.second}, nullptr, false};
  Workspace workspace([&](Arena& arena) { walk.place(arena); });
  const bool has_target = p.first.exclusions.target;
  for_slots(walk.slot_count, [&](int s) { walk.prepare(s); });
  for_slots(walk.slot_count, [&](int s) {
    walk.walk(s, true, [&](auto& slot, int64_t b, int64_t i) { finish_row<T>(slot, b, i, has_target, statistics); });
  });
}

template <class T>
void importance_fused(const ImportanceProblem& p, const ImportanceObjective& objective,
                      const ImportanceStatistics& statistics, const ImportanceGradients& g,
                      double* const* positive_gradient) {
  const bool keep = 3 * p.first.m() * kQueryBlock * static_cast<int64_t>(sizeof(T)) <= kMostKept;
  ImportanceWalk<T> walk{{&p.first, &p.second}, &g, keep};
  Workspace workspace([&](Arena& arena) { walk.place(arena); });
  const bool has_target = p.first.exclusions.target;
  for_slots(walk.slot_count, [&](int s) { walk.prepare(s); });
  for_slots(walk.slot_count, [&](int s) {
    walk.walk(s, true, [&](auto& slot, int64_t b, int64_t i) {
      ImportanceRow row = finish_row<T>(slot, b, i, has_target, statistics);
      if (!has_target)
        for (int h = 0; h < 2; h++) row.positive[h] = objective.external_positive[h][i];
      const ImportanceRow gradient = importance_row_gradient(row, objective.log_mass[i], objective);
      slot.set_factors(b, row.negative_lse, gradient.negative_lse, objective.weights_detached);
      for (int h = 0; h < 2; h++) positive_gradient[h][i] = gradient.positive[h];
    });
  });
  finish_gradients(walk, positive_gradient, statistics.positive);
}

template <class T>
void importance_gradient(const ImportanceProblem& p, const ImportanceStatistics& statistics,
                         const ImportanceUpstream& up, const ImportanceGradients& g) {
  ImportanceWalk<T> walk{{&p.first, &p.second}, &g, false};
  Workspace workspace([&](Arena& arena) { walk.place(arena); });
  for_slots(walk.slot_count, [&](int s) { walk.prepare(s); });
  for_slots(walk.slot_count, [&](int s) {
    walk.walk(s, false, [&](auto& slot, int64_t b, int64_t i) {
      ImportanceRow lse = {}, gradient = {};
      for (int k = 0; k < 3; k++) {
        lse.negative_lse[k] = statistics.negative_lse[k][i];
        gradient.negative_lse[k] = up.negative_lse[k] ? up.negative_lse[k][i] : 0;
      }
      slot.set_factors(b, lse.negative_lse, gradient.negative_lse, up.weights_detached);
    });
  });
  finish_gradients(walk, up.positive, statistics.positive);
}

ImportanceKernels importance_kernels() {
  return {
      [](const ImportanceProblem& p, const ImportanceStatistics& statistics) {
        const bool wide = p.first.dtype == Dtype::kFloat64;
        (wide ? importance_statistics<double> : importance_statistics<float>)(p, statistics);
      },
      [](const ImportanceProblem& p, const ImportanceObjective& objective, const ImportanceStatistics& statistics,
         const ImportanceGradients& g, double* const* positive_gradient) {
        const bool wide = p.first.dtype == Dtype::kFloat64;
        (wide ? importance_fused<double> : importance_fused<float>)(p, objective, statistics, g, positive_gradient);
      },
      [](const ImportanceProblem& p, const ImportanceStatistics& statistics, const ImportanceUpstream& up,
         const ImportanceGradients& g) {
        const bool wide = p.first.dtype == Dtype::kFloat64;
        (wide ? importance_gradient<double> : importance_gradient<float>)(p, statistics, up, g);
      },
  };
}

}  // namespace MI_ISA
}  // namespace mi
